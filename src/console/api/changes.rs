//! The change log.

use std::fmt::Write as _;

use axum::{Json, extract::State, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    extract::{Params, Problems},
    log::{Form, file},
    plain::plain,
    shapes::ChangeShape,
    webhooks::Which,
};
use crate::{
    commands::{Change, MOST_CHANGES},
    console::{Console, Shared, identity::Caller, problem::Problem},
    model::ids::WebhookId,
};

/// Which changes.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhichChanges {
    /// Only those of this workspace.
    pub workspace_id: Option<String>,
    /// Only those of this webhook, also if it was deleted.
    pub webhook_id: Option<String>,
    /// At most so many; 100 unless given.
    #[param(minimum = 1, maximum = 1000)]
    pub count: Option<usize>,
}

/// Which changes, and in which form.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ChangesDownload {
    /// Only those of this workspace.
    pub workspace_id: Option<String>,
    /// Only those of this webhook, also if it was deleted.
    pub webhook_id: Option<String>,
    /// `json` unless given.
    #[param(inline)]
    pub format: Option<Form>,
}

/// Who changed what, newest first.
#[utoipa::path(get, path = "/changes", params(WhichChanges), responses((status = 200, body = Vec<ChangeShape>), Problems))]
pub async fn list(
    State(console): State<Shared>,
    caller: Caller,
    Params(which): Params<WhichChanges>,
) -> Result<Json<Vec<ChangeShape>>, Problem> {
    let count = which.count.unwrap_or(100);
    if !(1..=1000).contains(&count) {
        return Err(Problem::invalid(format!("`count` is `{count}`, expected 1 to 1000")));
    }
    let webhook = which.webhook_id.as_deref();
    let changes = console.changes(&caller, which.workspace_id, webhook, count).await?;
    Ok(Json(changes.into_iter().map(Into::into).collect()))
}

/// The change log as a file: the 10,000 newest changes.
#[utoipa::path(get, path = "/changes/download", params(ChangesDownload), responses((status = 200, content((Vec<ChangeShape> = "application/json"), (String = "text/plain; charset=utf-8"))), Problems))]
pub async fn download(
    State(console): State<Shared>,
    caller: Caller,
    Params(which): Params<ChangesDownload>,
) -> Result<Response, Problem> {
    let webhook = which.webhook_id.as_deref();
    let changes = console.changes(&caller, which.workspace_id, webhook, MOST_CHANGES).await?;
    if which.format == Some(Form::Text) {
        return Ok(file(readable(&changes), "text/plain; charset=utf-8", "changes.txt"));
    }
    let shapes: Vec<ChangeShape> = changes.into_iter().map(Into::into).collect();
    let text = serde_json::to_string_pretty(&shapes).unwrap_or_default();
    Ok(file(text, "application/json", "changes.json"))
}

/// A change log for people.
pub fn readable(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let Change { at, what, webhook_id, fields, .. } = change;
        let (by, label, webhook_id) = (plain(&change.by), plain(&change.label), plain(webhook_id.as_str()));
        // Writing to a string can't fail.
        let _ = writeln!(text, "{at}  {by}  {what}  {label} ({webhook_id})");
        for field in fields {
            let (from, to) = (field.from.to_string(), field.to.to_string());
            let _ = writeln!(text, "    {}: {} -> {}", plain(&field.field), plain(&from), plain(&to));
        }
    }
    if changes.is_empty() { "No changes yet.\n".to_owned() } else { text }
}

impl Console {
    /// The newest changes that a caller may see.
    pub(in crate::console) async fn changes(
        &self,
        caller: &Caller,
        workspace: Option<String>,
        webhook: Option<&str>,
        count: usize,
    ) -> Result<Vec<Change>, Problem> {
        let workspace = Which { workspace_id: workspace }.workspace(caller)?;
        let webhook = webhook.map(WebhookId::parse).transpose();
        let webhook = webhook.map_err(|error| Problem::invalid(format!("`webhook_id` is {error}")))?;
        Ok(self.changes.newest(workspace.as_ref(), webhook.as_ref(), count).await?)
    }
}

//! The change log.

use std::fmt::Write as _;

use axum::{Json, extract::State, response::Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    extract::{Params, Problems},
    log::{Form, file},
    shapes::ChangeShape,
    webhooks::Which,
};
use crate::{
    commands::Change,
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
    let changes = console.changes(&caller, which.workspace_id, which.webhook_id.as_deref()).await?;
    Ok(Json(changes.into_iter().take(count).map(Into::into).collect()))
}

/// The change log as a file.
#[utoipa::path(get, path = "/changes/download", params(ChangesDownload), responses((status = 200, content((Vec<ChangeShape> = "application/json"), (String = "text/plain; charset=utf-8"))), Problems))]
pub async fn download(
    State(console): State<Shared>,
    caller: Caller,
    Params(which): Params<ChangesDownload>,
) -> Result<Response, Problem> {
    let changes = console.changes(&caller, which.workspace_id, which.webhook_id.as_deref()).await?;
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
        let Change { at, by, what, label, webhook_id, fields, .. } = change;
        // Writing to a string can't fail.
        let _ = writeln!(text, "{at}  {by}  {what}  {label} ({webhook_id})");
        for field in fields {
            let _ = writeln!(text, "    {}: {} -> {}", field.field, field.from, field.to);
        }
    }
    if changes.is_empty() { "No changes yet.\n".to_owned() } else { text }
}

impl Console {
    /// The changes that a caller may see.
    pub(in crate::console) async fn changes(
        &self,
        caller: &Caller,
        workspace: Option<String>,
        webhook: Option<&str>,
    ) -> Result<Vec<Change>, Problem> {
        let workspace = Which { workspace_id: workspace }.workspace(caller)?;
        let webhook = webhook.map(WebhookId::parse).transpose();
        let webhook = webhook.map_err(|error| Problem::invalid(format!("`webhook_id` is {error}")))?;
        Ok(self.commands.changes(workspace.as_ref(), webhook.as_ref()).await?)
    }
}

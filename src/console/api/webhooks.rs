//! Webhooks and their settings.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    extract::{Body, Params, Problems, Theirs},
    shapes::{BasedOn, NewWebhook, Webhook, WebhookPatch, WorkspaceShape},
};
use crate::{
    commands::{CommandError, Patch},
    console::{Console, Shared, identity::Caller, problem::Problem},
    model::{
        ids::{WebhookId, WorkspaceId},
        webhook::Owner,
    },
};

/// Which webhooks.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Which {
    /// Only those of this workspace.
    pub workspace_id: Option<String>,
}

impl Which {
    /// The workspace that is meant; none: all, to an admin.
    pub fn workspace(&self, caller: &Caller) -> Result<Option<WorkspaceId>, Problem> {
        let named = self.workspace_id.as_deref().map(WorkspaceId::parse).transpose();
        let named = named.map_err(|error| Problem::invalid(format!("`workspace_id` is {error}")))?;
        match (named, &caller.workspace) {
            (Some(named), _) if !caller.sees(&named) => {
                Err(Problem::missing(format!("workspace `{named}` does not exist")))
            }
            (Some(named), _) => Ok(Some(named)),
            (None, own) => Ok(own.clone()),
        }
    }
}

/// The workspaces that have webhooks: all, or the caller's.
#[utoipa::path(get, path = "/workspaces", responses((status = 200, body = Vec<WorkspaceShape>), Problems))]
pub async fn workspaces(
    State(console): State<Shared>,
    caller: Caller,
) -> Result<Json<Vec<WorkspaceShape>>, Problem> {
    let all = console.commands.workspaces().await?;
    let theirs = all.into_iter().filter(|(workspace, _)| caller.sees(workspace));
    let shape = |(workspace, webhooks): (WorkspaceId, usize)| WorkspaceShape {
        workspace_id: workspace.into(),
        webhooks,
    };
    Ok(Json(theirs.map(shape).collect()))
}

/// The webhooks of a workspace.
#[utoipa::path(get, path = "/webhooks", params(Which), responses((status = 200, body = Vec<Webhook>), Problems))]
pub async fn list(
    State(console): State<Shared>,
    caller: Caller,
    Params(which): Params<Which>,
) -> Result<Json<Vec<Webhook>>, Problem> {
    let workspace = which.workspace(&caller)?;
    let views = console.commands.list(workspace.as_ref()).await?;
    Ok(Json(views.into_iter().map(Into::into).collect()))
}

/// Create a webhook.
#[utoipa::path(post, path = "/webhooks", request_body = NewWebhook, responses((status = 201, body = Webhook), Problems))]
pub async fn create(
    State(console): State<Shared>,
    caller: Caller,
    Body(new): Body<NewWebhook>,
) -> Result<(StatusCode, Json<Webhook>), Problem> {
    let named = Which { workspace_id: new.workspace_id.clone() };
    let workspace = named.workspace(&caller)?.ok_or_else(|| {
        Problem::invalid("`workspace_id` is missing, expected one, since an admin token belongs to none")
    })?;
    let id = console.create(&caller, &workspace, new.patch()).await?;
    Ok((StatusCode::CREATED, Json(console.commands.show(&id).await?.into())))
}

/// A webhook.
#[utoipa::path(get, path = "/webhooks/{webhook_id}", params(("webhook_id" = String, Path)), responses((status = 200, body = Webhook), Problems))]
pub async fn read(State(console): State<Shared>, theirs: Theirs) -> Result<Json<Webhook>, Problem> {
    Ok(Json(console.commands.show(&theirs.id).await?.into()))
}

/// Change the settings of a webhook, if they still have the version that the change is based on.
#[utoipa::path(patch, path = "/webhooks/{webhook_id}", params(("webhook_id" = String, Path)), request_body = WebhookPatch, responses((status = 200, body = Webhook), Problems))]
pub async fn update(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(patch): Body<WebhookPatch>,
) -> Result<Json<Webhook>, Problem> {
    let (id, caller) = theirs.editor()?;
    console.must_be_editable()?;
    let version = patch.version;
    console.commands.by(&caller.name).update(&id, patch.into(), Some(version)).await?;
    Ok(Json(console.commands.show(&id).await?.into()))
}

/// Delete a webhook: what is open or waits is dropped.
#[utoipa::path(delete, path = "/webhooks/{webhook_id}", params(("webhook_id" = String, Path), BasedOn), responses((status = 204), Problems))]
pub async fn delete(
    State(console): State<Shared>,
    theirs: Theirs,
    Params(based): Params<BasedOn>,
) -> Result<StatusCode, Problem> {
    let (id, caller) = theirs.editor()?;
    console.must_be_editable()?;
    console.commands.by(&caller.name).delete(&id, based.version).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Console {
    /// Refuses edits where a system upstream writes the settings.
    pub(in crate::console) fn must_be_editable(&self) -> Result<(), Problem> {
        if self.editable {
            return Ok(());
        }
        Err(Problem::forbidden("settings are written by another system (`BUNDLEHOOK_SETTINGS=upstream`)"))
    }

    /// Creates a webhook for a caller. Its owner is the one that is given, or that the token or another webhook of the
    /// workspace names.
    pub(in crate::console) async fn create(
        &self,
        caller: &Caller,
        workspace: &WorkspaceId,
        mut patch: Patch,
    ) -> Result<WebhookId, Problem> {
        caller.must_edit()?;
        self.must_be_editable()?;
        if patch.owner.is_none() {
            patch.owner = self.owner(caller, workspace);
        }
        if patch.owner.is_none() {
            let detail = "`owner` is missing, expected `full_name` and `email` of the workspace's owner";
            return Err(CommandError::Invalid(detail.to_owned()).into());
        }
        Ok(self.commands.by(&caller.name).create(workspace, patch, self.max_webhooks).await?)
    }

    /// The owner of a workspace, if the caller's token or a webhook names one.
    pub(in crate::console) fn owner(&self, caller: &Caller, workspace: &WorkspaceId) -> Option<Owner> {
        caller.owner.clone().or_else(|| self.commands.owner_of(workspace))
    }
}

//! The list of webhooks, and the change log.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{Frame, Visitor, failed, show::Hook, written};
use crate::console::{Shared, identity::Caller, problem::Problem};

/// So many changes are shown; more of them are in the download.
const CHANGES: usize = 200;

#[derive(Template)]
#[template(path = "list.html", config = ".askama.toml")]
struct ListPage {
    frame: Frame,
    hooks: Vec<Hook>,
    editable: bool,
    show_workspace: bool,
}

#[derive(Template)]
#[template(path = "list_rows.html", config = ".askama.toml")]
struct Rows {
    hooks: Vec<Hook>,
    editable: bool,
    show_workspace: bool,
}

struct ChangeRow {
    at: String,
    by: String,
    label: String,
    what: &'static str,
    fields: Vec<FieldRow>,
}

struct FieldRow {
    name: String,
    from: String,
    to: String,
}

#[derive(Template)]
#[template(path = "changes.html", config = ".askama.toml")]
struct ChangesPage {
    frame: Frame,
    changes: Vec<ChangeRow>,
}

async fn hooks(console: &Shared, caller: &Caller) -> Result<Vec<Hook>, Problem> {
    let views = console.commands.list(caller.workspace.as_ref()).await?;
    Ok(views.iter().map(|view| Hook::new(view, &console.rule, console.editable)).collect())
}

pub async fn page(State(console): State<Shared>, Visitor(caller): Visitor) -> Response {
    let frame = Frame::new(&console, &caller);
    let (editable, show_workspace) = (frame.edits && frame.editable, caller.workspace.is_none());
    match hooks(&console, &caller).await {
        Ok(hooks) => written(&ListPage { frame, hooks, editable, show_workspace }),
        Err(problem) => failed(&problem),
    }
}

pub async fn rows(State(console): State<Shared>, Visitor(caller): Visitor) -> Response {
    let (editable, show_workspace) = (caller.edits() && console.editable, caller.workspace.is_none());
    match hooks(&console, &caller).await {
        Ok(hooks) => written(&Rows { hooks, editable, show_workspace }),
        Err(problem) => failed(&problem),
    }
}

pub async fn changes(State(console): State<Shared>, Visitor(caller): Visitor) -> Response {
    let frame = Frame::new(&console, &caller);
    let changes = match console.changes(&caller, None, None, CHANGES).await {
        Ok(changes) => changes,
        Err(problem) => return failed(&problem),
    };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::Null => "nothing".to_owned(),
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    let row = |change: crate::commands::Change| ChangeRow {
        what: match change.what.as_str() {
            "created" => "created it",
            "deleted" => "deleted it",
            "disabled" => "disabled it, since it failed too often",
            "enabled" => "enabled it again",
            "discarded" => "discarded what was held",
            _ => "changed it",
        },
        label: if change.label.is_empty() { change.webhook_id.to_string() } else { change.label },
        at: change.at,
        by: change.by,
        fields: change
            .fields
            .into_iter()
            .map(|field| FieldRow { name: field.field, from: text(field.from), to: text(field.to) })
            .collect(),
    };
    written(&ChangesPage { frame, changes: changes.into_iter().map(row).collect() })
}

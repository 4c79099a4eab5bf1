//! The console: pages that the server writes, and parts of them that htmx replaces.

mod actions;
mod assets;
mod form;
mod list;
mod mails;
mod session;
mod show;
mod webhook;

use askama::Template;
use axum::{
    Router,
    extract::FromRequestParts,
    http::{HeaderValue, StatusCode, request::Parts},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};

use super::{Shared, identity::Caller, problem::Problem};
use crate::model::ids::WebhookId;

/// The pages.
pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(list::page))
        .route("/list", get(list::rows))
        .route("/changes", get(list::changes))
        .route("/mails", get(mails::page))
        .route("/check-url", post(form::check_url))
        .route("/webhooks", post(form::create))
        .route("/webhooks/new", get(form::new))
        .route("/webhooks/{id}", get(webhook::page))
        .route("/webhooks/{id}/state", get(webhook::state))
        .route("/webhooks/{id}/log", get(webhook::log))
        .route("/webhooks/{id}/settings", post(form::update))
        .route("/webhooks/{id}/test", post(actions::test))
        .route("/webhooks/{id}/enable", post(actions::enable))
        .route("/webhooks/{id}/disable", post(actions::disable))
        .route("/webhooks/{id}/resend", post(actions::resend))
        .route("/webhooks/{id}/rotate", post(actions::rotate))
        .route("/webhooks/{id}/end-rotation", post(actions::end_rotation))
        .route("/webhooks/{id}/delete", post(actions::delete))
        .route("/sign-in", get(session::link).post(session::sign_in))
        .route("/sign-out", post(session::sign_out))
        .route("/assets/{name}", get(assets::asset))
}

/// Whoever looks at a page. Without a token they are led to the page where one signs in.
pub struct Visitor(pub Caller);

impl FromRequestParts<Shared> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Response> {
        let caller = Caller::from_request_parts(parts, console).await;
        let is_part = parts.headers.contains_key("hx-request");
        caller.map(Self).map_err(|problem| match problem.status {
            401 if is_part => {
                let mut response = StatusCode::UNAUTHORIZED.into_response();
                response.headers_mut().insert("hx-redirect", HeaderValue::from_static("/sign-in"));
                response
            }
            401 => Redirect::to("/sign-in").into_response(),
            _ => failed(&problem),
        })
    }
}

/// A webhook that the visitor may see.
pub struct Visited {
    pub caller: Caller,
    pub id: WebhookId,
}

impl FromRequestParts<Shared> for Visited {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Response> {
        let Visitor(caller) = Visitor::from_request_parts(parts, console).await?;
        let path = axum::extract::Path::<String>::from_request_parts(parts, console).await;
        let id = path.ok().and_then(|path| WebhookId::parse(&path).ok());
        let is_part = parts.headers.contains_key("hx-request");
        let gone = || {
            let problem = Problem::missing("This webhook does not exist, or was deleted.");
            if is_part { part_failed(&problem) } else { failed(&problem) }
        };
        let id = id.ok_or_else(gone)?;
        let workspace = console.commands.owner_workspace(&id).await.map_err(|error| failed(&error.into()))?;
        match workspace {
            Some(workspace) if caller.sees(&workspace) => Ok(Self { caller, id }),
            _ => Err(gone()),
        }
    }
}

/// What surrounds a page.
pub struct Frame {
    pub name: String,
    /// The visitor may change something.
    pub edits: bool,
    /// Settings are written here.
    pub editable: bool,
    /// E-mails are shown here.
    pub mails: bool,
}

impl Frame {
    pub fn new(console: &Shared, caller: &Caller) -> Self {
        Self {
            name: caller.name.clone(),
            edits: caller.edits(),
            editable: console.editable,
            mails: console.mails.is_some(),
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html", config = ".askama.toml")]
struct ProblemPage {
    title: String,
    detail: String,
}

#[derive(Template)]
#[template(path = "said.html", config = ".askama.toml")]
struct Said<'a> {
    class: &'a str,
    text: &'a str,
    /// The version that the settings have now, for the form on the same page.
    version: Option<u64>,
}

/// A page that says what went wrong.
pub fn failed(problem: &Problem) -> Response {
    let page = ProblemPage { title: problem.title.clone(), detail: problem.detail.clone() };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, written(&page)).into_response()
}

/// A part of an open page that says what went wrong.
///
/// A webhook may be deleted at any time, also while a part of its page is being made: the page is told, and stays.
pub fn part_failed(problem: &Problem) -> Response {
    if problem.status == 404 { said("warn", "This webhook was deleted.") } else { failed(problem) }
}

/// A sentence about what was done, for a part of a page.
pub fn said(class: &str, text: &str) -> Response {
    written(&Said { class, text, version: None })
}

/// The same about an edit, after which the settings have another version.
pub fn said_of_edit(text: &str, version: Option<u64>) -> Response {
    written(&Said { class: "good", text, version })
}

/// The same about what went wrong.
pub fn refused(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, said("bad", &problem.detail)).into_response()
}

/// A page, or a part of one.
pub fn written(template: &impl Template) -> Response {
    match template.render() {
        Ok(page) => Html(page).into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_whose_webhook_goes_while_a_part_is_made_is_told_and_sees_no_error() {
        assert_eq!(part_failed(&Problem::missing("gone")).status(), StatusCode::OK);
        assert_eq!(failed(&Problem::missing("gone")).status(), StatusCode::NOT_FOUND);
    }
}

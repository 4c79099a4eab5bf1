//! Who asks: a person by a signed token (JWT), or an operator by an admin token that is known by its hash.

use std::time::{Duration, Instant};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, header, request::Parts},
};
use serde::Deserialize;

use super::{Shared, client::Client, problem::Problem};
use crate::{
    io::clock,
    model::{
        ids::{WebhookId, WorkspaceId},
        time::Millis,
        webhook::Owner,
    },
    ops::metrics::Refusal,
};

/// The cookie that holds the token of whoever is signed in to the console.
pub const COOKIE: &str = "bundlehook_token";
/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and change.
    Editor,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the change log names them.
    pub name: String,
    /// Theirs; none for an operator, to whom all belong.
    pub workspace: Option<WorkspaceId>,
    pub role: Role,
    /// The owner of their workspace, if the token says.
    pub owner: Option<Owner>,
    /// When their token ends; none: never.
    pub until: Option<Millis>,
}

/// The token of a request, and whether it came in a cookie, which a browser sends by itself.
fn token(headers: &HeaderMap) -> Option<(&str, bool)> {
    if let Some(bearer) = headers.get(header::AUTHORIZATION) {
        return Some((bearer.to_str().ok()?.strip_prefix("Bearer ")?.trim(), false));
    }
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|cookies| cookies.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    let found = pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    Some((found, true))
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// True if a request comes from a page of one of these origins.
pub fn is_from_one_of(origins: &[String], headers: &HeaderMap) -> bool {
    text(headers, "origin").is_some_and(|origin| origins.iter().any(|known| known == origin))
}

/// True if a request that changes something comes from a page of our own.
pub fn is_from_our_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| text(headers, name);
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let host = text("host");
    let origin = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    host.is_some() && origin == host
}

impl super::Console {
    /// Who sends a token from an address; counts failures. A token that is valid is never refused for what others did from
    /// the same address.
    ///
    /// # Errors
    /// 401, or 429 after too many failures.
    pub(super) fn sign_in(&self, token: &str, Client(from): Client) -> Result<Caller, Problem> {
        let authority = self.believed.borrow().clone();
        authority.caller(token).map_err(|problem| {
            let now = Instant::now();
            let refused = &self.metrics.sign_ins_refused;
            if let Some(seconds) = self.failed.wait(from, now) {
                refused.of(Refusal::TooMany).inc();
                return Problem::too_many(seconds);
            }
            refused.of(Refusal::Token).inc();
            self.failed.failed(from, now);
            Problem::unauthorized(problem)
        })
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Problem> {
        let Some((token, is_cookie)) = token(&parts.headers) else {
            return Err(Problem::unauthorized("there is no token, expected `authorization: Bearer …`"));
        };
        if is_cookie && parts.method != Method::GET && !is_from_our_page(&parts.headers) {
            return Err(Problem::forbidden("the request does not come from a page of the console"));
        }
        let token = token.to_owned();
        let client = Client::from_request_parts(parts, console).await?;
        console.sign_in(&token, client)
    }
}

impl Caller {
    /// True if a webhook of a workspace is theirs to see.
    #[must_use]
    pub fn sees(&self, workspace: &WorkspaceId) -> bool {
        self.workspace.as_ref().is_none_or(|own| own == workspace)
    }

    /// How long their token is still valid; none: for ever.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.until.map(|until| until.since(clock::now()))
    }

    /// True if they may change something.
    #[must_use]
    pub fn edits(&self) -> bool {
        self.role == Role::Editor
    }

    /// Refuses viewers.
    ///
    /// # Errors
    /// 403
    pub fn must_edit(&self) -> Result<(), Problem> {
        if self.edits() {
            return Ok(());
        }
        Err(Problem::forbidden("your role is `viewer`, expected `editor`"))
    }
}

/// One that is not theirs is as unknown as one that does not exist.
pub fn unknown(id: &WebhookId) -> Problem {
    Problem::missing(format!("webhook `{id}` does not exist"))
}

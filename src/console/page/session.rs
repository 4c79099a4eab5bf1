//! Signing in with a token, which then lives in a cookie, and signing out.

use askama::Template;
use axum::{
    Form,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::written;
use crate::console::{
    Console, Shared,
    client::Client,
    identity::{COOKIE, is_from_one_of, is_from_our_page},
};

#[derive(Template)]
#[template(path = "sign_in.html", config = ".askama.toml")]
struct SignInPage {
    problem: Option<String>,
}

#[derive(Deserialize)]
pub struct Token {
    token: Option<String>,
}

/// The page to sign in, or in `dev` a link that does it. Elsewhere a link does not: it would stay in histories and logs, and
/// could sign somebody in as another.
pub async fn link(
    State(console): State<Shared>,
    client: Client,
    Query(Token { token }): Query<Token>,
) -> Response {
    match token.filter(|_| console.links) {
        Some(token) => console.enter(&token, client),
        None => page(None, StatusCode::OK),
    }
}

/// A token from a form: of this page, or of the product, whose pages are named in the settings.
pub async fn sign_in(
    State(console): State<Shared>,
    client: Client,
    headers: HeaderMap,
    Form(Token { token }): Form<Token>,
) -> Response {
    if !is_from_our_page(&headers) && !is_from_one_of(&console.frame_ancestors, &headers) {
        let problem = "The form does not come from a page of the console or of your product.";
        return page(Some(problem.to_owned()), StatusCode::FORBIDDEN);
    }
    console.enter(token.as_deref().unwrap_or_default().trim(), client)
}

pub async fn sign_out(State(console): State<Shared>, headers: HeaderMap) -> Response {
    if !is_from_our_page(&headers) {
        return Redirect::to("/").into_response();
    }
    ([(header::SET_COOKIE, console.cookie("", "; Max-Age=0"))], Redirect::to("/sign-in")).into_response()
}

fn page(problem: Option<String>, status: StatusCode) -> Response {
    (status, written(&SignInPage { problem })).into_response()
}

impl Console {
    fn enter(&self, token: &str, client: Client) -> Response {
        match self.sign_in(token, client) {
            // Only what can stand in a cookie is a token.
            Ok(_)
                if token
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b';' | b',' | b'"')) =>
            {
                ([(header::SET_COOKIE, self.cookie(token, ""))], Redirect::to("/")).into_response()
            }
            Ok(_) => page(
                Some("The token has characters that can't be used here.".to_owned()),
                StatusCode::BAD_REQUEST,
            ),
            Err(problem) => {
                let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNAUTHORIZED);
                page(Some(problem.detail), status)
            }
        }
    }

    /// In a frame of another site a cookie must be allowed to come from there.
    fn cookie(&self, value: &str, more: &str) -> String {
        let site = if self.frame_ancestors.is_empty() { "Lax" } else { "None" };
        format!("{COOKIE}={value}; Path=/; HttpOnly; Secure; SameSite={site}{more}")
    }
}

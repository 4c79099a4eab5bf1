//! Signing in with a token, which then lives in a cookie, and signing out.

use std::net::SocketAddr;

use askama::Template;
use axum::{
    Form,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::written;
use crate::console::{
    Console, Shared,
    identity::{COOKIE, is_from_our_page},
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

/// A link that signs in, or the page to do it.
pub async fn link(
    State(console): State<Shared>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Query(Token { token }): Query<Token>,
) -> Response {
    match token {
        Some(token) => console.enter(&token, from),
        None => page(None, StatusCode::OK),
    }
}

/// A token from a form: of this page, or of a product that shows the console in a frame.
pub async fn sign_in(
    State(console): State<Shared>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Form(Token { token }): Form<Token>,
) -> Response {
    console.enter(token.as_deref().unwrap_or_default().trim(), from)
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
    fn enter(&self, token: &str, from: SocketAddr) -> Response {
        match self.sign_in(token, from) {
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

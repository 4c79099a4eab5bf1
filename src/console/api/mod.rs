//! The API under `/api/v1`: JSON, described by OpenAPI 3.1 that is generated from these handlers.

mod changes;
mod commands;
mod events;
mod extract;
mod log;
mod plain;
mod shapes;
mod webhooks;

use axum::{Json, Router, extract::DefaultBodyLimit, routing::get};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::Shared;

/// Most bytes of a request.
const MOST_BYTES: usize = 256 * 1024;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bundlehook",
        description = "Webhooks of a workspace: settings, deliveries, log.\n\nA person's token (JWT) names a workspace, and a role: \
                       `viewer` or `editor`. To it, webhooks of other workspaces do not exist. An admin token sees all."
    ),
    modifiers(&Bearer),
    security(("bearer" = []))
)]
struct Document;

/// How callers show who they are.
struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
        let components = document.components.get_or_insert_with(Default::default);
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// The routes, and the document that describes them.
pub(super) fn router() -> Router<Shared> {
    let (router, document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(webhooks::workspaces))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::read, webhooks::update, webhooks::delete))
        .routes(routes!(commands::rotate))
        .routes(routes!(commands::end_rotation))
        .routes(routes!(commands::test))
        .routes(routes!(commands::enable))
        .routes(routes!(commands::disable))
        .routes(routes!(commands::resend))
        .routes(routes!(log::read))
        .routes(routes!(log::download))
        .routes(routes!(log::statistics))
        .routes(routes!(changes::list))
        .routes(routes!(changes::download))
        .routes(routes!(events::events))
        .split_for_parts();
    let document = under(document, "/api/v1");
    let served = move || {
        let document = document.clone();
        async move { Json(document) }
    };
    router.route("/openapi.json", get(served)).layer(DefaultBodyLimit::max(MOST_BYTES))
}

/// The document with all paths under a prefix.
fn under(mut document: utoipa::openapi::OpenApi, prefix: &str) -> utoipa::openapi::OpenApi {
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (format!("{prefix}{path}"), item)).collect();
    document
}

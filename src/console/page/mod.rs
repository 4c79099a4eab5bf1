//! The console.
use super::Shared;
use axum::Router;
pub(super) fn router() -> Router<Shared> {
    Router::new()
}

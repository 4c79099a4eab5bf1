//! The port of operations: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{metrics::Metrics, probes::Probes};

/// Serves until it is told to stop. Returns once the port is open.
///
/// # Errors
/// If the port can't be opened.
pub async fn serve(
    addr: SocketAddr,
    metrics: Metrics,
    probes: Probes,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(addr).await?;
    let bound = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/livez", get(async |State(state): State<OpsState>| answer(state.1.live())))
        .route("/readyz", get(async |State(state): State<OpsState>| answer(state.1.ready())))
        .with_state((metrics, probes));
    tokio::spawn(async move {
        let server = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = server.await {
            tracing::error!(%error, "the port of operations is closed");
        }
    });
    Ok(bound)
}

type OpsState = (Metrics, Probes);

async fn page(
    State((metrics, _)): State<OpsState>,
) -> Result<([(&'static str, &'static str); 1], String), StatusCode> {
    let page = metrics.page().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([("content-type", "text/plain; version=0.0.4")], page))
}

fn answer(result: Result<(), String>) -> (StatusCode, String) {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
    }
}

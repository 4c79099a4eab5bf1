//! Stopping: the first signal drains, the second one ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit code of a process that was told twice to stop.
const EXIT_FORCED: i32 = 130;

/// A token that the first SIGTERM or Ctrl-C cancels.
///
/// # Errors
/// If the signals can't be listened to.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let mut next = async || tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        let name = next().await;
        info!(signal = name, "stopping: what is in flight is finished first");
        stop.cancel();
        let name = next().await;
        warn!(signal = name, "stopping at once");
        std::process::exit(EXIT_FORCED);
    });
    Ok(token)
}

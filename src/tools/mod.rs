//! Tools beside the roles: a local receiver, publishing from files, the topics; commands on webhooks; the settings; and what shows and
//! mends trouble.

pub mod config;
pub mod dead_letters;
pub mod doctor;
pub mod inspect;
pub mod produce;
pub mod receive;
mod table;
pub mod topics;
pub mod webhook;

use std::{
    io::{self, Write},
    thread,
};

use anyhow::Context;
use tokio::sync::oneshot;

/// Writes a line to standard output, at once.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "{line}").and_then(|()| out.flush());
    said.context("failed to write to standard output")
}

/// Runs what blocks on a thread of its own. If nobody waits any more, the program may end without it, even while it
/// reads standard input.
async fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, done) = oneshot::channel();
    let run = move || {
        // Nobody waits any more if this fails.
        let _ = sender.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).context("failed to start a thread")?;
    done.await.with_context(|| format!("the thread `{name}` ended early"))?
}

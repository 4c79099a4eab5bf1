//! Writes what was received: to the terminal, and to a file if wanted. One thread writes for all requests, as many
//! at once as have come meanwhile.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};

use super::{Recorded, show::show};

/// Requests that may wait to be written.
const QUEUE: usize = 1024;

/// One request to write.
#[derive(Debug)]
struct Entry {
    shown: String,
    line: Vec<u8>,
    written: oneshot::Sender<()>,
}

/// Hands requests to the thread that writes them.
#[derive(Debug)]
pub struct Recorder {
    entries: mpsc::Sender<Entry>,
    has_file: bool,
    count: Arc<AtomicU64>,
}

impl Recorder {
    /// Starts the thread. The receiver gets the error that ends it, if one does.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub fn start(out: Option<&Path>) -> anyhow::Result<(Self, oneshot::Receiver<anyhow::Error>)> {
        let open = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("failed to open `{}`", path.display()))
        };
        let mut file = out.map(open).transpose()?;
        let has_file = file.is_some();
        let (entries, mut inbox) = mpsc::channel(QUEUE);
        let (failed, broken) = oneshot::channel();
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let work = move || {
            if let Err(error) = write_all(&mut inbox, file.as_mut(), &counted) {
                // Nobody waits for it once the receiver stops.
                let _ = failed.send(error);
            }
        };
        thread::Builder::new().name("recorder".to_owned()).spawn(work).context("failed to start a thread")?;
        Ok((Self { entries, has_file, count }, broken))
    }

    /// Waits until a request is written. False if it can't be.
    pub async fn record(&self, received: &Recorded<'_>) -> bool {
        let line = if self.has_file { json_line(received) } else { Vec::new() };
        let (written, done) = oneshot::channel();
        let entry = Entry { shown: show(received), line, written };
        self.entries.send(entry).await.is_ok() && done.await.is_ok()
    }

    /// How many requests are written.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

fn json_line(received: &Recorded<'_>) -> Vec<u8> {
    let mut line = serde_json::to_vec(received).expect("texts and numbers always serialise");
    line.push(b'\n');
    line
}

/// Writes until nobody can hand over a request any more.
fn write_all(
    inbox: &mut mpsc::Receiver<Entry>,
    mut file: Option<&mut File>,
    count: &AtomicU64,
) -> anyhow::Result<()> {
    let mut group = Vec::with_capacity(QUEUE);
    while inbox.blocking_recv_many(&mut group, QUEUE) > 0 {
        if let Some(file) = &mut file {
            file.write_all(&group.iter().flat_map(|entry| &entry.line).copied().collect::<Vec<u8>>())
                .context("failed to write to the file of requests")?;
        }
        print(&group).context("failed to write to standard output")?;
        count.fetch_add(group.len() as u64, Ordering::AcqRel);
        for entry in group.drain(..) {
            // Whoever sent the request may have given up.
            let _ = entry.written.send(());
        }
    }
    Ok(())
}

fn print(group: &[Entry]) -> io::Result<()> {
    let shown: String = group.iter().map(|entry| entry.shown.as_str()).collect();
    let mut out = io::stdout().lock();
    out.write_all(shown.as_bytes())?;
    out.flush()
}

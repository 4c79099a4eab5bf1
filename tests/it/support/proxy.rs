//! A TCP proxy that breaks the network between the product and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::{HeldPort, background};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing wrong: bytes pass.
    None,
    /// Connections are reset, and new ones refused.
    Cut,
    /// Connections stay and can be made, but no byte arrives; what waits arrives once the fault is over.
    Stall,
    /// Each byte arrives so much later, in each direction.
    Delay(Duration),
    /// What clients send arrives, but no answer does; connections are to be cut afterwards.
    Mute,
}

/// Starts a proxy in front of a server; without a fault at first.
pub fn proxy(upstream: SocketAddr) -> Proxy {
    let port = Arc::new(HeldPort::new());
    let (fault, wanted) = watch::channel(Fault::None);
    let (settled, in_force) = watch::channel(Fault::None);
    let _runtime = background().enter();
    // Here, not in the task: clients may connect as soon as the proxy is handed out.
    let listener = port.listen();
    let task = tokio::spawn(run(Arc::clone(&port), listener, upstream, wanted, settled));
    Proxy { port, fault, in_force, task }
}

/// A running proxy. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    port: Arc<HeldPort>,
    fault: watch::Sender<Fault>,
    in_force: watch::Receiver<Fault>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// What clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Changes what the network does, for connections that exist and new ones; in force on return.
    pub async fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
        let mut in_force = self.in_force.clone();
        in_force
            .wait_for(|settled| *settled == fault)
            .await
            .expect("the proxy runs as long as its handle lives");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens whenever the network is not cut.
async fn run(
    port: Arc<HeldPort>,
    first: TcpListener,
    upstream: SocketAddr,
    mut wanted: watch::Receiver<Fault>,
    settled: watch::Sender<Fault>,
) {
    let mut listener = Some(first);
    while wanted.wait_for(|fault| *fault != Fault::Cut).await.is_ok() {
        let listener = listener.take().unwrap_or_else(|| port.listen());
        accept(listener, upstream, &mut wanted, &settled).await;
        settled.send_replace(Fault::Cut);
    }
}

/// Takes connections until the network is cut and they are gone.
async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    wanted: &mut watch::Receiver<Fault>,
    settled: &watch::Sender<Fault>,
) {
    let mut links = JoinSet::new();
    loop {
        let fault = *wanted.borrow_and_update();
        if fault == Fault::Cut {
            break;
        }
        settled.send_replace(fault);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                links.spawn(link(client, upstream, wanted.clone()));
            },
            Some(_) = links.join_next() => {}
        }
    }
    drop(listener);
    // Each sees the cut by itself.
    while links.join_next().await.is_some() {}
}

/// Connects a client with the server until both are done or the network is cut.
async fn link(mut client: TcpStream, upstream: SocketAddr, fault: watch::Receiver<Fault>) {
    let mut watched = fault.clone();
    let cut = watched.wait_for(|fault| *fault == Fault::Cut);
    tokio::pin!(cut);
    let server = tokio::select! {
        _ = &mut cut => None,
        connected = TcpStream::connect(upstream) => connected.ok(),
    };
    let Some(mut server) = server else {
        return reset(&client);
    };
    // Not to be late where no delay is asked for; a socket that refuses is only slower.
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let was_cut = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let there = pump(from_client, to_server, fault.clone(), false);
        let back = pump(from_server, to_client, fault, true);
        tokio::select! {
            _ = cut => true,
            _ = async { tokio::join!(there, back) } => false,
        }
    };
    if was_cut {
        reset(&client);
        reset(&server);
    }
}

/// Makes the connection end with a reset once it is dropped.
fn reset(stream: &TcpStream) {
    // Where that is refused it ends anyway, only more politely.
    let _ = stream.set_zero_linger();
}

/// Carries bytes one way until the sender closes its side.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut fault: watch::Receiver<Fault>,
    answers: bool,
) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Bytes)>(64);
    let seen = fault.clone();
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = if let Fault::Delay(delay) = *seen.borrow() { delay } else { Duration::ZERO };
            let chunk = (Instant::now() + delay, Bytes::copy_from_slice(&buffer[..count]));
            let muted = answers && *seen.borrow() == Fault::Mute;
            if !muted && queue.send(chunk).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = queued.recv().await {
            sleep_until(due).await;
            let passes = fault.wait_for(|fault| *fault != Fault::Stall).await.is_ok();
            if !passes || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        // The other side may be gone already.
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

//! Endpoints that misbehave, on raw sockets, one port each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::background;

/// What is done with a connection, one step after the other; then it is closed.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads a whole request.
    Read,
    /// Reads a head that no body follows.
    Head,
    /// Does nothing, for ever.
    Sleep,
    /// Sends this.
    Send(Vec<u8>),
    /// Sends this again and again, as fast as it is taken.
    Flood(Vec<u8>),
    /// Sends this again and again, one byte after the other, with pauses.
    Drip(Vec<u8>),
    /// Waits until the other side goes.
    Hang,
    /// Closes with a reset.
    Reset,
    /// Begins again.
    Again,
}

/// The pause of [`Step::Drip`].
const DRIP: Duration = Duration::from_millis(20);

/// A running endpoint.
pub struct Hostile {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl Hostile {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many connections have not ended: neither side has closed them, or the endpoint does not look.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// Starts an endpoint, with TLS if there is a configuration for it.
pub fn hostile(steps: Vec<Step>, tls: Option<Arc<ServerConfig>>) -> Hostile {
    let _runtime = background().enter();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.set_nonblocking(true).expect("a socket can wait");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, unended, steps) = (connections.clone(), open.clone(), Arc::new(steps));
    let listener = TcpListener::from_std(listener).expect("it is a listener");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::Relaxed);
            unended.fetch_add(1, Ordering::Relaxed);
            let (unended, steps, tls) = (unended.clone(), steps.clone(), tls.clone());
            tokio::spawn(async move {
                serve(stream, steps, tls.map(TlsAcceptor::from)).await;
                unended.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Hostile { addr, connections, open }
}

/// The other side goes away when it has had enough: what fails then is no matter.
async fn serve(stream: TcpStream, steps: Arc<Vec<Step>>, tls: Option<TlsAcceptor>) {
    if steps.iter().any(|step| matches!(step, Step::Reset)) {
        stream.set_zero_linger().expect("a socket can be reset");
    }
    match tls {
        None => drop(play(stream, &steps).await),
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                drop(play(stream, &steps).await);
            }
        }
    }
}

async fn play(mut stream: impl AsyncRead + AsyncWrite + Unpin, steps: &[Step]) -> std::io::Result<()> {
    loop {
        for step in steps {
            match step {
                Step::Read => read_request(&mut stream).await?,
                Step::Head => drop(read_head(&mut stream).await?),
                Step::Sleep => std::future::pending().await,
                Step::Send(bytes) => stream.write_all(bytes).await?,
                Step::Flood(bytes) => loop {
                    stream.write_all(bytes).await?;
                },
                Step::Drip(bytes) => {
                    for byte in bytes.iter().cycle() {
                        stream.write_all(&[*byte]).await?;
                        stream.flush().await?;
                        tokio::time::sleep(DRIP).await;
                    }
                }
                Step::Hang => while stream.read(&mut [0; 1024]).await? > 0 {},
                Step::Reset => return Ok(()),
                Step::Again => {}
            }
            stream.flush().await?;
        }
        if !matches!(steps.last(), Some(Step::Again)) {
            return stream.shutdown().await;
        }
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let head = read_head(stream).await?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
    Ok(())
}

/// In lower case, and not a byte of what follows.
pub(super) async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).to_lowercase())
}

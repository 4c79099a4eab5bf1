//! A connection to an endpoint, plain or by TLS, that may only read so much for each response.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// Most bytes that are read for one response, whatever they are: head, informational responses, framing, body, TLS.
const RESPONSE_BYTES: usize = 256 * 1024;
/// Every request begins so, and nothing else that is sent does.
const REQUEST_START: &[u8] = b"POST ";

/// More was sent for a response than is read.
#[derive(Debug, thiserror::Error)]
#[error("the response has more than {RESPONSE_BYTES} bytes")]
pub struct BudgetExceeded;

/// Counts what is read from the socket, below TLS.
pub struct Metered {
    stream: TcpStream,
    left: Arc<AtomicUsize>,
}

impl Metered {
    /// A stream with the budget of one response.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, left: Arc::new(AtomicUsize::new(RESPONSE_BYTES)) }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(BudgetExceeded)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.left.store(left.saturating_sub(buf.filled().len() - before), Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What requests are written to and responses read from.
pub struct EndpointConnection {
    transport: Transport,
    left: Arc<AtomicUsize>,
    has_read: bool,
}

enum Transport {
    Plain(Metered),
    Tls(Box<TlsStream<Metered>>),
}

impl EndpointConnection {
    /// Without TLS.
    pub fn plain(stream: Metered) -> Self {
        Self { left: stream.left.clone(), transport: Transport::Plain(stream), has_read: false }
    }

    /// With TLS, after the handshake.
    pub fn tls(stream: TlsStream<Metered>) -> Self {
        let left = stream.get_ref().0.left.clone();
        Self { left, transport: Transport::Tls(Box::new(stream)), has_read: true }
    }
}

/// Calls the same method of either transport.
macro_rules! either {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match &mut $self.transport {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for EndpointConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.has_read = true;
        either!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for EndpointConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Not with each write: an endpoint that takes a body in small bites would get a budget for each.
        if self.has_read && buf.starts_with(REQUEST_START) {
            self.left.store(RESPONSE_BYTES, Ordering::Relaxed);
            self.has_read = false;
        }
        either!(self, poll_write, cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_shutdown, cx)
    }
}

impl Connection for EndpointConnection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

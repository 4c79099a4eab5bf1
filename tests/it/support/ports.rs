//! Ports of loopback that nobody takes away while a server is down.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// A port of loopback that is ours for as long as this value lives, whether or not a server listens on it.
///
/// The socket in here is bound and never listens. A server that sets `SO_REUSEADDR` (all of ours do) can bind beside
/// it, again and again; nobody else is given the port, and a client that dials it in vain can't end up talking to
/// itself, which happens on an ephemeral port that is free.
#[derive(Debug)]
pub struct HeldPort {
    socket: TcpSocket,
    addr: SocketAddr,
}

impl HeldPort {
    /// Takes a free port.
    pub fn new() -> Self {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let addr = socket.local_addr().expect("a bound socket has an address");
        Self { socket, addr }
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.addr.port()
    }

    /// The port's address, `127.0.0.1:…`.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to listen here; the port stays held after the listener is gone. Needs a runtime.
    pub fn listen(&self) -> TcpListener {
        bind(self.addr).listen(1024).expect("nobody else can listen on a port that is held")
    }
}

fn bind(addr: SocketAddr) -> TcpSocket {
    let bound = TcpSocket::new_v4().and_then(|socket| {
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        Ok(socket)
    });
    bound.expect("loopback has a free port")
}

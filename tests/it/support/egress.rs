//! An egress proxy: it makes tunnels by CONNECT, and notes where they were to lead.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::background;
use super::hostile::read_head;

/// A running proxy.
pub struct Egress {
    addr: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Starts a proxy that leads wherever it is asked to.
pub fn egress() -> Egress {
    let _runtime = background().enter();
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.set_nonblocking(true).expect("a socket can wait");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let (listener, noted) = (TcpListener::from_std(listener).expect("it is a listener"), asked.clone());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Either side may go whenever it likes.
            tokio::spawn(tunnel(client, noted.clone()));
        }
    });
    Egress { addr, asked }
}

impl Egress {
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where tunnels were to lead, as it was written, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

async fn tunnel(mut client: TcpStream, asked: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let head = read_head(&mut client).await?;
    let to = head.strip_prefix("connect ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    asked.lock().expect("no holder panics").push(to.to_owned());
    match TcpStream::connect(to).await {
        Ok(mut endpoint) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut endpoint).await?;
        }
        Err(_) => client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await?,
    }
    Ok(())
}

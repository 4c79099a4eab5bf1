//! Connections to addresses that were vetted: a name is resolved, every address is checked, and exactly one that was
//! checked is dialled.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::{errno::Errno, ifaddrs::getifaddrs};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;
use url::Url;

use super::{
    connection::{EndpointConnection, Metered},
    proxy::Proxy,
    resolver::{ResolveError, Resolver},
};
use crate::model::address::{AddressPolicy, Destination, Refusal};

/// Most addresses of a name that are tried in turn.
const MOST_TRIED: usize = 4;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It may not be dialled.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name did not resolve.
    #[error(transparent)]
    Name(#[from] ResolveError),
    /// Nobody listens there, or it can't be reached.
    #[error("`{address}` could not be connected to: {error}")]
    Connect { address: SocketAddr, error: io::Error },
    /// This host can't connect to anything.
    #[error("no connection can be made from here: {0}")]
    Local(io::Error),
    /// No TLS session.
    #[error("no TLS session: {0}")]
    Tls(io::Error),
    /// Not within the deadline.
    #[error("not connected within the deadline")]
    Timeout,
}

impl DialError {
    /// True if the endpoint and its owner have no part in it.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Local(_) | Self::Name(ResolveError::Resolvers(_)))
    }

    fn connect(address: SocketAddr, error: io::Error) -> Self {
        let exhausted = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EADDRNOTAVAIL];
        let code = error.raw_os_error().map(Errno::from_raw);
        if code.is_some_and(|code| exhausted.contains(&code)) {
            return Self::Local(error);
        }
        Self::Connect { address, error }
    }
}

/// Dials only what the policy permits.
#[derive(Clone)]
pub struct VettedConnector(Arc<Dialer>);

/// What a connection needs.
pub struct Dialer {
    pub policy: AddressPolicy,
    pub resolver: Resolver,
    pub tls: TlsConnector,
    /// The way out; direct if there is none.
    pub proxy: Option<Proxy>,
    /// Over resolving, connecting and the TLS handshake. The client does not wait for longer, but it may leave a
    /// connection that is being made to its pool.
    pub deadline: Duration,
}

impl VettedConnector {
    /// A connector by a policy.
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self(Arc::new(dialer))
    }
}

impl Service<Uri> for VettedConnector {
    type Response = TokioIo<EndpointConnection>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.0.clone();
        Box::pin(async move {
            let connected = tokio::time::timeout(dialer.deadline, dialer.connect(&uri)).await;
            connected.unwrap_or(Err(DialError::Timeout)).map(TokioIo::new)
        })
    }
}

impl Dialer {
    async fn connect(&self, uri: &Uri) -> Result<EndpointConnection, DialError> {
        let url = Url::parse(&uri.to_string()).map_err(|_| Refusal::NoHost)?;
        let addresses = self.vetted(&url).await?;
        let stream = Metered::new(self.dial(&addresses).await?);
        if url.scheme() != "https" {
            return Ok(EndpointConnection::plain(stream));
        }
        let name = server_name(&url).map_err(DialError::Tls)?;
        let tls = self.tls.connect(name, stream).await;
        tls.map(EndpointConnection::tls).map_err(DialError::Tls)
    }

    /// The addresses that a URL leads to, if every one of them may be dialled.
    async fn vetted(&self, url: &Url) -> Result<Vec<SocketAddr>, DialError> {
        let addresses = match self.policy.destination(url)? {
            Destination::Address(address) => vec![address],
            Destination::Name(name, port) => {
                let found = self.resolver.resolve(&name).await?;
                found.into_iter().map(|ip| SocketAddr::from((ip, port))).collect()
            }
        };
        let own = own_addresses().map_err(DialError::Local)?;
        for address in &addresses {
            self.policy.vet(*address, &own)?;
        }
        Ok(addresses)
    }

    async fn dial(&self, addresses: &[SocketAddr]) -> Result<TcpStream, DialError> {
        let tried = addresses.len().min(MOST_TRIED);
        let share = self.deadline / tried.max(1) as u32;
        let mut last = DialError::Timeout;
        for address in &addresses[..tried] {
            let dialled = async {
                match &self.proxy {
                    // Half: if the time were up for both at once, nobody could say which of them hangs.
                    Some(proxy) => proxy.connect(*address, share / 2).await,
                    None => dial(*address).await,
                }
            };
            match tokio::time::timeout(share, dialled).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::Timeout,
            }
        }
        Err(last)
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, DialError> {
    let failed = |error| DialError::connect(address, error);
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    let peer = stream.peer_addr().map_err(failed)?;
    if peer != address {
        return Err(Refusal::Address(peer).into());
    }
    // A POST is one small write: it must not wait for an acknowledgement.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

fn server_name(url: &Url) -> io::Result<ServerName<'static>> {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches([']', '.']);
    ServerName::try_from(host.to_owned()).map_err(io::Error::other)
}

/// The addresses of this host's interfaces.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = getifaddrs()?;
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(interfaces.filter_map(|interface| interface.address.and_then(ip)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_this_host_are_known() {
        let own = own_addresses().unwrap();
        assert!(own.contains(&"127.0.0.1".parse().unwrap()), "{own:?}");
        let policy = AddressPolicy::default();
        for ip in &own {
            let address = SocketAddr::from((*ip, 443));
            assert_eq!(policy.vet(address, &own), Err(Refusal::OwnAddress(address)));
        }
    }
}

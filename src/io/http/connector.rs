//! Connections to addresses that were vetted: a name is resolved, every address is checked, and exactly one that was
//! checked is dialled.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::model::address::AddressPolicy;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL names no host.
    #[error("the url has no host")]
    NoHost,
    /// The name did not resolve.
    #[error("`{host}` could not be resolved: {error}")]
    Dns { host: String, error: io::Error },
    /// It resolves to what may not be dialled.
    #[error("address `{0}` is not public")]
    Forbidden(SocketAddr),
    /// Nobody listens there, or it can't be reached.
    #[error("`{address}` could not be connected to: {error}")]
    Connect { address: SocketAddr, error: io::Error },
}

/// Dials only what the policy permits.
#[derive(Clone)]
pub struct VettedConnector {
    policy: Arc<AddressPolicy>,
}

impl VettedConnector {
    /// A connector by a policy.
    #[must_use]
    pub fn new(policy: AddressPolicy) -> Self {
        Self { policy: Arc::new(policy) }
    }
}

impl Service<Uri> for VettedConnector {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let policy = self.policy.clone();
        Box::pin(async move { dial(&policy, &uri).await.map(TokioIo::new) })
    }
}

async fn dial(policy: &AddressPolicy, uri: &Uri) -> Result<TcpStream, DialError> {
    let host = uri.host().ok_or(DialError::NoHost)?.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let resolved = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<SocketAddr> =
        resolved.map_err(|error| DialError::Dns { host: host.to_owned(), error })?.collect();
    if let Some(forbidden) = addresses.iter().find(|address| !policy.permits(**address)) {
        return Err(DialError::Forbidden(*forbidden));
    }
    let mut last = DialError::Dns { host: host.to_owned(), error: io::Error::other("no addresses") };
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // A POST is one small write: it must not wait for an acknowledgement.
                let ready = stream.set_nodelay(true);
                return ready.map(|()| stream).map_err(|error| DialError::Connect { address, error });
            }
            Err(error) => last = DialError::Connect { address, error },
        }
    }
    Err(last)
}

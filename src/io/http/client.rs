//! Sends one request and classifies what comes of it.

use std::{error::Error, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Method,
    header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING},
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    connector::{DialError, Dialer, VettedConnector},
    proxy::Proxy,
    resolver::Resolver,
    tls,
};
use crate::{
    flow::delivery_to_outcome::{Reply, Request},
    io::clock,
    model::{
        address::AddressPolicy,
        delivery::{Answer, Outcome},
        retry::parse_retry_after,
    },
};

/// At most so much of a response's body is kept; nothing beyond is read.
const BODY_BYTES: usize = 64 * 1024;
/// At most so large may a response's head be.
const HEAD_BYTES: usize = 8 * 1024;
/// A connection is kept for so long after its last request.
const IDLE: Duration = Duration::from_secs(30);

/// How requests are sent.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Which addresses may be dialled.
    pub policy: AddressPolicy,
    /// Over resolving, connecting, the request and the response together.
    pub deadline: Duration,
    /// Resolvers to ask; those of the system if there are none.
    pub dns_servers: Vec<SocketAddr>,
    /// A PEM file of roots to trust beside those of browsers.
    pub ca_bundle: Option<PathBuf>,
    /// The way out; direct if there is none.
    pub proxy: Option<Proxy>,
}

/// Pooled connections to customers' endpoints.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<VettedConnector, Full<Bytes>>,
    deadline: Duration,
}

impl HttpClient {
    /// A client.
    ///
    /// # Errors
    /// If TLS or the resolver can't be set up.
    pub fn new(options: HttpOptions) -> std::io::Result<Self> {
        let HttpOptions { policy, deadline, dns_servers, ca_bundle, proxy } = options;
        let connector = VettedConnector::new(Dialer {
            policy,
            resolver: Resolver::new(&dns_servers, deadline)?,
            tls: tls::connector(ca_bundle.as_deref())?,
            proxy,
            deadline,
        });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(HEAD_BYTES)
            // Only what was never written: a kept connection that the endpoint closed meanwhile is no failure.
            .retry_canceled_requests(true)
            .set_host(true)
            .build(connector);
        Ok(Self { client, deadline })
    }

    /// POSTs a request. Whatever happens is a reply.
    pub async fn post(&self, request: &Request) -> Reply {
        let deadline = Instant::now() + self.deadline;
        let mut post = http::Request::new(Full::new(request.body.clone()));
        *post.method_mut() = Method::POST;
        *post.headers_mut() = request.headers.clone();
        match request.url.as_str().parse() {
            Ok(uri) => *post.uri_mut() = uri,
            Err(_) => return Reply::Failed(Outcome::Protocol),
        }
        match tokio::time::timeout_at(deadline, self.client.request(post)).await {
            Err(_) => Reply::Failed(Outcome::Timeout),
            Ok(Err(error)) => {
                let reply = classify(&error);
                if matches!(reply, Reply::Unsent(_)) {
                    warn!(source = ?error.source(), "nothing can be sent");
                } else {
                    debug!(%error, source = ?error.source(), ?reply, "request failed");
                }
                reply
            }
            // Another protocol was never asked for, and no final answer follows.
            Ok(Ok(response)) if response.status().is_informational() => Reply::Failed(Outcome::Protocol),
            Ok(Ok(response)) => Reply::Answered(read(response, deadline).await),
        }
    }
}

/// Keeps what fits of the body. The head has decided the outcome: what goes wrong here changes nothing.
async fn read(response: http::Response<Incoming>, deadline: Instant) -> Answer {
    let (head, mut body) = response.into_parts();
    // Where such a body ends is a matter of opinion: not read, so that its connection is not used again.
    let ambiguous = head.headers.contains_key(CONTENT_LENGTH) && head.headers.contains_key(TRANSFER_ENCODING);
    let (mut kept, mut truncated) = (Vec::new(), ambiguous);
    while !truncated {
        match tokio::time::timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let room = BODY_BYTES - kept.len();
                    truncated = data.len() > room;
                    kept.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            Ok(None) => break,
            Ok(Some(Err(_))) | Err(_) => truncated = true,
        }
    }
    let retry_after = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    Answer {
        status: head.status,
        retry_after: retry_after.and_then(|text| parse_retry_after(text, clock::now())),
        headers: shown(&head.headers),
        body: String::from_utf8_lossy(&kept).into_owned(),
        body_bytes: kept.len() as u64,
        truncated,
    }
}

fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

/// What an error says about the attempt, by its type and those of what caused it.
fn classify(error: &(dyn Error + 'static)) -> Reply {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return of_dial(dial);
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>()
            && hyper.is_parse_too_large()
        {
            return Reply::Failed(Outcome::TooLarge);
        }
        // An error that was wrapped into an I/O error is not among its sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>) {
            return Reply::Failed(Outcome::Tls);
        }
        cause = error.source();
    }
    Reply::Failed(Outcome::Protocol)
}

fn of_dial(error: &DialError) -> Reply {
    let outcome = match error {
        DialError::Refused(_) => Outcome::ForbiddenAddress,
        DialError::Name(_) => Outcome::Dns,
        DialError::Connect { .. } | DialError::Local(_) => Outcome::Connect,
        DialError::Tls(_) => Outcome::Tls,
        DialError::Timeout => Outcome::Timeout,
    };
    if error.is_ours() { Reply::Unsent(outcome) } else { Reply::Failed(outcome) }
}

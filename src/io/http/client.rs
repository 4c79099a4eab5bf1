//! Sends one request and classifies what comes of it.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Method, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::Instant;
use tracing::debug;

use super::connector::{DialError, VettedConnector};
use crate::{
    flow::delivery_to_outcome::{Reply, Request},
    io::clock,
    model::{
        address::AddressPolicy,
        delivery::{Answer, Outcome},
    },
};

/// At most so much of a response's body is kept; nothing beyond is read.
const BODY_BYTES: usize = 64 * 1024;
/// At most so large may a response's head be.
const HEAD_BYTES: usize = 8 * 1024;
/// A connection is kept for so long after its last request.
const IDLE: Duration = Duration::from_secs(30);

/// Pooled connections to customers' endpoints.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<VettedConnector>, Full<Bytes>>,
    deadline: Duration,
}

impl HttpClient {
    /// A client by a policy of addresses. `deadline` bounds connecting, the request and the response together.
    ///
    /// # Errors
    /// If TLS can't be set up.
    pub fn new(policy: AddressPolicy, deadline: Duration) -> std::io::Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(provider)
            .map_err(std::io::Error::other)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(VettedConnector::new(policy));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http1_max_buf_size(HEAD_BYTES)
            .retry_canceled_requests(false)
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
                let outcome = classify(&error);
                debug!(%error, source = ?error.source(), outcome = outcome.as_str(), "request failed");
                Reply::Failed(outcome)
            }
            Ok(Ok(response)) => Reply::Answered(read(response, deadline).await),
        }
    }
}

/// Keeps what fits of the body. The head has decided the outcome: what goes wrong here changes nothing.
async fn read(response: http::Response<Incoming>, deadline: Instant) -> Answer {
    let (head, mut body) = response.into_parts();
    let (mut kept, mut truncated) = (Vec::new(), false);
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
    Answer {
        status: head.status,
        retry_after: retry_after(&head.headers),
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

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::now().0.unsigned_abs());
    httpdate::parse_http_date(value).ok()?.duration_since(now).ok()
}

/// The outcome by the types of an error and of what caused it.
fn classify(error: &(dyn Error + 'static)) -> Outcome {
    let mut cause = Some(error);
    let mut outcome = Outcome::Protocol;
    while let Some(error) = cause {
        if let Some(dial) = error.downcast_ref::<DialError>() {
            return of_dial(dial);
        }
        if error.downcast_ref::<rustls::Error>().is_some() {
            return Outcome::Tls;
        }
        if let Some(hyper) = error.downcast_ref::<hyper::Error>() {
            if hyper.is_parse_too_large() {
                return Outcome::TooLarge;
            }
            if hyper.is_timeout() {
                return Outcome::Timeout;
            }
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            // An error that was wrapped into an I/O error is not among its sources.
            if let Some(inner) = io.get_ref() {
                let inner = classify(inner);
                if inner != Outcome::Protocol {
                    return inner;
                }
            }
            outcome = Outcome::Connect;
        }
        cause = error.source();
    }
    outcome
}

fn of_dial(error: &DialError) -> Outcome {
    match error {
        DialError::NoHost => Outcome::Protocol,
        DialError::Dns { .. } => Outcome::Dns,
        DialError::Forbidden(_) => Outcome::ForbiddenAddress,
        DialError::Connect { .. } => Outcome::Connect,
    }
}

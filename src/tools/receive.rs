//! A local receiver: prints each request readably, records it, and answers as it is told.

mod recorder;
mod show;

use std::{collections::BTreeMap, future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, body::Body, extract::State, response::Response, serve::ListenerExt};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::recorder::Recorder;
use super::say;
use crate::{config::ReceiveSettings, io::clock};

/// The largest body that is taken: more than `bundles` may hold.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// How long requests in flight may still take when the receiver stops.
const DRAIN: Duration = Duration::from_secs(1);

/// A line of the file that requests are recorded in (schemas/received-request.json).
#[derive(Debug, Serialize)]
struct Recorded<'a> {
    /// When its head had arrived; RFC 3339 with milliseconds.
    received_at: String,
    method: &'a str,
    /// Path and query.
    path: &'a str,
    /// Names in lower case; repeated ones joined.
    headers: BTreeMap<&'a str, String>,
    body: &'a str,
    /// What it was answered with.
    status: u16,
}

/// How requests are answered.
#[derive(Debug)]
struct Receiver {
    status: StatusCode,
    delay: Duration,
    recorder: Recorder,
}

/// Runs until `shutdown` resolves, then prints how many requests came.
///
/// # Errors
/// If the address can't be listened on, or if a request could not be printed or recorded.
pub async fn run(settings: ReceiveSettings, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let listener = listen(settings.addr).await?;
    let (recorder, broken) = Recorder::start(settings.out.as_deref())?;
    let status = StatusCode::from_u16(settings.status).context("the status is no HTTP status")?;
    say(&format!("listening on http://{}/", listener.local_addr()?))?;

    let receiver = Arc::new(Receiver { status, delay: settings.delay, recorder });
    let stop = CancellationToken::new();
    let server = serve(listener, receiver.clone(), stop.clone());
    tokio::pin!(server);
    let failure = tokio::select! {
        ended = &mut server => return ended.context("the server ended"),
        Ok(error) = broken => Some(error),
        () = shutdown => None,
    };
    stop.cancel();
    // Whoever still waits for an answer then has been recorded all the same.
    let _ = tokio::time::timeout(DRAIN, server).await;
    let count = receiver.recorder.count();
    say(&format!("received {count} request{}", if count == 1 { "" } else { "s" }))?;
    failure.map_or(Ok(()), Err)
}

async fn listen(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(addr).await;
    listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            anyhow::anyhow!(
                "address `{addr}` is taken: end the other program, or choose another with `--addr`"
            )
        }
        _ => anyhow::anyhow!(error).context(format!("failed to listen on `{addr}`")),
    })
}

async fn serve(listener: TcpListener, receiver: Arc<Receiver>, stop: CancellationToken) -> io::Result<()> {
    let app = Router::new().fallback(receive).with_state(receiver);
    // Answers are small: without this the kernel may hold them back for more.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Takes one request. It is recorded before it is answered, so who got an answer is in the file.
async fn receive(State(receiver): State<Arc<Receiver>>, request: Request<Body>) -> Response {
    let received_at = clock::now().to_rfc3339();
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        // It broke off, and nobody listens; or it is larger than anything that is sent on purpose.
        return answer(StatusCode::PAYLOAD_TOO_LARGE);
    };
    let body = body.to_bytes();
    let record = Recorded {
        received_at,
        method: head.method.as_str(),
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()),
        headers: texts(&head.headers),
        body: &String::from_utf8_lossy(&body),
        status: receiver.status.as_u16(),
    };
    if !receiver.recorder.record(&record).await {
        return answer(StatusCode::INTERNAL_SERVER_ERROR);
    }
    tokio::time::sleep(receiver.delay).await;
    answer(receiver.status)
}

fn texts(headers: &HeaderMap) -> BTreeMap<&str, String> {
    let mut texts = BTreeMap::<&str, String>::new();
    for (name, value) in headers {
        let text = texts.entry(name.as_str()).or_default();
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    texts
}

fn answer(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn repeated_headers_are_joined() {
        let mut headers = HeaderMap::new();
        headers.append("X-One", HeaderValue::from_static("a"));
        headers.append("x-one", HeaderValue::from_static("b"));
        assert_eq!(texts(&headers), BTreeMap::from([("x-one", "a, b".to_owned())]));
    }
}

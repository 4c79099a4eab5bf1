//! A customer's endpoint: records each request and answers as told.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{HeldPort, LIMIT, LONGEST, background};

/// Longest that an endpoint which goes away still answers.
const CLOSING: Duration = Duration::from_millis(100);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Request {
    /// Position among the requests of its receiver, from 1.
    pub number: usize,
    /// When its head was complete.
    pub arrived: Instant,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The other end of the connection: the same for two requests over one connection.
    pub peer: SocketAddr,
}

impl Request {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is text"))
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("`{}` is not JSON: {error}", self.text()))
    }
}

/// What a receiver does with a request.
#[derive(Debug, Clone)]
pub struct Answer {
    end: End,
    delay: Duration,
    released: Option<CancellationToken>,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Status(u16),
    /// Nothing, ever, over an open connection.
    Hang,
    /// Nothing, and the connection is closed.
    HangUp,
}

impl Answer {
    /// Answers with a status and an empty body.
    pub fn status(status: u16) -> Self {
        Self {
            end: End::Status(status),
            delay: Duration::ZERO,
            released: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// Never answers.
    pub fn hang() -> Self {
        Self { end: End::Hang, ..Self::status(0) }
    }

    /// Closes the connection without an answer.
    pub fn hang_up() -> Self {
        Self { end: End::HangUp, ..Self::status(0) }
    }

    /// Adds a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("the header's value is valid");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    /// Waits before it answers.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Waits until it is released before it answers.
    pub fn once(mut self, released: &CancellationToken) -> Self {
        self.released = Some(released.clone());
        self
    }
}

/// How a receiver behaves.
#[derive(Clone)]
pub struct Behaviour(Option<Decide>);

type Decide = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// Decides for each request, which has its number in it.
pub fn answer(decide: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Behaviour {
    Behaviour(Some(Arc::new(decide)))
}

/// Answers 200.
pub fn ok() -> Behaviour {
    status(200)
}

/// Answers with one status.
pub fn status(status: u16) -> Behaviour {
    answer(move |_| Answer::status(status))
}

/// Answers 500 so many times, then 200.
pub fn fail_first(failures: usize) -> Behaviour {
    let seen = AtomicUsize::new(0);
    answer(move |_| Answer::status(if seen.fetch_add(1, Ordering::Relaxed) < failures { 500 } else { 200 }))
}

/// Takes requests and never answers.
pub fn hang() -> Behaviour {
    answer(|_| Answer::hang())
}

/// The port is closed.
pub fn refuse() -> Behaviour {
    Behaviour(None)
}

/// Starts an endpoint on a port of its own, over HTTP/1.1.
pub fn receiver(behaviour: Behaviour) -> Receiver {
    let seen = Arc::new(Seen {
        behaviour: Mutex::new(behaviour),
        requests: Mutex::default(),
        changed: Notify::new(),
    });
    let receiver = Receiver { port: HeldPort::new(), seen, listening: Mutex::new(None) };
    receiver.open();
    receiver
}

/// A running endpoint. Dropping it closes it.
pub struct Receiver {
    port: HeldPort,
    seen: Arc<Seen>,
    listening: Mutex<Option<Listening>>,
}

/// What the endpoint and its connections share.
struct Seen {
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<Request>>,
    changed: Notify,
}

/// The task that accepts connections; it ends when the sender goes.
struct Listening {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// The URL of a path, which begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.port.addr())
    }

    /// Host and port.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// All requests so far, in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().expect("no holder panics").clone()
    }

    /// How many requests there were so far.
    pub fn count(&self) -> usize {
        self.seen.requests.lock().expect("no holder panics").len()
    }

    /// Behaves differently from the next request on. With [`refuse`], open connections are closed too.
    pub async fn set(&self, behaviour: Behaviour) {
        let open = behaviour.0.is_some();
        *self.seen.behaviour.lock().expect("no holder panics") = behaviour;
        if open {
            self.open();
        } else {
            let listening = self.listening.lock().expect("no holder panics").take();
            if let Some(Listening { stop, task }) = listening {
                drop(stop);
                task.await.expect("the endpoint does not panic");
            }
        }
    }

    /// Waits until the requests so far satisfy `condition`, and returns them.
    ///
    /// # Panics
    ///
    /// With `what`, which reads after "waited for", and what was seen, if nothing comes for [`LIMIT`], or that takes over
    /// [`LONGEST`].
    pub async fn wait_for(&self, condition: impl Fn(&[Request]) -> bool, what: &str) -> Vec<Request> {
        let began = Instant::now();
        loop {
            let changed = self.seen.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed, even one before the first poll below.
            changed.as_mut().enable();
            let requests = self.requests();
            if condition(&requests) {
                return requests;
            }
            let goes_on = tokio::time::timeout(LIMIT, changed).await.is_ok() && began.elapsed() < LONGEST;
            assert!(goes_on, "waited for {what} for {:?}, in vain; seen:{}", began.elapsed(), self.summary());
        }
    }

    /// One line a request.
    fn summary(&self) -> String {
        let mut lines = String::new();
        for request in self.requests() {
            let id = request.header("webhook-id").unwrap_or("-");
            let body: String = String::from_utf8_lossy(&request.body).chars().take(200).collect();
            write!(lines, "\n  {}. {} {} {id} {body}", request.number, request.method, request.path)
                .expect("text can be written");
        }
        if lines.is_empty() { " nothing".to_owned() } else { lines }
    }

    /// Listens, if the behaviour wants it and it does not yet.
    fn open(&self) {
        let mut listening = self.listening.lock().expect("no holder panics");
        if listening.is_none() && self.seen.behaviour.lock().expect("no holder panics").0.is_some() {
            let _runtime = background().enter();
            let (stop, stopped) = oneshot::channel();
            let task = tokio::spawn(accept(self.port.listen(), Arc::clone(&self.seen), stopped));
            *listening = Some(Listening { stop, task });
        }
    }
}

/// Serves connections until told to stop, then closes all. What is just being answered is answered: whoever got no answer
/// would rightly come again.
async fn accept(listener: TcpListener, seen: Arc<Seen>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    let closing = CancellationToken::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => if let Ok((stream, peer)) = accepted {
                connections.spawn(serve(stream, peer, Arc::clone(&seen), closing.clone()));
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    closing.cancel();
    let answered = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(CLOSING, answered).await;
    connections.shutdown().await;
}

/// Serves one connection.
async fn serve(stream: TcpStream, peer: SocketAddr, seen: Arc<Seen>, closing: CancellationToken) {
    let handle = service_fn(|request| respond(request, peer, &seen));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    // A client that goes away, and a behaviour that hangs up, end in an error here.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("hung up")]
struct HungUp;

async fn respond(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    seen: &Seen,
) -> Result<hyper::Response<Full<Bytes>>, HungUp> {
    let answer = seen.take(request, peer).await?;
    tokio::time::sleep(answer.delay).await;
    if let Some(released) = &answer.released {
        released.cancelled().await;
    }
    match answer.end {
        End::Hang => {
            let never: Infallible = std::future::pending().await;
            match never {}
        }
        End::HangUp => Err(HungUp),
        End::Status(status) => {
            let mut response = hyper::Response::new(Full::new(answer.body));
            *response.status_mut() = hyper::StatusCode::from_u16(status).expect("the status is valid");
            *response.headers_mut() = answer.headers;
            Ok(response)
        }
    }
}

impl Seen {
    /// Records a request, if it comes in whole, and decides what it gets.
    async fn take(&self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Result<Answer, HungUp> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
        // Who is going away takes nothing more, so that it counts as not received.
        let behaviour = self.behaviour.lock().expect("no holder panics").clone();
        let decide = behaviour.0.ok_or(HungUp)?;
        let request = {
            let mut requests = self.requests.lock().expect("no holder panics");
            let request = Request {
                number: requests.len() + 1,
                arrived,
                method: head.method.to_string(),
                path: head.uri.to_string(),
                headers: head.headers,
                body,
                peer,
            };
            requests.push(request.clone());
            request
        };
        self.changed.notify_waiters();
        Ok(decide(&request))
    }
}

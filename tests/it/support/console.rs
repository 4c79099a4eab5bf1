//! The console beside a system, and people with tokens.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bundlehook::io::clock;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::task::AbortOnDropHandle;

use super::{HeldPort, Process, System, children};

/// A file with the key that seals and opens secrets in the tests, made anew.
pub fn sealing_keys() -> String {
    let path = children::folder("keys").join("keys");
    let key = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [7; 32]);
    fs::write(&path, format!("k1:{key}\n")).expect("the rig's folder can be written");
    path.to_string_lossy().into_owned()
}

/// What tokens are signed with unless a test says otherwise.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// An operator's token.
pub const ADMIN: &str = "an-admin-token-for-tests";

/// A running console.
pub struct Console {
    pub process: Process,
    port: HeldPort,
    /// Where requests come from.
    from: IpAddr,
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answered {
    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("`{}` is not JSON: {error}", self.text()))
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the header is text"))
    }
}

/// The open stream of events.
pub struct Events {
    told: Arc<Mutex<String>>,
    task: AbortOnDropHandle<()>,
}

impl Events {
    /// What was told so far.
    pub fn text(&self) -> String {
        self.told.lock().expect("no holder panics").clone()
    }

    /// Waits until nothing more can be told.
    pub async fn ended(self) {
        self.task.await.expect("it is not ended from outside");
    }

    /// Waits until something is told that holds a text, and returns everything.
    pub async fn wait_for(&self, part: &str) -> String {
        super::wait_until(&format!("an event with `{part}`"), super::LIMIT, async || {
            self.text().contains(part)
        })
        .await;
        self.text()
    }
}

/// The claims of a person's token.
pub fn claims(workspace: &str, role: &str) -> Value {
    json!({
        "iss": "bundlehook", "aud": "bundlehook", "exp": clock::now().0 / 1000 + 3600, "sub": "u-1",
        "email": "ann@acme.example", "workspace_id": workspace, "role": role,
        "owner": {"full_name": "Amnon Haha", "email": "amnon@acme.example"},
    })
}

/// A token signed with [`SECRET`].
pub fn signed(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), claims, &key).expect("claims can be signed")
}

/// A person's token.
pub fn token(workspace: &str, role: &str) -> String {
    signed(&claims(workspace, role))
}

impl System {
    /// Starts the console beside the system, with more settings; those of files that it makes itself: tokens are signed
    /// with [`SECRET`], [`ADMIN`] is an operator's, secrets are sealed. An empty value is none.
    pub async fn console(&self, more: &[(&str, &str)]) -> Console {
        let (port, folder) = (HeldPort::new(), children::folder("console"));
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("the rig's folder can be written");
            path.to_string_lossy().into_owned()
        };
        let hash = sha2::Sha256::digest(ADMIN.as_bytes());
        let hash = hash.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let mut launch = self
            .launch("serve")
            .env("BUNDLEHOOK_CONSOLE_ADDR", port.addr().to_string())
            .env("BUNDLEHOOK_ADMIN_TOKENS", file("admins", &format!("# operators\noperator: {hash}\n")));
        if !more.iter().any(|(name, _)| *name == "BUNDLEHOOK_SEALING_KEYS") {
            launch = launch.env("BUNDLEHOOK_SEALING_KEYS", sealing_keys());
        }
        if !more.iter().any(|(name, _)| *name == "BUNDLEHOOK_JWT_JWKS") {
            launch = launch.env("BUNDLEHOOK_JWT_SECRET", file("secret", SECRET));
        }
        for (name, value) in more.iter().filter(|(_, value)| !value.is_empty()) {
            launch = launch.env(name, *value);
        }
        let console = Console { process: launch.start(), port, from: Ipv4Addr::LOCALHOST.into() };
        console.process.wait_ready().await;
        let addr = console.addr();
        super::wait_until("the console", super::LIMIT, async || {
            tokio::net::TcpStream::connect(addr).await.is_ok()
        })
        .await;
        console
    }
}

impl Console {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// From now on requests come from this address of loopback, `127.0.1.…`.
    pub fn call_from(&mut self, last: usize) {
        self.from = Ipv4Addr::new(127, 0, 1, last as u8).into();
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// Sends a request, with a token unless it is empty, and a JSON body unless it is null.
    pub async fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Answered {
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if !token.is_empty() {
            headers.push(("authorization", format!("Bearer {token}")));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, path, &headers, body).await
    }

    /// Sends a request with a token and a JSON body, and hangs up before the answer comes.
    pub async fn ask_and_leave(&self, method: &str, path: &str, token: &str, body: &Value) {
        let mut stream = tokio::net::TcpStream::connect(self.addr()).await.expect("the console listens");
        let (host, body) = (self.addr(), body.to_string());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.expect("it is taken");
        // What was asked has begun by the time that something asked later is answered.
        assert_eq!(self.call("GET", "/api/v1/openapi.json", "", &Value::Null).await.status, 200);
        stream.shutdown().await.expect("it can be closed");
    }

    /// Sends a request.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, String)], body: String) -> Answered {
        let socket = tokio::net::TcpSocket::new_v4().expect("there are sockets");
        socket.bind(SocketAddr::new(self.from, 0)).expect("all of 127.0.0.0/8 is ours");
        let stream = socket.connect(self.addr()).await.expect("the console listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        let connection = tokio::spawn(connection);
        let mut request =
            hyper::Request::builder().method(method).uri(path).header("host", self.addr().to_string());
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("the request is sound");
        let response = sender.send_request(request).await.expect("it answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the answer is whole").to_bytes();
        connection.abort();
        Answered { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// Opens the stream of events, and takes down what is told from then on.
    pub async fn listen(&self, token: &str) -> Events {
        let stream = tokio::net::TcpStream::connect(self.addr()).await.expect("the console listens");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
        let connection = tokio::spawn(connection);
        let request = hyper::Request::get("/api/v1/events")
            .header("host", self.addr().to_string())
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::<Bytes>::new())
            .expect("the request is sound");
        let mut response = sender.send_request(request).await.expect("it answers");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let told = Arc::<Mutex<String>>::default();
        let noted = told.clone();
        let task = tokio::spawn(async move {
            let _connection = AbortOnDropHandle::new(connection);
            while let Some(Ok(frame)) = response.frame().await {
                let data = frame.data_ref().expect("it is data");
                let text = std::str::from_utf8(data).expect("it is text");
                noted.lock().expect("no holder panics").push_str(text);
            }
        });
        Events { told, task: AbortOnDropHandle::new(task) }
    }

    /// GETs something as an editor of `ws`; it must be there.
    pub async fn get(&self, path: &str) -> Value {
        let answered = self.call("GET", path, &token("ws", "editor"), &Value::Null).await;
        assert_eq!(answered.status, 200, "{path}: {}", answered.text());
        answered.json()
    }
}

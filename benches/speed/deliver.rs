//! From the topic of bundles to the endpoint.

use std::{net::SocketAddr, sync::Arc, sync::Mutex, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::{
    cost::{Cost, Reading},
    input::Input,
    receiver::Nginx,
    support::{LIMIT, System, system, wait_until, webhook},
};

/// How often it is asked how far the process is.
const PACE: Duration = Duration::from_millis(100);
/// Requests in flight at once: the ceiling of a webhook.
const CONNECTIONS: usize = 32;
const SETTLED: &str = "bundlehook_bundles_settled_total{result=\"delivered\"}";

/// A system with bundles in Kafka that no process has delivered yet.
pub struct Filled {
    system: System,
    nginx: Nginx,
    input: Input,
    /// Of all bundles so far.
    published: usize,
    /// Of those of this round.
    bodies: Vec<Bytes>,
}

impl Filled {
    /// Starts the system for one webhook, without `deliver`.
    pub async fn start(chats: usize) -> Option<Self> {
        let nginx = Nginx::start().await;
        let setup = system(3_600_000)
            .partitions(4)
            .env("BUNDLEHOOK_LOG", "warn")
            .env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s")
            .env("BUNDLEHOOK_LANE_REQUESTS", &CONNECTIONS.to_string());
        let system = setup.start(&[webhook("wh", "ws", &nginx.url(), json!({}))]).await?;
        stop(&system).await;
        Some(Self { system, nginx, input: Input::new(chats, 1), published: 0, bodies: Vec::new() })
    }

    /// Has `aggregate` publish bundles of so many messages more.
    pub async fn fill(&mut self, messages: usize) {
        self.input.publish(&self.system, messages).await;
        let before = self.published;
        self.published += messages;
        let (series, all) = ("bundlehook_bundles_published_total", self.published as f64);
        wait_until("the bundles to be published", 5 * LIMIT, async || {
            self.system.aggregate.sum(series).await >= all
        })
        .await;
        self.system.wait_committed("aggregate", "message-events").await;
        let records = self.system.records("bundles").await;
        self.bodies =
            records.into_iter().skip(before).filter_map(|record| record.value).map(Bytes::from).collect();
        assert_eq!(self.bodies.len(), messages, "each message is a bundle");
    }

    /// What the process spends on these bundles, from its start.
    pub async fn product(&mut self) -> Cost {
        self.system.restart("deliver").await;
        // Before the first reading some may be done.
        let done = self.system.deliver.sum(SETTLED).await as usize;
        let began = Reading::of(self.system.deliver.process.pid());
        while self.system.deliver.sum(SETTLED).await < self.bodies.len() as f64 {
            tokio::time::sleep(PACE).await;
        }
        let now = Reading::of(self.system.deliver.process.pid());
        let cost = now.since(began, self.bodies.len() - done);
        stop(&self.system).await;
        cost
    }

    /// The floor: a client of hyper's that sends the same bodies over as many connections, one after the other each.
    pub async fn floor(&self) -> Cost {
        let addr: SocketAddr = self.nginx.url()[7..].trim_end_matches('/').parse().expect("it is an address");
        let left = Arc::new(Mutex::new(self.bodies.clone().into_iter()));
        let began = Reading::own();
        let mut senders = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            senders.spawn(send_all(addr, left.clone()));
        }
        senders.join_all().await;
        Reading::own().since(began, self.bodies.len())
    }
}

async fn send_all(addr: SocketAddr, left: Arc<Mutex<impl Iterator<Item = Bytes>>>) {
    let stream = TcpStream::connect(addr).await.expect("nginx listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("nginx speaks HTTP");
    tokio::spawn(connection);
    loop {
        let Some(body) = left.lock().expect("no holder panics").next() else { return };
        sender.ready().await.expect("nginx keeps the connection");
        let request = Request::post("/")
            .header("host", addr.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("the request is valid");
        let answer = sender.send_request(request).await.expect("nginx answers");
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.expect("the answer is whole");
    }
}

async fn stop(system: &System) {
    system.deliver.process.sigterm();
    assert!(system.deliver.process.wait_exit(LIMIT).await.success());
}

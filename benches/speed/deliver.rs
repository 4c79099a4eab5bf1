//! From the topic of bundles to the endpoint. The floor is a client of hyper's that sends the same bodies over as many
//! connections, one after the other each.

use std::{net::SocketAddr, sync::Arc, sync::Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    Options,
    cost::{Cost, Reading},
    figure::{Goal, Measure},
    input::Input,
    receiver::Nginx,
    rig::{DELIVERED, PUBLISHED, kafka_bytes, publish, reach, round_trips},
    rig::{start, stop, unhurried, webhooks},
    rounds::Rounds,
    support::System,
};

/// Requests in flight at once: the ceiling of a webhook.
pub const CONNECTIONS: usize = 32;

/// A system with bundles in Kafka that no process has delivered yet.
pub struct Deliver {
    system: System,
    nginx: Nginx,
    input: Input,
    /// Of a round.
    deliveries: usize,
    /// Of all bundles so far.
    published: usize,
    /// Of those of this round.
    bodies: Vec<Bytes>,
}

impl Deliver {
    /// Starts the system for one webhook, without `deliver`.
    pub async fn start(options: &Options) -> Self {
        let nginx = Nginx::start().await;
        let setup = unhurried()
            .env("BUNDLEHOOK_REQUEST_TIMEOUT", "10s")
            .env("BUNDLEHOOK_LANE_REQUESTS", &CONNECTIONS.to_string());
        let system = start(setup, &webhooks(1, &["none"], &nginx.url())).await;
        stop(&system.deliver).await;
        let input = Input::popular(options.chats, 1);
        Self { system, nginx, input, deliveries: options.deliveries, published: 0, bodies: Vec::new() }
    }

    /// What the process spends on the bundles of this round, from its start; then its calls of Redis for each.
    async fn deliver(&mut self) -> (Cost, f64) {
        self.system.restart("deliver").await;
        let role = &self.system.deliver;
        // Before the first reading some may be done.
        let (done, trips) = (role.sum(DELIVERED).await as usize, round_trips(role).await);
        let began = Reading::of([role.process.pid()]);
        reach([role], DELIVERED, self.bodies.len() as f64).await;
        let count = self.bodies.len() - done;
        let cost = Reading::of([role.process.pid()]).since(began, count);
        let trips = (round_trips(role).await - trips) / count as f64;
        stop(role).await;
        (cost, trips)
    }

    /// What it costs to send the same bodies.
    pub async fn post(&self) -> Cost {
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

    /// Bytes of Kafka for a delivery so far.
    async fn kafka_each(&self) -> f64 {
        let bundles = kafka_bytes(&self.system, "bundles").await;
        (bundles + kafka_bytes(&self.system, "delivery-attempts").await) / self.published as f64
    }

    /// Where they are sent to.
    pub fn url(&self) -> String {
        self.nginx.url()
    }

    /// What is sent in this round.
    pub fn bodies(&self) -> impl Iterator<Item = &Bytes> {
        self.bodies.iter()
    }

    /// Requests that the endpoint has got since then, for each delivery.
    async fn requests_since(&self, before: u64) -> f64 {
        // The question itself is one.
        (self.nginx.requests().await - before - 1) as f64 / self.deliveries as f64
    }
}

impl Rounds for Deliver {
    const NAME: &'static str = "deliver";

    fn measures(&self) -> Vec<Measure> {
        vec![
            Measure::new("CPU, µs a delivery", 1).goal(Goal::UpTo(3.0)),
            Measure::new("deliveries a second", 0).goal(Goal::AtLeast(0.4)),
            Measure::new("requests a delivery", 2),
            Measure::new("round trips to Redis a delivery", 3),
            Measure::new("Kafka, bytes a bundle and its attempt", 0),
        ]
    }

    /// Has `aggregate` publish more bundles.
    async fn prepare(&mut self) {
        let (system, before) = (&self.system, self.published);
        publish(system, &mut self.input, self.deliveries).await;
        self.published += self.deliveries;
        reach([&system.aggregate], PUBLISHED, self.published as f64).await;
        system.wait_committed("aggregate", "message-events").await;
        let records = system.records("bundles").await;
        // By partition and offset: the later ones of each are new.
        let mut bodies: Vec<_> = records.into_iter().map(|record| (record.timestamp, record.value)).collect();
        bodies.sort_by_key(|(timestamp, _)| *timestamp);
        self.bodies = bodies.into_iter().skip(before).filter_map(|(_, body)| body).map(Bytes::from).collect();
        assert_eq!(self.bodies.len(), self.deliveries, "each message is a bundle");
    }

    async fn floor(&mut self) -> Vec<f64> {
        let before = self.nginx.requests().await;
        let cost = self.post().await;
        vec![cost.micros_each(), cost.rate(), self.requests_since(before).await, 0.0, f64::NAN]
    }

    async fn program(&mut self) -> Vec<f64> {
        let before = self.nginx.requests().await;
        let (cost, trips) = self.deliver().await;
        vec![
            cost.micros_each(),
            cost.rate(),
            self.requests_since(before).await,
            trips,
            self.kafka_each().await,
        ]
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

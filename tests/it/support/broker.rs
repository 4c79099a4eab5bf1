//! A broker for tests that need no more than the embedded one can do.

use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

use rdkafka::mocking::MockCluster;

use super::kafka::{Kafka, shared, unique_prefix};
use super::report;

/// The shared Apache Kafka, or, where there is none, librdkafka's embedded mock cluster.
///
/// For tests that neither lose, rebuild, expire nor time anything: the embedded broker stamps no `LogAppendTime`, keeps
/// 5 MiB a partition and compacts nothing.
///
/// # Panics
///
/// If there is no Apache Kafka and `CI=true`.
pub async fn broker() -> Broker {
    match shared().await {
        Ok(kafka) => Broker::Apache(kafka),
        Err(reason) => {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
            Broker::Embedded(Embedded::shared())
        }
    }
}

/// A broker that tests share.
#[derive(Debug, Clone, Copy)]
pub enum Broker {
    /// Apache Kafka.
    Apache(&'static Kafka),
    /// The mock cluster of librdkafka.
    Embedded(&'static Embedded),
}

impl Broker {
    /// What clients connect to.
    pub fn servers(self) -> &'static str {
        match self {
            Self::Apache(kafka) => kafka.servers(),
            Self::Embedded(embedded) => &embedded.servers,
        }
    }

    /// A prefix for the topics of one test that no other test has.
    #[expect(clippy::unused_self, reason = "a prefix is for a broker\'s topics, and reads so")]
    pub fn prefix(self) -> String {
        unique_prefix()
    }

    /// Whether it is Apache Kafka.
    pub fn is_apache(self) -> bool {
        matches!(self, Self::Apache(_))
    }

    /// Makes a topic. The embedded broker knows no settings and ignores them.
    pub async fn create_topic(self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        match self {
            Self::Apache(kafka) => kafka.create_topic(name, partitions, config).await,
            Self::Embedded(embedded) => embedded.create_topic(name, partitions),
        }
    }
}

/// The embedded broker, which lives on a thread of its own: it can't be moved to another one.
#[derive(Debug)]
pub struct Embedded {
    servers: String,
    orders: Mutex<mpsc::Sender<NewTopic>>,
}

/// A topic to make: name, partitions, and whom to tell.
type NewTopic = (String, i32, mpsc::Sender<()>);

impl Embedded {
    fn shared() -> &'static Self {
        static SHARED: OnceLock<Embedded> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (_, librdkafka) = rdkafka::util::get_rdkafka_version();
            report::broker(&format!(
                "the embedded mock cluster of librdkafka {librdkafka}, NOT Apache Kafka"
            ));
            Self::start()
        })
    }

    fn start() -> Self {
        let (orders, inbox) = mpsc::channel::<NewTopic>();
        let (started, servers) = mpsc::channel();
        thread::Builder::new()
            .name("embedded broker".to_owned())
            .spawn(move || {
                let cluster = MockCluster::new(1).expect("the embedded broker needs only loopback");
                started.send(cluster.bootstrap_servers()).expect("the starter waits");
                for (name, partitions, done) in inbox {
                    cluster.create_topic(&name, partitions, 1).expect("a new topic can be made");
                    done.send(()).expect("who ordered waits");
                }
            })
            .expect("a thread can be started");
        let servers = servers.recv().expect("the embedded broker starts");
        Self { servers, orders: Mutex::new(orders) }
    }

    fn create_topic(&self, name: &str, partitions: i32) {
        let (done, made) = mpsc::channel();
        let order = (name.to_owned(), partitions, done);
        self.orders.lock().expect("no holder panics").send(order).expect("the embedded broker runs");
        made.recv().expect("the embedded broker makes the topic");
    }
}

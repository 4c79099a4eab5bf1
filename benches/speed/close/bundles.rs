//! What closing comes down to: pages of logs are read from Redis, and their bundles are produced.

use std::sync::Arc;

use bundlehook::{
    flow::window_to_bundle::{Bundler, Occasion, WindowContent},
    model::{
        bundle::{BundleRecord, Source},
        history::Directory,
        position::ClosedWindow,
        time::Millis,
        window::WindowKey,
    },
    wire::bundle,
};
use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::BaseRecord,
};
use redis::aio::MultiplexedConnection;

use crate::{
    cost::{Cost, Reading},
    floor::Producer,
    pure::{directory, source},
    rig::{NOWHERE, PARTITIONS, WINDOWS, create_topic, webhooks},
    support::System,
};

/// Windows that the program reads at once.
const PAGE: usize = 64;
/// At most so many windows of a partition: each costs the floor the same, and all bundles would not fit into a small machine.
const MOST: usize = 50_000;

/// Names of windows with their first offsets.
type Names = Vec<(String, i64)>;
/// Logs, each with a number of parts.
type Logs = Vec<(Vec<u8>, Option<u32>)>;

/// Bundles of the windows that are read at once.
type Pages = Arc<Vec<Vec<Ready>>>;

/// A bundle as it is produced.
struct Ready {
    chat: String,
    headers: bundle::Headers,
    body: bytes::Bytes,
}

/// The windows of a partition that end at a boundary.
struct Due {
    partition: i32,
    /// What the names of all keys begin with.
    key: String,
    /// The key of their names.
    names: String,
}

/// The bundles of windows that are open, by partition and page.
pub struct Bundles(Vec<(Arc<Due>, Pages)>);

impl Bundles {
    /// Builds what the windows that end at a boundary will become, and leaves them as they are.
    pub async fn of(system: &System, boundary: u64) -> Self {
        let builder = Builder::new(boundary);
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            let mut redis = system.redis.connection().await;
            let due = Due::find(system, partition, boundary).await;
            let mut pages = Vec::new();
            for rank in (0..MOST).step_by(PAGE) {
                let (names, logs) = due.read(&mut redis, rank).await;
                if names.is_empty() {
                    break;
                }
                let ready = names.iter().zip(&logs).flat_map(|(name, (log, _))| builder.build(name, log));
                pages.push(ready.collect());
            }
            all.push((Arc::new(due), Arc::new(pages)));
        }
        Self(all)
    }

    /// Reads the same logs and produces the same bundles, all partitions side by side.
    pub async fn read_and_produce(&self, system: &System) -> Cost {
        let topic = create_topic(system, "floor").await;
        let producer = Arc::new(Producer::new(system));
        let began = Reading::own();
        let mut partitions = tokio::task::JoinSet::new();
        for (due, pages) in &self.0 {
            let (due, pages, producer) = (due.clone(), pages.clone(), producer.clone());
            let (topic, mut redis) = (topic.clone(), system.redis.connection().await);
            partitions.spawn(async move {
                for (rank, page) in (0..).step_by(PAGE).zip(&*pages) {
                    due.read(&mut redis, rank).await;
                    for ready in page {
                        ready.produce(&producer, &topic, due.partition);
                    }
                }
            });
        }
        partitions.join_all().await;
        producer.flush();
        Reading::own().since(began, self.0.iter().flat_map(|(_, pages)| &**pages).map(Vec::len).sum())
    }
}

impl Due {
    async fn find(system: &System, partition: i32, boundary: u64) -> Self {
        let tag = format!("{{{}me:{partition}}}", system.prefix);
        let owner = format!("{tag}:owner");
        let incarnation: String = system.redis.command(&["HGET", &owner, "incarnation"]).await;
        let key = format!("{tag}:{incarnation}");
        let names = format!("{key}:due:{boundary}");
        Self { partition, key, names }
    }

    /// The next page, as the program reads it: the names, then the logs.
    async fn read(&self, redis: &mut MultiplexedConnection, rank: usize) -> (Names, Logs) {
        let mut range = redis::cmd("ZRANGE");
        range.arg(&self.names).arg(rank).arg(rank + PAGE - 1).arg("WITHSCORES");
        let names: Names = range.query_async(redis).await.expect("Redis answers");
        if names.is_empty() {
            return (names, Vec::new());
        }
        let mut logs = redis::pipe();
        for (name, _) in &names {
            logs.get(format!("{}:w:{name}", self.key)).hget(format!("{}:i:{name}", self.key), "#p");
        }
        (names, logs.query_async(redis).await.expect("Redis answers"))
    }
}

impl Ready {
    fn produce(&self, producer: &Producer, topic: &str, partition: i32) {
        let headers = OwnedHeaders::new_with_capacity(self.headers.len());
        let insert = |headers: OwnedHeaders, (key, value): &(&'static str, String)| {
            headers.insert(Header { key, value: Some(value.as_str()) })
        };
        let headers = self.headers.iter().fold(headers, insert);
        let record = BaseRecord::to(topic).partition(partition).headers(headers);
        producer.send(record.key(self.chat.as_bytes()).payload(&self.body[..]));
    }
}

/// Makes bundles with the program's own code, so that the floor has the same bytes.
struct Builder {
    directory: Directory,
    source: Source,
    boundary: Millis,
}

impl Builder {
    fn new(boundary: u64) -> Self {
        let directory = directory(&webhooks(1, &WINDOWS, NOWHERE));
        Self { directory, source: source(), boundary: Millis(boundary as i64) }
    }

    fn build(&self, (name, first_offset): &(String, i64), log: &[u8]) -> Vec<Ready> {
        let key = WindowKey::parse(name).expect("the program has named it");
        let granularity = key.window.granularity;
        let closed = ClosedWindow { boundary: self.boundary, first_offset: *first_offset, granularity };
        let bundler = Bundler { directory: &self.directory, source: &self.source, product: "TimelinesAI" };
        let content = WindowContent { key: &key, part: 0, occasion: Occasion::Closed(closed), log };
        let built = bundler.bundles(&content).expect("the log is whole");
        let ready = |BundleRecord { head, body }: BundleRecord| Ready {
            chat: head.chat_id.to_string(),
            headers: bundle::encode(&head),
            body,
        };
        built.records.into_iter().map(ready).collect()
    }
}

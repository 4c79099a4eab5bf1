//! Systems as the figures want them, and what is asked of them.

use std::time::Duration;

use bundlehook::io::clock;
use serde_json::{Value, json};

use super::{
    hours,
    input::Input,
    support::{LIMIT, Outgoing, Redis, Role, Setup, System, system, webhook},
};

/// Of each topic.
pub const PARTITIONS: i32 = 4;
/// The windows that there are.
pub const WINDOWS: [&str; 4] = ["1h", "6h", "12h", "24h"];
/// Events that count.
pub const ACCEPTED: &str = "bundlehook_events_accepted_total";
/// Bundles that `aggregate` has published.
pub const PUBLISHED: &str = "bundlehook_bundles_published_total";
/// Bundles that were delivered.
pub const DELIVERED: &str = "bundlehook_bundles_settled_total{result=\"delivered\"}";
/// Where nothing is ever sent to.
pub const NOWHERE: &str = "http://127.0.0.1:9/";

/// Messages published at once.
const BATCH: usize = 20_000;
/// How often it is asked how far processes are, which costs them a little.
const PACE: Duration = Duration::from_millis(200);
/// The longest that a turn may take.
const PATIENCE: Duration = Duration::from_mins(15);

/// Now, in milliseconds since 1970.
pub fn now() -> u64 {
    clock::now().0 as u64
}

/// A system whose windows do not close while it is measured.
pub fn unhurried() -> Setup {
    with_hour(hours::just_begun(now()))
}

/// A system with an hour of so many milliseconds.
pub fn with_hour(hour: u64) -> Setup {
    system(hour).partitions(PARTITIONS).env("BUNDLEHOOK_LOG", "warn")
}

/// Starts a system.
pub async fn start(setup: Setup, webhooks: &[Value]) -> System {
    setup.start(webhooks).await.expect("Apache Kafka runs: that was looked at first")
}

/// Webhooks of so many workspaces, `ws-0` and on, one of each granularity.
pub fn webhooks(workspaces: usize, granularities: &[&str], url: &str) -> Vec<Value> {
    let settings = |workspace: usize, granularity: &&str| {
        let (id, granularity) =
            (format!("wh-{workspace}-{granularity}"), json!({"granularity": granularity}));
        webhook(&id, &format!("ws-{workspace}"), url, granularity)
    };
    let of_workspace = |workspace| granularities.iter().map(move |each| settings(workspace, each));
    (0..workspaces).flat_map(of_workspace).collect()
}

/// Publishes so many messages more; answers how many bytes their events have.
pub async fn publish(system: &System, input: &mut Input, messages: usize) -> usize {
    let mut bytes = 0;
    for from in (0..messages).step_by(BATCH) {
        let at = clock::now().to_rfc3339();
        let batch: Vec<_> = (from..(from + BATCH).min(messages)).map(|_| input.next(&at)).collect();
        bytes += batch.iter().map(|message| message.event.len()).sum::<usize>();
        let records = batch.into_iter().map(|message| Outgoing::new(message.chat, message.event));
        system.produce("message-events", records).await;
    }
    bytes
}

/// The sum of all series of all processes that begin so.
pub async fn sum<'a>(roles: impl IntoIterator<Item = &'a Role>, series: &str) -> f64 {
    let mut sum = 0.0;
    for role in roles {
        sum += role.sum(series).await;
    }
    sum
}

/// Waits until that sum is at least this.
pub async fn reach<'a>(roles: impl IntoIterator<Item = &'a Role> + Clone, series: &str, least: f64) {
    let reached = async {
        while sum(roles.clone(), series).await < least {
            tokio::time::sleep(PACE).await;
        }
    };
    let within = tokio::time::timeout(PATIENCE, reached).await;
    within.unwrap_or_else(|_| panic!("`{series}` did not reach {least} within {PATIENCE:?}"));
}

/// Ends a process as an operator does.
pub async fn stop(role: &Role) {
    role.process.sigterm();
    assert!(role.process.wait_exit(LIMIT).await.success());
}

/// Calls of Redis that a process has made: each is a round trip.
pub async fn round_trips(role: &Role) -> f64 {
    role.sum("bundlehook_redis_operation_duration_seconds_count").await
}

/// Bytes that a Redis has read from and written to connections.
pub async fn redis_traffic(redis: &Redis) -> f64 {
    let info: String = redis.command(&["INFO", "stats"]).await;
    field(&info, "total_net_input_bytes:") + field(&info, "total_net_output_bytes:")
}

/// Microseconds of CPU that a Redis has spent.
pub async fn redis_cpu(redis: &Redis) -> f64 {
    let info: String = redis.command(&["INFO", "cpu"]).await;
    1e6 * (field(&info, "used_cpu_sys:") + field(&info, "used_cpu_user:"))
}

/// Bytes that a Redis has taken.
pub async fn redis_memory(redis: &Redis) -> f64 {
    field(&redis.command::<String>(&["INFO", "memory"]).await, "used_memory:")
}

fn field(info: &str, name: &str) -> f64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("Redis says it");
    line.trim().parse().expect("it is a number")
}

/// Bytes that the partitions of a topic take on the disks of brokers.
pub async fn kafka_bytes(system: &System, topic: &str) -> f64 {
    let topic = system.topic(topic);
    let arguments = ["--describe", "--topic-list", &topic];
    let said = system.kafka.tool("org.apache.kafka.tools.LogDirsCommand", &arguments).await;
    let json = said.lines().find(|line| line.starts_with('{')).expect("it says JSON");
    let json: Value = serde_json::from_str(json).expect("it says JSON");
    let list = |value: &Value, name| value[name].as_array().cloned().unwrap_or_default();
    let folders = list(&json, "brokers").into_iter().flat_map(|broker| list(&broker, "logDirs"));
    let partitions = folders.flat_map(|folder| list(&folder, "partitions"));
    partitions.filter_map(|partition| partition["size"].as_f64()).sum()
}

/// Makes a topic beside those of a system, with as many partitions.
pub async fn create_topic(system: &System, name: &str) -> String {
    let topic = system.topic(name);
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    system.kafka.create_topic(&topic, PARTITIONS, &stamped).await;
    topic
}

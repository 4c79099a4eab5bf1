//! The product as a whole: topics, a Redis, `aggregate` and `deliver` as processes of their own.
//!
//! [`tenant`] lends a workspace of a system that all tests share; a test that breaks, times or counts something starts
//! a [`System`] of its own.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Mutex;
use std::time::Duration;

use bundlehook::config::KafkaSettings;
use bundlehook::io::{attempt_log::AttemptLog, clock};
use bundlehook::model::ids::{WebhookId, WorkspaceId};
use bundlehook::model::statistics::Tenure;
use serde_json::{Value, json};

use super::{
    Finished, Kafka, LIMIT, Launch, Outgoing, Process, Receiver, Record, Redis, RedisKind, Request,
    committed, end_offsets, kafka, ok, process, produce, read_topic, receiver, redis, wait_until,
    wait_while_moving,
};

/// A change of settings counts from so many milliseconds after it.
const COUNTS_AFTER: i64 = 5_000;
/// Workspaces of the shared system.
const TENANTS: usize = 32;
/// Length of an hour in the shared system.
const SHARED_HOUR: u64 = 2_000;

/// How a system is set up.
pub struct Setup {
    hour: u64,
    partitions: i32,
    env: Vec<(String, String)>,
    /// Of one role alone.
    role_env: Vec<(&'static str, String, String)>,
    /// What the rig would set, and is not to.
    without: Option<&'static str>,
    prefix: Option<String>,
    kafka: Option<Kafka>,
    redis: Option<Redis>,
}

/// For `BUNDLEHOOK_KAFKA_PROPERTIES`: a dead member of a group is noticed after 1.5 s.
pub const SESSION: &str = "session.timeout.ms=1500,heartbeat.interval.ms=300";

/// For `BUNDLEHOOK_RETRY_SCHEDULE`: the eleventh failure, which disables, comes after a minute at the earliest, however busy the
/// machine is; who is back is tried after 9 s at the latest.
pub const PATIENT: &str = "300ms,1s,3s,8s";

/// A system with an hour of so many milliseconds, a grace of 200 ms, no limit of age and one partition.
pub fn system(hour: u64) -> Setup {
    let setup = Setup {
        hour,
        partitions: 1,
        env: Vec::new(),
        role_env: Vec::new(),
        without: None,
        prefix: None,
        kafka: None,
        redis: None,
    };
    setup
        .env("BUNDLEHOOK_WINDOW_GRACE", "200ms")
        .env("BUNDLEHOOK_MAX_AGE", "0")
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", "127.0.0.0/8")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "100ms")
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "1s")
        .env("BUNDLEHOOK_LOG", "info,bundlehook=debug")
}

impl Setup {
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets a variable of one role alone.
    pub fn env_of(mut self, role: &'static str, name: &str, value: &str) -> Self {
        self.role_env.push((role, name.to_owned(), value.to_owned()));
        self
    }

    /// Names topics with a prefix that is known before; for a broker of a test's own.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    /// Sets a variable of both processes; a later value wins.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a variable of the rig's out.
    pub fn without(mut self, name: &'static str) -> Self {
        self.without = Some(name);
        self
    }

    /// Runs on a Kafka of its own, to be broken.
    pub fn kafka(mut self, kafka: Kafka) -> Self {
        self.kafka = Some(kafka);
        self
    }

    /// Runs on this Redis instead of a single server.
    pub fn redis(mut self, redis: Redis) -> Self {
        self.redis = Some(redis);
        self
    }

    /// Makes the topics, publishes settings, starts the roles, and waits until all partitions are claimed and the
    /// settings count. None where there is no Apache Kafka.
    pub async fn start(self, webhooks: &[Value]) -> Option<System> {
        let Self {
            hour,
            partitions,
            env: more,
            role_env,
            without,
            prefix,
            kafka: own_kafka,
            redis: own_redis,
        } = self;
        let kafka = match own_kafka {
            Some(kafka) => Cluster::Own(Box::new(kafka)),
            None => Cluster::Shared(kafka().await?),
        };
        let redis = match own_redis {
            Some(redis) => redis,
            None => redis(RedisKind::Single).await,
        };
        let prefix = prefix.unwrap_or_else(|| kafka.prefix());
        let own = [
            ("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers().to_owned()),
            ("BUNDLEHOOK_REDIS_URL", redis.setting()),
            ("BUNDLEHOOK_TOPIC_PREFIX", prefix.clone()),
            ("BUNDLEHOOK_HOUR", format!("{hour}ms")),
        ];
        let mut env: Vec<_> = own.map(|(name, value)| (name.to_owned(), value)).into();
        env.retain(|(name, _)| without != Some(name.as_str()));
        env.extend(more);
        let made = process("topics")
            .arg(format!("--partitions={partitions}"))
            .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
            .env("BUNDLEHOOK_TOPIC_PREFIX", &prefix)
            .run()
            .await;
        assert!(made.status.success(), "{made:?}");
        let launch = |role| {
            let mut env = env.clone();
            let own = role_env.iter().filter(|(of, ..)| *of == role);
            env.extend(own.map(|(_, name, value)| (name.clone(), value.clone())));
            Role::start(role, &env)
        };
        let (aggregate, deliver) = (launch("aggregate"), launch("deliver"));
        // Before that, settings that can't be used are not reported.
        aggregate.process.wait_ready().await;
        let system = System { kafka, redis, prefix, aggregate, deliver, hour, partitions, env };
        system.settings(webhooks).await;
        system.aggregate.wait_claimed(partitions).await;
        system.deliver.wait_claimed(partitions).await;
        system.settings_count().await;
        Some(system)
    }
}

/// A running role.
pub struct Role {
    pub process: Process,
    name: &'static str,
}

impl Role {
    fn start(name: &'static str, env: &[(String, String)]) -> Self {
        let launch = env.iter().fold(process(name), |launch, (name, value)| launch.env(name, value));
        Self { process: launch.start(), name }
    }

    /// Waits until so many partitions are claimed.
    pub async fn wait_claimed(&self, partitions: i32) {
        self.process.wait_ready().await;
        let series = format!("bundlehook_claims_total{{role=\"{}\"", self.name);
        wait_until(&format!("`{}` to claim its partitions", self.name), LIMIT, async || {
            self.sum(&series).await >= f64::from(partitions)
        })
        .await;
    }

    /// The sum of all series that begin so.
    pub async fn sum(&self, series: &str) -> f64 {
        let page = self.process.metrics().await;
        let values =
            page.lines().filter(|line| line.starts_with(series)).filter_map(|line| line.rsplit(' ').next());
        values
            .map(|value| value.parse::<f64>().expect("a metric is a number"))
            .fold(0.0, |sum, value| sum + value)
    }

    /// Waits until the sum of all series that begin so is at least this.
    pub async fn wait_sum(&self, series: &str, least: f64) {
        wait_while_moving(&format!("`{series}` to reach {least}"), async || {
            let sum = self.sum(series).await;
            (sum < least).then_some(sum)
        })
        .await;
    }
}

/// The Kafka of a system: the shared one, or its own.
pub enum Cluster {
    Shared(&'static Kafka),
    Own(Box<Kafka>),
}

impl Deref for Cluster {
    type Target = Kafka;

    fn deref(&self) -> &Kafka {
        match self {
            Self::Shared(kafka) => kafka,
            Self::Own(kafka) => kafka,
        }
    }
}

/// A running system.
pub struct System {
    pub kafka: Cluster,
    pub redis: Redis,
    pub prefix: String,
    pub aggregate: Role,
    pub deliver: Role,
    /// Length of an hour, in milliseconds.
    pub hour: u64,
    pub partitions: i32,
    env: Vec<(String, String)>,
}

impl System {
    pub fn topic(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// All records of a topic so far.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        read_topic(self.kafka.servers(), &self.topic(topic)).await
    }

    /// Waits until the records of a topic satisfy a condition, and returns them.
    pub async fn wait_records(&self, topic: &str, condition: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let mut found = Vec::new();
        wait_while_moving(&format!("records of `{topic}`"), async || {
            found = self.records(topic).await;
            (!condition(&found)).then_some(found.len())
        })
        .await;
        found
    }

    /// Publishes settings of webhooks.
    pub async fn settings(&self, webhooks: &[Value]) {
        let record = |webhook: &Value| Outgoing::new(text(&webhook["webhook_id"]), webhook.to_string());
        self.produce("webhook-settings", webhooks.iter().map(record)).await;
    }

    /// Deletes a webhook.
    pub async fn delete_webhook(&self, id: &str) {
        self.produce("webhook-settings", [Outgoing::tombstone(id)]).await;
    }

    /// Waits until the settings published so far count.
    pub async fn settings_count(&self) {
        let records = self.records("webhook-settings").await;
        let last = records.iter().map(|record| record.timestamp).max().unwrap_or_default();
        wait_until("the settings to count", LIMIT, async || clock::now().0 > last + COUNTS_AFTER).await;
    }

    pub async fn produce(&self, topic: &str, records: impl IntoIterator<Item = Outgoing>) -> Vec<(i32, i64)> {
        produce(self.kafka.servers(), &self.topic(topic), records).await
    }

    /// Publishes events, in order; answers partition and offset of each.
    pub async fn publish(&self, events: &[Value]) -> Vec<(i32, i64)> {
        let record = |event: &Value| Outgoing::new(text(&event["chat"]["chat_id"]), event.to_string());
        self.produce("message-events", events.iter().map(record)).await
    }

    /// Waits for the first third of a window of so many hours, so that what is published now is all in it.
    pub async fn window_start(&self, hours: u64) {
        let length = (self.hour * hours) as i64;
        wait_until("the start of a window", LIMIT, async || {
            (220..220 + length / 3).contains(&(clock::now().0.rem_euclid(length)))
        })
        .await;
    }

    /// Waits until every window is closed and every bundle is done with.
    pub async fn wait_done(&self) {
        self.wait_committed("aggregate", "message-events").await;
        self.wait_delivered().await;
    }

    /// Waits until every bundle so far is done with: read, and not waiting or parked.
    pub async fn wait_delivered(&self) {
        self.wait_committed("deliver", "bundles").await;
        // While a partition is claimed anew, nothing is said of what is parked.
        let parked = "bundlehook_deliveries_parked{";
        wait_while_moving("nothing to be parked", async || {
            let is_said = self.deliver.process.metrics().await.contains(parked);
            let left =
                self.deliver.sum(parked).await + self.deliver.sum("bundlehook_deliveries_waiting ").await;
            (!is_said || left > 0.0).then_some((is_said, left))
        })
        .await;
    }

    /// Waits until a role has committed the end of a topic.
    pub async fn wait_committed(&self, role: &str, topic: &str) {
        let servers = self.kafka.servers();
        let (group, topic) = (format!("{}bundlehook-{role}", self.prefix), self.topic(topic));
        wait_while_moving(&format!("`{role}` to commit the end of `{topic}`"), async || {
            let ends: Vec<_> = end_offsets(servers, &topic).await.into_iter().map(Some).collect();
            let committed = committed(servers, &group, &topic).await;
            let offsets: Vec<_> = committed.iter().map(|partition| partition.offset).collect();
            (offsets != ends).then_some((offsets, ends))
        })
        .await;
    }

    /// Waits until a role has committed an offset of the only partition of a topic.
    pub async fn wait_committed_offset(&self, role: &str, topic: &str, offset: i64) {
        let (group, topic) = (format!("{}bundlehook-{role}", self.prefix), self.topic(topic));
        wait_until(&format!("`{role}` to commit {offset} of `{topic}`"), LIMIT, async || {
            let committed = committed(self.kafka.servers(), &group, &topic).await;
            committed.iter().any(|partition| partition.offset == Some(offset))
        })
        .await;
    }

    /// Sets a variable of the processes that are started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts a role anew, after it was ended, and waits until it has claimed all partitions.
    pub async fn restart(&mut self, role: &'static str) {
        let started = Role::start(role, &self.env);
        started.wait_claimed(self.partitions).await;
        *(if role == "aggregate" { &mut self.aggregate } else { &mut self.deliver }) = started;
    }

    /// Runs `bundlehook webhook` with these arguments.
    pub async fn webhook(&self, args: &[&str]) -> Finished {
        let launch = process("webhook").args(args.iter().copied());
        launch
            .env("BUNDLEHOOK_KAFKA_BROKERS", self.kafka.servers())
            .env("BUNDLEHOOK_REDIS_URL", self.redis.url())
            .env("BUNDLEHOOK_TOPIC_PREFIX", &self.prefix)
            .run()
            .await
    }

    /// Runs it with `--json`, and returns what it says; it must end with 0.
    pub async fn webhook_json(&self, args: &[&str]) -> Value {
        let finished = self.webhook(&[args, &["--json"]].concat()).await;
        assert!(finished.status.success(), "{args:?}: {finished:?}");
        serde_json::from_str(&finished.stdout).expect("it says JSON")
    }

    /// A role or tool to be started beside the system, with its settings.
    pub fn launch(&self, role: &str) -> Launch {
        self.env.iter().fold(process(role), |launch, (name, value)| launch.env(name, value))
    }

    /// Starts another process of a role.
    pub async fn another(&self, role: &'static str) -> Role {
        let started = Role::start(role, &self.env);
        started.process.wait_ready().await;
        started
    }

    /// Starts another process of a role, with one more variable, and does not wait for it.
    pub fn start_with(&self, role: &'static str, name: &str, value: &str) -> Role {
        let more = [(name.to_owned(), value.to_owned())];
        Role::start(role, &[self.env.as_slice(), &more].concat())
    }

    /// The logs of webhooks, read as whoever shows them reads them.
    pub async fn attempt_log(&self) -> AttemptLog {
        let mut kafka = KafkaSettings::embedded(self.kafka.servers().to_owned(), BTreeMap::new());
        kafka.topics.prefix.clone_from(&self.prefix);
        AttemptLog::new(self.redis.client().await, &kafka)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("the id is a text")
}

/// Settings of a webhook, changed by what is in `more`.
pub fn webhook(id: &str, workspace: &str, url: &str, more: Value) -> Value {
    let mut settings = json!({
        "webhook_id": id, "workspace_id": workspace, "label": "CRM notes", "url": url,
        "owner": {"full_name": "Amnon Haha", "email": "amnon@acme.example"},
    });
    let Value::Object(more) = more else { panic!("`{more}` is no object") };
    settings.as_object_mut().expect("settings are an object").extend(more);
    settings
}

/// An event that is sent now; the message's id is its text, too.
pub fn event(workspace: &str, chat: &str, message: &str) -> Value {
    json!({
        "workspace_id": workspace,
        "whatsapp_account": {"full_name": "Amnon Haha", "email": "amnon@acme.example", "phone": "+972500000000"},
        "chat": {
            "full_name": "John Doe", "responsible_name": "Amnon", "responsible_email": "amnon@acme.example",
            "chat_url": "https://crm.example/chat/1/", "chat_id": chat, "is_new_chat": false, "is_group": false,
            "phone": "+972540000000",
        },
        "message": {
            "direction": "received", "timestamp": clock::now().to_rfc3339(), "message_id": message,
            "sender": {"full_name": "John Doe", "phone": "+972540000000"},
            "recipient": {"full_name": "Amnon Haha", "phone": "+972500000000"}, "text": message,
        },
    })
}

/// The ids of the messages in a POST, of either form.
pub fn message_ids(request: &Request) -> Vec<String> {
    let body = request.json();
    let id = |message: &Value| text(&message["message_id"]).to_owned();
    match body.get("messages") {
        Some(messages) => messages.as_array().expect("messages are a list").iter().map(id).collect(),
        None => vec![id(&body["message"])],
    }
}

/// A workspace of the shared system with two webhooks: `{workspace}-none`, which POSTs to the path `/none`, and
/// `{workspace}-1h`, which POSTs to `/1h`.
pub struct Tenant {
    pub workspace: String,
    pub receiver: Receiver,
    pub system: &'static System,
}

struct Shared {
    system: System,
    tenants: Mutex<Vec<(String, Receiver)>>,
}

/// A workspace that no other test has. None where there is no Apache Kafka.
pub async fn tenant() -> Option<Tenant> {
    static SHARED: tokio::sync::OnceCell<Option<Shared>> = tokio::sync::OnceCell::const_new();
    let shared = SHARED.get_or_init(share).await;
    let Some(shared) = shared else {
        kafka().await;
        return None;
    };
    let lent = shared.tenants.lock().expect("no holder panics").pop();
    let (workspace, receiver) = lent.expect("there are as many workspaces as tests that want one");
    Some(Tenant { workspace, receiver, system: &shared.system })
}

async fn share() -> Option<Shared> {
    let tenants: Vec<_> = (0..TENANTS).map(|n| (format!("ws-{n}"), receiver(ok()))).collect();
    let own = |(workspace, receiver): &(String, Receiver)| {
        ["none", "1h"].map(|granularity| {
            let url = receiver.url(&format!("/{granularity}"));
            webhook(
                &format!("{workspace}-{granularity}"),
                workspace,
                &url,
                json!({"granularity": granularity}),
            )
        })
    };
    let webhooks: Vec<Value> = tenants.iter().flat_map(own).collect();
    let system = system(SHARED_HOUR).partitions(2).start(&webhooks).await?;
    Some(Shared { system, tenants: Mutex::new(tenants) })
}

impl Tenant {
    /// An event of this workspace.
    pub fn event(&self, chat: &str, message: &str) -> Value {
        event(&self.workspace, chat, message)
    }

    /// Id of the webhook of a granularity.
    pub fn webhook_id(&self, granularity: &str) -> String {
        format!("{}-{granularity}", self.workspace)
    }

    /// Whose log that webhook has.
    pub fn tenure(&self, granularity: &str) -> Tenure {
        Tenure {
            webhook: WebhookId::parse(&self.webhook_id(granularity)).expect("it is an id"),
            workspace: WorkspaceId::parse(&self.workspace).expect("it is an id"),
        }
    }

    /// Settings of the webhook of a granularity, changed by what is in `more`.
    pub fn webhook(&self, granularity: &str, more: Value) -> Value {
        let mut settings = webhook(
            &self.webhook_id(granularity),
            &self.workspace,
            &self.receiver.url(&format!("/{granularity}")),
            json!({"granularity": granularity}),
        );
        let Value::Object(more) = more else { panic!("`{more}` is no object") };
        settings.as_object_mut().expect("settings are an object").extend(more);
        settings
    }

    /// Publishes settings and waits until they count.
    pub async fn change(&self, webhooks: &[Value]) {
        self.system.settings(webhooks).await;
        self.system.settings_count().await;
    }

    /// The POSTs to a path so far.
    pub fn posts(&self, path: &str) -> Vec<Request> {
        self.receiver.requests().into_iter().filter(|request| request.path == path).collect()
    }

    /// Waits for so many POSTs to a path, and returns all.
    pub async fn wait_posts(&self, path: &str, count: usize) -> Vec<Request> {
        let enough =
            |requests: &[Request]| requests.iter().filter(|request| request.path == path).count() >= count;
        self.receiver.wait_for(enough, &format!("{count} POSTs to `{path}`")).await;
        self.posts(path)
    }

    /// The records of a topic that name this workspace's webhook of a granularity.
    pub async fn records_of(&self, topic: &str, granularity: &str) -> Vec<Record> {
        let id = self.webhook_id(granularity);
        let mut records = self.system.records(topic).await;
        records.retain(|record| record.value.is_some() && record.json()["webhook_id"] == id.as_str());
        records
    }

    /// Waits until as many records of a topic name this workspace's webhook of a granularity.
    pub async fn wait_records_of(&self, topic: &str, granularity: &str, count: usize) -> Vec<Record> {
        let mut found = Vec::new();
        wait_while_moving(&format!("{count} records of `{topic}`"), async || {
            found = self.records_of(topic, granularity).await;
            (found.len() < count).then_some(found.len())
        })
        .await;
        found
    }

    /// Waits until as many messages of this workspace were delivered as it takes for one published now to arrive.
    /// What else was to come before has come then.
    pub async fn wait_sentinel(&self, chat: &str) -> Vec<Request> {
        self.system.publish(&[self.event(chat, "sentinel")]).await;
        let has_it = |requests: &[Request]| {
            requests.iter().any(|request| request.path == "/none" && message_ids(request) == ["sentinel"])
        };
        self.receiver.wait_for(has_it, "the sentinel").await
    }
}

impl Drop for Tenant {
    /// The shared processes show what they said only here.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for role in [&self.system.aggregate, &self.system.deliver] {
                let said = role.process.stderr();
                let lines: Vec<&str> = said.lines().filter(|line| !line.contains("DEBUG")).collect();
                eprintln!(
                    "---- last of `{}`:\n{}",
                    role.name,
                    lines[lines.len().saturating_sub(40)..].join("\n")
                );
            }
        }
    }
}

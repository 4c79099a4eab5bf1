//! What any release has left in Redis can be read by this one, or is refused: recordings of all keys of each store, in
//! `tests/fixtures/formats`, with what they mean. A recording is never changed; a new version of a store gets one of its
//! own. What its values are made of is recorded by `tests/formats.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bundlehook::flow::event_to_window::{Plan, Planner, SourceRecord};
use bundlehook::io::Redis;
use bundlehook::io::redis::queue::{self, Changes, QueueStore};
use bundlehook::io::redis::turns::{Turn, Turns};
use bundlehook::io::redis::views::{Item, Said, ViewKind, ViewSource, ViewStore};
use bundlehook::io::redis::windows::{self, WindowStore};
use bundlehook::model::bundle::Source;
use bundlehook::model::delivery::Outcome;
use bundlehook::model::event::Skip;
use bundlehook::model::history::{Directory, Place};
use bundlehook::model::ids::{BundleId, WebhookId, WorkspaceId};
use bundlehook::model::parked::Parked;
use bundlehook::model::statistics::{Day, LogEntry, Tenure};
use bundlehook::model::time::Millis;
use bundlehook::model::window::{WindowKey, WindowRule, WindowRules};
use bundlehook::wire::{settings, window_log};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{self, RedisKind, redis, webhook};

const PREFIX: &str = "p.";
const PARTITION: i32 = 3;
/// Ids of two claims.
const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);
const HOUR: Duration = Duration::from_hours(1);
/// 2021-02-24, 16:25:30 UTC.
const NOW: Millis = Millis(1_614_183_930_000);

/// A key of Redis and what it holds. What is no plain text stands there as `hex:` and its digits.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Key {
    #[serde(rename = "key")]
    name: String,
    #[serde(flatten)]
    content: Content,
    /// It goes by itself.
    expires: bool,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    String(String),
    Hash(BTreeMap<String, String>),
    /// In order, each with its score.
    Zset(Vec<(String, i64)>),
}

fn text(bytes: &[u8]) -> String {
    // A script may write the fields of JSON in any order.
    if let Ok(json) = serde_json::from_slice::<serde_json::Map<_, _>>(bytes) {
        return Value::Object(json).to_string();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.iter().fold("hex:".to_owned(), |digits, byte| format!("{digits}{byte:02x}")),
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let Some(digits) = text.strip_prefix("hex:") else { return text.as_bytes().to_vec() };
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("they are digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Everything that Redis holds, by the keys' names.
async fn kept(server: &support::Redis) -> Vec<Key> {
    let mut names: Vec<String> = server.command(&["KEYS", "*"]).await;
    names.sort_unstable();
    let mut keys = Vec::new();
    for key in names {
        let kind: String = server.command(&["TYPE", &key]).await;
        let content = match kind.as_str() {
            "string" => Content::String(text(&server.command::<Vec<u8>>(&["GET", &key]).await)),
            "hash" => {
                let fields: Vec<(Vec<u8>, Vec<u8>)> = server.command(&["HGETALL", &key]).await;
                Content::Hash(fields.iter().map(|(field, value)| (text(field), text(value))).collect())
            }
            "zset" => {
                let members: Vec<(Vec<u8>, i64)> =
                    server.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await;
                Content::Zset(members.iter().map(|(member, score)| (text(member), *score)).collect())
            }
            other => panic!("`{key}` is a {other}, expected a string, a hash or a sorted set"),
        };
        let expires = server.command::<i64>(&["TTL", &key]).await >= 0;
        keys.push(Key { name: key, content, expires });
    }
    keys
}

/// What a store has written, all in all, is as its recording. What has none yet gets one.
fn assert_recorded(name: &str, written: &[Key]) {
    let path = recording(name);
    if !path.exists() {
        let lines = written.iter().map(|key| serde_json::to_string(key).expect("it is plain data") + "\n");
        fs::write(&path, lines.collect::<String>()).expect("it can be written");
    }
    assert_eq!(written, recorded(name), "{name}");
}

fn recording(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/formats/{name}.jsonl"))
}

fn recorded(name: &str) -> Vec<Key> {
    let text = fs::read_to_string(recording(name)).expect("there is a recording");
    text.lines().map(|line| serde_json::from_str(line).expect("it was written by this test")).collect()
}

/// Leaves in Redis just what was recorded.
async fn restore(server: &support::Redis, name: &str) {
    server.flushall().await;
    let mut pipe = redis::pipe();
    for Key { name: key, content, expires } in &recorded(name) {
        match content {
            Content::String(value) => drop(pipe.set(key, bytes(value))),
            Content::Hash(fields) => {
                for (field, value) in fields {
                    pipe.hset(key, bytes(field), bytes(value));
                }
            }
            Content::Zset(members) => {
                for (member, score) in members {
                    pipe.zadd(key, bytes(member), *score);
                }
            }
        }
        if *expires {
            pipe.expire(key, 3_600);
        }
    }
    let () = pipe.query_async(&mut server.connection().await).await.expect("Redis answers");
}

fn id(name: &str) -> WebhookId {
    WebhookId::parse(name).expect("it is an id")
}

/// Parts of two messages, so that a window is soon cut.
fn rule() -> WindowRule {
    WindowRule { part_messages: 2, ..WindowRule::new(HOUR, Duration::ZERO, Duration::ZERO) }
}

/// What comes of messages at offsets, each with an id and the chat's name, for webhooks of three granularities.
fn plan(messages: &[(i64, &str, &str)]) -> Plan {
    let mut directory = Directory::default();
    for (offset, granularity) in (0..).zip(["none", "1h", "24h"]) {
        let webhook = webhook(granularity, "ws", "https://crm.example/", json!({"granularity": granularity}));
        let webhook = settings::decode(webhook.to_string().as_bytes()).expect("the settings are valid");
        directory.change(Place { at: Millis(0), offset }, &id(granularity), Some(webhook));
    }
    let planner = Planner {
        directory: &directory,
        source: &Source { topic_id: "topic".to_owned(), partition: PARTITION },
        rules: &WindowRules::single(rule()),
        last_closed: None,
    };
    let events: Vec<String> = messages.iter().map(|(_, message, name)| event(message, name)).collect();
    planner.plan(messages.iter().zip(&events).map(|(&(offset, ..), event)| SourceRecord {
        offset,
        arrived: NOW,
        value: Some(event.as_bytes()),
    }))
}

fn event(message: &str, chat_name: &str) -> String {
    let event = json!({
        "workspace_id": "ws",
        "whatsapp_account": {"full_name": "Amnon Haha", "email": "amnon@acme.example", "phone": null},
        "chat": {
            "full_name": chat_name, "responsible_name": null, "responsible_email": null, "chat_id": "c/1",
            "chat_url": "https://crm.example/c/1/", "is_new_chat": false, "is_group": true, "phone": null,
        },
        "message": {
            "direction": "received", "timestamp": "2021-02-24T16:25:29Z", "message_id": message,
            "sender": {"full_name": "John Doe", "phone": "+972540000000"},
            "recipient": {"full_name": "Amnon Haha", "phone": null}, "text": "Hi \u{1f642}", "permalink": null,
        },
    });
    event.to_string()
}

/// What aggregate makes of the state that it claims: all that it reads, and what it tells of messages that come then.
async fn read_windows(redis: &Redis) -> String {
    let look = windows::look(redis, PREFIX, PARTITION).await.expect("it can be looked at");
    let mut store = WindowStore::new(redis.clone(), PREFIX, PARTITION, SECOND);
    let found = store.claim().await.expect("it can be claimed");
    let go_on = (found.incarnation.clone(), found.applied);
    let (Some(incarnation), Some(applied)) = go_on else { panic!("{found:?}") };
    store.go_on(incarnation, applied).await.expect("it goes on");
    let open = store.open_boundaries().await.expect("they can be read");
    let parts = store.sealed_parts().await.expect("they can be read");
    let mut read = vec![format!("{look:#?}\n{found:#?}\n{open:?}")];
    for part in &parts {
        let log = store.read_part(part).await.expect("it can be read");
        read.push(format!("{part:?}: {:#?}", window_log::decode(&log).expect("it is not damaged")));
    }
    let logs = async |read: &mut Vec<String>| {
        for boundary in open.keys() {
            let windows = store.due(*boundary, 0, 9).await.expect("they can be read");
            let keys: Vec<WindowKey> = windows.iter().map(|(key, _)| key.clone()).collect();
            let logs = store.read(&keys).await.expect("they can be read");
            for ((key, first), (log, part)) in windows.iter().zip(&logs) {
                let frames = window_log::decode(log).expect("it is not damaged");
                read.push(format!("{key:?} from {first}, part {part}: {frames:#?}"));
            }
        }
    };
    logs(&mut read).await;
    let coming = plan(&[(applied, "m-3", "Team"), (applied + 1, "m-4", "Team")]);
    let became = store.apply(&coming, applied + 2, None, &rule()).await.expect("they are applied");
    read.push(format!("{became:#?}"));
    logs(&mut read).await;
    read.join("\n")
}

#[tokio::test]
async fn windows_in_redis_are_as_recorded_and_mean_what_they_meant() {
    let server = redis(RedisKind::Single).await;
    let redis = server.client().await;
    let mut store = WindowStore::new(redis.clone(), PREFIX, PARTITION, FIRST);
    store.claim().await.expect("it can be claimed");
    store.begin_anew("topic", 7).await.expect("it begins");
    let messages = plan(&[(7, "m-1", "Team"), (8, "m-2", "The team"), (9, "m-3", "Team")]);
    store.apply(&messages, 10, Some(Millis(NOW.0 - 1)), &rule()).await.expect("they are applied");

    // What it is named by is drawn at its beginning.
    let incarnation: String = server.command(&["HGET", "{p.me:3}:owner", "incarnation"]).await;
    let written = serde_json::to_string(&kept(&server).await).expect("it is plain data");
    let written = written.replace(&incarnation, "00000001");
    let written: Vec<Key> = serde_json::from_str(&written).expect("it was read");
    assert_recorded("redis-windows-keys-2", &written);

    // The first is of version 1.
    for recording in ["redis-windows-keys", "redis-windows-keys-2"] {
        restore(&server, recording).await;
        insta::assert_snapshot!(recording, read_windows(&redis).await);
        let version: u32 = server.command(&["HGET", "{p.me:3}:owner", "v"]).await;
        assert_eq!(version, 2, "an earlier release does not go on with it");
    }
    let _: u32 = server.command(&["HSET", "{p.me:3}:owner", "v", "3"]).await;
    assert!(!store.claim().await.expect("it can be claimed").readable);
}

fn parked(offset: i64, attempts: u32) -> Parked {
    Parked {
        offset,
        bundle_id: BundleId(Uuid::from_u128(offset as u128)),
        bytes: 2_000,
        bundled_at: NOW,
        arrived_at: NOW + HOUR,
        waiting_since: NOW + 2 * HOUR,
        attempts,
        refusals: 1,
    }
}

/// What deliver makes of the queue that it claims.
async fn read_queue(redis: &Redis) -> String {
    let look = queue::look(redis, PREFIX, PARTITION).await.expect("it can be looked at");
    let counts = queue::counts(redis, PREFIX, PARTITION + 1).await.expect("they can be read");
    let store = QueueStore::new(redis.clone(), PREFIX, PARTITION, SECOND);
    let found = store.claim().await.expect("it can be claimed");
    store.go_on(&found, 12).await.expect("it goes on");
    let webhooks: BTreeMap<_, _> = store.webhooks().await.expect("they can be read").into_iter().collect();
    let page = store.page(&id("wh"), -1, 9).await.expect("it can be read");
    format!("{look:#?}\n{counts:?}\n{found:#?}\n{webhooks:?}\n{page:#?}")
}

#[tokio::test]
async fn a_queue_in_redis_is_as_recorded_and_means_what_it_meant() {
    let server = redis(RedisKind::Single).await;
    let redis = server.client().await;
    let store = QueueStore::new(redis.clone(), PREFIX, PARTITION, FIRST);
    let found = store.claim().await.expect("it can be claimed");
    store.begin_anew(&found, 4, 5, NOW).await.expect("it begins");
    let changes = Changes::from([
        (id("wh"), [(7, Some(parked(7, 0))), (1 << 40, Some(parked(1 << 40, 10)))].into()),
        (id("done"), [(8, Some(parked(8, 1)))].into()),
    ]);
    store.apply(&changes, 8, NOW).await.expect("they are put");
    let changes = Changes::from([(id("done"), [(8, None)].into())]);
    store.apply(&changes, 9, NOW + HOUR).await.expect("it is taken out");
    assert_recorded("redis-queue-keys", &kept(&server).await);

    restore(&server, "redis-queue-keys").await;
    insta::assert_snapshot!("redis-queue-keys", read_queue(&redis).await);

    let _: u32 = server.command(&["HSET", "{p.bundles:3}:owner", "v", "2"]).await;
    assert!(!store.claim().await.expect("it can be claimed").readable);
}

const ATTEMPTS: ViewSource = ViewSource { kind: ViewKind::Attempts, partition: PARTITION };
const SKIPS: ViewSource = ViewSource { kind: ViewKind::Skips, partition: PARTITION };

fn tenure() -> Tenure {
    Tenure { webhook: id("wh"), workspace: WorkspaceId::parse("ws").expect("it is an id") }
}

fn attempted(offset: i64, outcome: Outcome, status: Option<u16>) -> Item {
    let entry = LogEntry {
        at: Millis(NOW.0 + offset),
        partition: PARTITION,
        offset,
        bundle_offset: 7,
        bundle_id: BundleId(Uuid::from_u128(7)),
        messages: 2,
        kind: "bundle".to_owned(),
        attempt: 1,
        outcome,
        status,
        duration_ms: 120,
        settled: outcome.is_delivered().then(|| "delivered".to_owned()),
    };
    Item { offset, said: Said::Attempted(entry) }
}

/// What is shown of a webhook, and how far those are who go on with it.
async fn read_views(store: &ViewStore) -> String {
    let statistics = store.statistics(&tenure(), NOW).await.expect("they can be read");
    let recent = store.recent(&tenure(), 9, NOW).await.expect("they can be read");
    let mut progress = Vec::new();
    for source in [ATTEMPTS, SKIPS] {
        progress.push(store.progress(source).await.expect("it can be read"));
    }
    // It has those below offset 3 already.
    let again = [attempted(2, Outcome::Delivered, Some(200)), attempted(3, Outcome::Delivered, Some(204))];
    let reflected = store.reflect(ATTEMPTS, 6, &tenure(), &again, 4, NOW).await.expect("they are taken in");
    let deliveries = store.statistics(&tenure(), NOW).await.expect("they can be read").deliveries();
    format!("{statistics:#?}\n{recent:#?}\n{progress:#?}\n{reflected:?} {deliveries}")
}

#[tokio::test]
async fn views_in_redis_are_as_recorded_and_mean_what_they_meant() {
    let server = redis(RedisKind::Single).await;
    let store = ViewStore::new(server.client().await, PREFIX);
    let begun = store.begin(ATTEMPTS, 6).await.expect("it begins");
    let attempts = [
        attempted(0, Outcome::Status, Some(503)),
        attempted(1, Outcome::Timeout, None),
        attempted(2, Outcome::Delivered, Some(200)),
    ];
    store
        .reflect(ATTEMPTS, begun.incarnation, &tenure(), &attempts, 3, NOW)
        .await
        .expect("they are taken in");
    store.advance(ATTEMPTS, begun, 3).await.expect("it advances");
    let begun = store.begin(SKIPS, 2).await.expect("it begins");
    let skipped = [Item { offset: 0, said: Said::Skipped(Day::of(NOW), Skip::TooOld, 4) }];
    store.reflect(SKIPS, begun.incarnation, &tenure(), &skipped, 1, NOW).await.expect("it is taken in");
    assert_recorded("redis-views-keys", &kept(&server).await);

    restore(&server, "redis-views-keys").await;
    insta::assert_snapshot!("redis-views-keys", read_views(&store).await);

    let _: u32 = server.command(&["HSET", "{p.attempts:3}:views", "v", "3"]).await;
    assert_eq!(store.progress(ATTEMPTS).await.expect("it can be read"), None);
}

/// A turn is a time by the clock of Redis, so what is written now is never what was recorded: that one lies far ahead.
#[tokio::test]
async fn a_turn_in_redis_means_what_it_meant() {
    let server = redis(RedisKind::Single).await;
    let turns = Turns::new(server.client().await, PREFIX);
    turns.take(&id("wh"), 1).await.expect("it can be taken");
    let written = kept(&server).await;
    let [Key { name, content: Content::String(turn), expires: true }] = &written[..] else {
        panic!("{written:?}")
    };
    assert!(turn.parse::<u64>().is_ok(), "{turn}");
    assert_eq!(recorded("redis-turns-keys").iter().map(|key| &key.name).collect::<Vec<_>>(), [name]);

    restore(&server, "redis-turns-keys").await;

    let turn = turns.take(&id("wh"), 1).await.expect("it can be asked for");
    assert!(matches!(turn, Turn::Later(wait) if wait > 24 * HOUR), "{turn:?}");
}

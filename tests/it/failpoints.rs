//! Processes that die at named moments, between one write and the next, while messages come. Each moment is hit: the
//! process ends itself there, as by `kill -9`.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use serde_json::json;

use crate::support::{
    Fault, LIMIT, Load, Record, RedisKind, Role, SESSION, System, committed, event, proxy, receiver, redis,
    status, system, webhook,
};

/// The variable that names a moment.
const FAILPOINT: &str = "BUNDLEHOOK_FAILPOINT";
const SIGKILL: i32 = 9;

async fn assert_died(role: &Role, point: &str) {
    let ended = role.process.wait_exit(LIMIT).await;
    assert_eq!(ended.signal(), Some(SIGKILL), "`{point}`: {}", role.process.stderr());
}

/// Starts a role that is to die at the first point; each time it has, it is started again, to die at the next; `before`
/// each start something is done. The last one goes on, and is returned.
async fn die_at(system: &System, role: &'static str, points: &[&str], before: impl AsyncFn(usize)) -> Role {
    for (n, point) in points.iter().enumerate() {
        before(n).await;
        let dying = system.start_with(role, FAILPOINT, point);
        assert_died(&dying, point).await;
    }
    let last = system.start_with(role, FAILPOINT, "");
    last.wait_claimed(system.partitions).await;
    last
}

/// Ends a process that was not to die, so that others can.
async fn leave(role: &Role) {
    role.process.sigterm();
    assert!(role.process.wait_exit(LIMIT).await.success());
}

#[tokio::test]
async fn wherever_aggregate_dies_nothing_is_lost_or_repeated() {
    let load = Load::new();
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points = [
        "aggregate.polled:30",
        "aggregate.applied:30",
        "aggregate.produced:30",
        "aggregate.closing:3",
        "aggregate.committing:10",
        "aggregate.committed:10",
    ];

    leave(&system.aggregate).await;
    let mut last = None;
    let count = load
        .run(&system, async {
            last = Some(die_at(&system, "aggregate", &points, async |_| ()).await);
            load.wait_more(50).await;
        })
        .await;

    system.aggregate = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, 0);
    assert_one_content_a_position(&system).await;
}

/// What was written to `bundles` twice is the same.
async fn assert_one_content_a_position(system: &System) {
    let mut known = std::collections::HashMap::new();
    for record in system.records("bundles").await {
        let position = ["stream", "position"].map(|name| record.header(name).map(str::to_owned));
        let content = (record.value.clone(), record.header("bundle-id").map(str::to_owned));
        let former = known.entry((record.partition, position.clone())).or_insert_with(|| content.clone());
        assert_eq!(*former, content, "{position:?} has two contents");
    }
}

/// Nothing comes any more: a boundary closes by the clock, and the process dies when that is logged.
#[tokio::test]
async fn a_boundary_that_is_logged_closes_after_a_crash_as_it_did_before() {
    let receiver = receiver(crate::support::ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let setup =
        system(3_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env(FAILPOINT, "aggregate.boundary-logged");
    let Some(mut system) = setup.start(&[settings]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "a", "1"), event("ws", "b", "2")]).await;

    assert_died(&system.aggregate, "aggregate.boundary-logged").await;
    assert_eq!(receiver.requests().len(), 0, "it was logged before anything was published");
    system.set(FAILPOINT, "");
    system.publish(&[event("ws", "a", "3")]).await;
    system.restart("aggregate").await;

    system.wait_done().await;
    let mut ids: Vec<_> = receiver.requests().iter().map(crate::support::message_ids).collect();
    ids.sort();
    assert_eq!(ids, [["1"], ["2"], ["3"]], "what came after the boundary has a window of its own");
}

/// A closing breaks off with a part of its windows done, Redis forgets, and the claim that begins to build them up again
/// dies before it has come to the first of them. The next one finds a state that is its own and has no window at all.
#[tokio::test]
async fn a_closing_that_broke_off_goes_on_where_a_rebuild_breaks_off_before_it_comes_there() {
    const CHATS: usize = 1_500;
    let receiver = receiver(crate::support::ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    // So slow that what is closed is committed meanwhile.
    let redis = redis(RedisKind::Single).await;
    let network = proxy(redis.addr());
    network.set(Fault::Delay(Duration::from_millis(20))).await;
    let setup = system(10_000)
        .redis(redis)
        .env("BUNDLEHOOK_REDIS_URL", &format!("redis://{}", network.addr()))
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .env(FAILPOINT, &format!("aggregate.closing:{}", CHATS - 100));
    let Some(mut system) = setup.start(&[settings]).await else { return };
    system.window_start(1).await;
    let messages: Vec<_> = (0..CHATS).map(|n| event("ws", &format!("c{n}"), &format!("{n:04}"))).collect();
    system.publish(&messages).await;

    assert_died(&system.aggregate, "aggregate.closing").await;
    let group = format!("{}bundlehook-aggregate", system.prefix);
    let committed = committed(system.kafka.servers(), &group, &system.topic("message-events")).await;
    let metadata: serde_json::Value =
        serde_json::from_str(&committed[0].metadata).expect("what is committed has metadata");
    let first = metadata["closings"][1].as_i64().expect("some closings are committed");
    assert!((0..CHATS as i64).contains(&first), "a part of them is done: {metadata}");
    network.set(Fault::None).await;
    system.redis.flushall().await;
    assert_died(&system.start_with("aggregate", FAILPOINT, "aggregate.state-taken"), "the claim").await;
    system.set(FAILPOINT, "");
    system.restart("aggregate").await;

    system.wait_done().await;
    let mut ids: Vec<_> = receiver.requests().iter().flat_map(crate::support::message_ids).collect();
    ids.sort();
    let expected: Vec<_> = (0..CHATS).map(|n| format!("{n:04}")).collect();
    assert_eq!(ids, expected);
    let kept = "bundlehook_claims_total{role=\"aggregate\",state=\"kept\"}";
    assert!(
        system.aggregate.sum(kept).await >= 1.0,
        "the last claim went on with what the one before had begun"
    );
}

#[tokio::test]
async fn wherever_deliver_dies_nothing_is_lost_and_no_more_repeated_than_was_in_flight() {
    let load = Load::new();
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points =
        ["deliver.answered:100", "deliver.counted:100", "deliver.recorded:100", "deliver.committing:5"];

    leave(&system.deliver).await;
    let mut last = None;
    let count = load
        .run(&system, async {
            last = Some(die_at(&system, "deliver", &points, async |_| ()).await);
            load.wait_more(50).await;
        })
        .await;

    system.deliver = last.expect("it was started");
    system.wait_done().await;
    let repeats = load.assert_all(count, points.len() * Load::IN_FLIGHT);
    assert!(repeats >= 2, "what was answered and not recorded came again, twice at least: {repeats}");
}

/// Deliveries are parked while one endpoint is away, and pulled when it is back.
#[tokio::test]
async fn wherever_deliver_dies_while_it_parks_and_pulls_nothing_is_lost() {
    let load = Load::new();
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env("BUNDLEHOOK_RETRY_SCHEDULE", "500ms");
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points = [
        "deliver.health-logged:2",
        "deliver.put:20",
        "deliver.queued:20",
        "deliver.taken-out:20",
        "deliver.queued:40",
    ];

    leave(&system.deliver).await;
    let mut last = None;
    let count = load
        .run(&system, async {
            let before = async |n: usize| match n {
                0 => load.leave().await,
                3 => load.come_back().await,
                _ => {}
            };
            last = Some(die_at(&system, "deliver", &points, before).await);
            load.wait_more(50).await;
        })
        .await;

    system.deliver = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, points.len() * Load::IN_FLIGHT);
}

/// Redis has forgotten everything each time, so each claim begins to build it up anew, and none but the last gets through.
#[tokio::test]
async fn claims_that_break_off_while_redis_forgets_lose_nothing_and_repeat_nothing() {
    let load = Load::new();
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env("BUNDLEHOOK_RETRY_SCHEDULE", "2s");
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let aggregate = [
        "aggregate.token-set",
        "aggregate.claiming",
        "aggregate.claim-committed",
        "aggregate.state-taken",
        "aggregate.polled",
        "aggregate.applied",
    ];
    let deliver = [
        "deliver.token-set",
        "deliver.claim-committed",
        "deliver.claim-marked",
        "deliver.queue-begun",
        "deliver.queue-restored",
    ];

    let mut last = None;
    let count = load
        .run(&system, async {
            load.leave().await;
            load.wait_more(100).await;
            leave(&system.aggregate).await;
            leave(&system.deliver).await;
            let forget = async |_| system.redis.flushall().await;
            let aggregate = die_at(&system, "aggregate", &aggregate, forget).await;
            last = Some((aggregate, die_at(&system, "deliver", &deliver, forget).await));
            load.come_back().await;
            load.wait_more(50).await;
        })
        .await;

    (system.aggregate, system.deliver) = last.expect("they were started");
    system.wait_done().await;
    load.assert_all(count, 0);
}

/// The disabling stands in the outbox, is published record by record, and is cleared; at each step the process dies.
#[tokio::test]
async fn a_disabling_has_one_id_wherever_its_publishing_breaks_off() {
    for point in ["deliver.outbox:2", "deliver.notice:3", "deliver.notice:4", "deliver.noticed:2"] {
        let failing = receiver(status(500));
        let settings = webhook("wh", "ws", &failing.url("/"), json!({}));
        let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env(FAILPOINT, point);
        let Some(mut system) = setup.start(&[settings]).await else { return };
        system.publish(&[event("ws", "c", "1")]).await;

        assert_died(&system.deliver, point).await;
        system.set(FAILPOINT, "");
        system.restart("deliver").await;

        let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
        system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
        let slot = format!("{{{}wh:wh}}:health", system.prefix);
        crate::support::wait_until("the outbox to be cleared", LIMIT, async || {
            let health: String = system.redis.command(&["GET", &slot]).await;
            health.contains("disabled") && health.contains("\"outbox\":[]")
        })
        .await;
        for (topic, id) in [("webhook-events", "ce_id"), ("notifications", "notification_id")] {
            let of_disabling = |record: &&Record| {
                let kind = record.header("ce_type").map(str::to_owned);
                kind.or_else(|| record.json()["kind"].as_str().map(str::to_owned)).as_deref()
                    == Some("webhook.disabled")
            };
            let ids: HashSet<String> = system
                .records(topic)
                .await
                .iter()
                .filter(of_disabling)
                .map(|record| match record.header(id) {
                    Some(header) => header.to_owned(),
                    None => record.json()[id].as_str().expect("it has an id").to_owned(),
                })
                .collect();
            assert_eq!(ids.len(), 1, "{topic}, `{point}`: {ids:?}");
        }
        assert_eq!(failing.requests().len(), 11, "`{point}`: each failure was counted once");
    }
}

//! Processes that stop or die, a Redis that forgets, partitions that fall silent.

use std::time::Duration;

use bundlehook::io::clock;
use serde_json::json;

use crate::support::{
    Answer, LIMIT, Request, SESSION, System, answer, event, hang, members, message_ids, ok, receiver, status,
    system, wait_until, webhook,
};

fn sorted_ids(requests: &[Request]) -> Vec<String> {
    let mut ids: Vec<String> = requests.iter().flat_map(message_ids).collect();
    ids.sort();
    ids
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:03}")).collect()
}

#[tokio::test]
async fn a_window_closes_on_an_idle_partition_by_the_clock_and_on_a_busy_one_by_a_record() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let Some(system) = system(1_000).start(&[settings]).await else { return };
    let closed = |by: &str| format!("bundlehook_boundaries_closed_total{{by=\"{by}\"}}");

    system.publish(&[event("ws", "c", "only")]).await;

    receiver.wait_for(|requests| requests.len() == 1, "the bundle").await;
    assert!(system.aggregate.sum(&closed("clock")).await >= 1.0);
    let before = system.aggregate.sum(&closed("record")).await;
    let mut sent = 0;
    wait_until("a boundary to be closed by a record", LIMIT, async || {
        system.publish(&[event("ws", "c", &format!("{sent:03}"))]).await;
        sent += 1;
        system.aggregate.sum(&closed("record")).await > before
    })
    .await;
    system.wait_done().await;
    let mut expected = numbered(sent);
    expected.push("only".to_owned());
    assert_eq!(sorted_ids(&receiver.requests()), expected);
}

#[tokio::test]
async fn a_stop_drains_commits_and_leaves_the_group_and_a_restart_repeats_nothing() {
    let receiver = receiver(answer(|_| Answer::status(200).after(Duration::from_millis(150))));
    let webhooks = [
        webhook("at-once", "ws", &receiver.url("/none"), json!({})),
        webhook("windowed", "ws", &receiver.url("/1h"), json!({"granularity": "1h"})),
    ];
    let Some(mut system) = system(2_000).start(&webhooks).await else { return };
    let events: Vec<_> =
        numbered(60).iter().enumerate().map(|(n, id)| event("ws", &format!("c{}", n % 20), id)).collect();
    system.publish(&events).await;
    receiver.wait_for(|requests| requests.len() >= 10, "deliveries in flight").await;

    for role in [&system.aggregate, &system.deliver] {
        role.process.sigterm();
    }
    for role in [&system.aggregate, &system.deliver] {
        let status = role.process.wait_exit(Duration::from_secs(20)).await;
        assert!(status.success(), "{status:?}: {}", role.process.stderr());
    }
    for role in ["aggregate", "deliver"] {
        let group = format!("{}bundlehook-{role}", system.prefix);
        assert_eq!(members(system.kafka.servers(), &group).await, 0, "{role} has left its group");
    }
    system.restart("aggregate").await;
    system.restart("deliver").await;

    system.wait_done().await;
    let requests = receiver.requests();
    for path in ["/none", "/1h"] {
        let of_path: Vec<Request> = requests.iter().filter(|request| request.path == path).cloned().collect();
        assert_eq!(sorted_ids(&of_path), numbered(60), "{path}");
    }
}

#[tokio::test]
async fn a_second_sigterm_ends_the_process_at_once() {
    let receiver = receiver(hang());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup = system(2_000).env("BUNDLEHOOK_REQUEST_TIMEOUT", "40s");
    let Some(system) = setup.start(&[settings]).await else { return };
    system.publish(&[event("ws", "c", "1")]).await;
    receiver.wait_for(|requests| requests.len() == 1, "the request in flight").await;
    let deliver = &system.deliver.process;

    deliver.sigterm();
    wait_until("it to drain", LIMIT, async || deliver.stderr().contains("stopping")).await;
    assert!(deliver.exit_status().is_none(), "a request is in flight");
    deliver.sigterm();

    let status = deliver.wait_exit(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(130));
}

async fn kill(system: &mut System, role: &'static str) {
    let running = if role == "aggregate" { &system.aggregate } else { &system.deliver };
    running.process.sigkill();
    running.process.wait_exit(LIMIT).await;
    system.restart(role).await;
}

#[tokio::test]
async fn killing_deliver_while_deliveries_wait_for_a_retry_loses_nothing() {
    let receiver = receiver(status(503));
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env("BUNDLEHOOK_RETRY_SCHEDULE", "500ms");
    let Some(mut system) = setup.start(&[settings]).await else { return };
    let events: Vec<_> =
        numbered(30).iter().enumerate().map(|(n, id)| event("ws", &format!("c{}", n % 6), id)).collect();
    system.publish(&events).await;
    system.deliver.wait_sum("bundlehook_deliveries_parked{", 30.0).await;
    system
        .wait_records("delivery-attempts", |records| records.iter().any(|r| r.json()["counted"] == true))
        .await;
    let failed = receiver.requests();

    receiver.set(ok()).await;
    kill(&mut system, "deliver").await;

    system.wait_done().await;
    let mut ids: Vec<String> = receiver.requests().iter().flat_map(message_ids).collect();
    for request in &failed {
        let again = receiver.requests().into_iter().filter(|r| r.body == request.body).collect::<Vec<_>>();
        assert!(
            again.len() > 1 && again.iter().all(|r| r.header("webhook-id") == request.header("webhook-id"))
        );
    }
    let after: Vec<Request> = receiver.requests().split_off(failed.len());
    assert!(numbered(30).iter().all(|id| after.iter().any(|request| message_ids(request) == [id.clone()])));
    ids.sort();
    ids.dedup();
    assert_eq!(ids, numbered(30));
}

#[tokio::test]
async fn killing_aggregate_with_open_windows_loses_nothing_and_splits_no_window() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let setup = system(12_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "c", "000"), event("ws", "d", "001")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 2.0).await;

    system.aggregate.process.sigkill();
    system.publish(&[event("ws", "c", "002")]).await;
    system.aggregate.process.wait_exit(LIMIT).await;
    system.restart("aggregate").await;
    system.publish(&[event("ws", "d", "003")]).await;

    system.wait_done().await;
    let mut bundles: Vec<_> = receiver.requests().iter().map(message_ids).collect();
    bundles.sort();
    assert_eq!(bundles, [["000", "002"], ["001", "003"]]);
    assert!(system.aggregate.sum("bundlehook_claims_total{role=\"aggregate\",state=\"kept\"}").await >= 1.0);
}

#[tokio::test]
async fn a_redis_that_forgets_open_windows_costs_nothing() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let Some(system) = system(4_000).start(&[settings]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "idle", "000"), event("ws", "busy", "001")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 2.0).await;

    system.redis.flushall().await;
    system.publish(&[event("ws", "busy", "002")]).await;
    system.aggregate.wait_sum("bundlehook_claims_total{role=\"aggregate\",state=\"rebuilt\"}", 1.0).await;

    system.wait_done().await;
    let mut bundles: Vec<_> = receiver.requests().iter().map(message_ids).collect();
    bundles.sort();
    assert_eq!(bundles, [vec!["000"], vec!["001", "002"]]);

    // Nothing comes after the loss: the closing notices it.
    system.window_start(1).await;
    system.publish(&[event("ws", "idle", "003")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 5.0).await;
    system.redis.flushall().await;
    system.wait_done().await;
    assert_eq!(sorted_ids(&receiver.requests()), numbered(4));
}

#[tokio::test]
async fn killing_deliver_repeats_nothing_that_was_recorded_behind_a_delivery_that_hangs() {
    let (hanging, taking) = (receiver(hang()), receiver(ok()));
    let webhooks = [
        webhook("hanging", "ws-hanging", &hanging.url("/"), json!({})),
        webhook("taking", "ws-taking", &taking.url("/"), json!({})),
    ];
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env("BUNDLEHOOK_REQUEST_TIMEOUT", "40s");
    let Some(mut system) = setup.start(&webhooks).await else { return };
    let mut events = vec![event("ws-hanging", "c", "000")];
    events.extend(numbered(20).iter().map(|id| event("ws-taking", id, id)));
    system.publish(&events).await;
    hanging.wait_for(|requests| requests.len() == 1, "the request that hangs").await;
    system.wait_records("delivery-attempts", |records| records.len() == 20).await;

    hanging.set(ok()).await;
    kill(&mut system, "deliver").await;

    system.wait_done().await;
    assert_eq!(sorted_ids(&taking.requests()), numbered(20));
    assert_eq!(sorted_ids(&hanging.requests()), ["000", "000"]);
}

/// While a window is in its grace, the next one is open already; of that, nothing may go out first. What outgrows the
/// former window after that must not wait for it in turn.
#[tokio::test]
async fn a_part_of_a_window_waits_for_the_window_before_it() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let setup = system(4_000).env("BUNDLEHOOK_WINDOW_GRACE", "2s");
    let Some(system) = setup.start(&[settings]).await else { return };
    let large = |chat: &str, n: u32| {
        let mut event = event("ws", chat, &format!("{chat}{n}"));
        event["message"]["text"] = "x".repeat(300 * 1024).into();
        event
    };
    let phase = || clock::now().0.rem_euclid(4_000);
    wait_until("the end of a window to come near", LIMIT, async || (3_000..3_700).contains(&phase())).await;
    let in_former = clock::now().to_rfc3339();
    system.publish(&[event("ws", "a", "a0")]).await;
    wait_until("the next window to begin", LIMIT, async || phase() < 1_000).await;

    let of_next = (1..=3).map(|n| large("a", n));
    let of_former = (1..=3).map(|n| large("b", n)).map(|mut event| {
        event["message"]["timestamp"] = in_former.clone().into();
        event
    });
    system.publish(&of_next.chain(of_former).collect::<Vec<_>>()).await;

    system.wait_done().await;
    let requests = receiver.requests();
    let ids: Vec<_> = requests.iter().flat_map(message_ids).collect();
    let of = |chat: char| ids.iter().filter(|id| id.starts_with(chat)).cloned().collect::<Vec<_>>();
    assert_eq!(
        (of('a'), of('b')),
        (
            ["a0", "a1", "a2", "a3"].map(str::to_owned).to_vec(),
            ["b1", "b2", "b3"].map(str::to_owned).to_vec(),
        )
    );
    let parts: Vec<_> =
        requests.iter().map(|request| request.header("bundlehook-part").unwrap_or("0")).collect();
    assert_eq!(parts.len(), 7, "{parts:?}");
}

/// What was received under distinct ids, in the order of its first arrival; what came again under its id is the same.
fn distinct(requests: Vec<Request>) -> Vec<Request> {
    let mut seen = std::collections::HashMap::new();
    let mut first = Vec::new();
    for request in requests {
        let id = request.header("webhook-id").expect("each POST has an id").to_owned();
        let body = seen.entry(id).or_insert_with(|| {
            first.push(request.clone());
            request.body.clone()
        });
        assert_eq!(*body, request.body);
    }
    first
}

#[tokio::test]
async fn whatever_dies_every_message_arrives_once_under_its_id_and_in_order() {
    let receiver = receiver(ok());
    let webhooks = ["none", "1h", "6h"].map(|granularity| {
        let url = receiver.url(&format!("/{granularity}"));
        webhook(granularity, "ws", &url, json!({"granularity": granularity}))
    });
    let setup = system(700).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&webhooks).await else { return };
    let ids = numbered(800);
    for (round, batch) in ids.chunks(100).enumerate() {
        let events: Vec<_> = batch.iter().map(|id| event("ws", &format!("c{}", &id[2..]), id)).collect();
        system.publish(&events).await;
        match round % 4 {
            0 => kill(&mut system, "aggregate").await,
            1 => kill(&mut system, "deliver").await,
            2 => system.redis.flushall().await,
            _ => {
                system.deliver.process.sigkill();
                kill(&mut system, "aggregate").await;
                system.deliver.process.wait_exit(LIMIT).await;
                system.restart("deliver").await;
            }
        }
    }

    system.wait_done().await;
    let requests = distinct(receiver.requests());
    for path in ["/none", "/1h", "/6h"] {
        let of_path: Vec<Request> = requests.iter().filter(|request| request.path == path).cloned().collect();
        assert_eq!(sorted_ids(&of_path), ids, "{path}");
        for chat in 0..10 {
            let in_order: Vec<String> =
                of_path.iter().flat_map(message_ids).filter(|id| id.ends_with(&chat.to_string())).collect();
            assert!(in_order.is_sorted(), "{path} {in_order:?}");
        }
    }
}

/// The next window opens within the grace of the former one. Once that is closed, the safe offset stands past its first
/// message, but before its last.
#[tokio::test]
async fn a_rebuild_sends_nothing_of_a_window_that_was_closed_before() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let setup = system(4_000).env("BUNDLEHOOK_WINDOW_GRACE", "2s");
    let Some(system) = setup.start(&[settings]).await else { return };
    let phase = || clock::now().0.rem_euclid(4_000);
    wait_until("the end of a window to come near", LIMIT, async || (3_000..3_700).contains(&phase())).await;
    let first = event("ws", "a", "000");
    let in_former = first["message"]["timestamp"].clone();
    system.publish(&[first]).await;
    wait_until("the next window to begin", LIMIT, async || phase() < 1_000).await;
    let mut late = event("ws", "a", "002");
    late["message"]["timestamp"] = in_former;
    system.publish(&[event("ws", "b", "001"), late]).await;
    receiver.wait_for(|requests| requests.len() == 1, "the former window").await;
    system.wait_committed_offset("aggregate", "message-events", 1).await;

    system.redis.flushall().await;
    system.publish(&[event("ws", "b", "003")]).await;

    system.wait_done().await;
    assert_eq!(message_ids(&receiver.requests()[0]), ["000", "002"]);
    assert_eq!(sorted_ids(&receiver.requests()), numbered(4));
}

/// A commit waits behind a request to join the group, and comes too late then for the generation it was made for.
#[tokio::test]
async fn a_partition_that_stays_with_its_process_goes_on_through_a_rebalance() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    // Nobody dies here, and nobody is to be given up.
    let setup = system(2_000).partitions(4).env("BUNDLEHOOK_KAFKA_PROPERTIES", "heartbeat.interval.ms=300");
    let Some(system) = setup.start(&[settings]).await else { return };
    let mut sent = 0;
    for _ in 0..2 {
        let others = [system.another("aggregate").await, system.another("deliver").await];
        for (other, former) in others.iter().zip([&system.aggregate, &system.deliver]) {
            wait_until("partitions to be shared", LIMIT, async || {
                publish_some(&system, &mut sent).await;
                other.sum("bundlehook_partitions_owned").await >= 2.0
            })
            .await;
            other.process.sigterm();
            wait_until("partitions to come back", LIMIT, async || {
                publish_some(&system, &mut sent).await;
                former.sum("bundlehook_partitions_owned").await >= 4.0
            })
            .await;
        }
        for other in &others {
            assert!(other.process.wait_exit(LIMIT).await.success());
        }
    }

    system.wait_done().await;
    assert_eq!(receiver.requests().len(), sent);
    for role in [&system.aggregate, &system.deliver] {
        assert!(!role.process.stderr().contains("claiming the partition again"), "{}", role.process.stderr());
    }
}

/// Publishes a message in each of some chats.
async fn publish_some(system: &System, sent: &mut usize) {
    let events: Vec<_> =
        (*sent..*sent + 8).map(|n| event("ws", &format!("c{}", n % 8), &n.to_string())).collect();
    system.publish(&events).await;
    *sent += 8;
}

#[tokio::test]
async fn windows_that_somebody_else_wrote_are_rebuilt_and_what_was_there_is_deleted() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let Some(mut system) = system(6_000).start(&[settings]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "a", "000"), event("ws", "b", "001")]).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", 2.0).await;
    let owner = format!("{{{}me:0}}:owner", system.prefix);
    let former: String = system.redis.command(&["HGET", &owner, "incarnation"]).await;
    system.redis.command::<i64>(&["HSET", &owner, "writer", "somebody else"]).await;

    system.aggregate.process.sigterm();
    assert!(system.aggregate.process.wait_exit(LIMIT).await.success());
    system.restart("aggregate").await;

    let pattern = format!("*:{former}:*");
    wait_until("the former incarnation to be deleted", LIMIT, async || {
        system.redis.command::<Vec<String>>(&["KEYS", &pattern]).await.is_empty()
    })
    .await;
    system.wait_done().await;
    assert_eq!(sorted_ids(&receiver.requests()), numbered(2));
}

/// The windows of a long backlog are rebuilt while what is sent at once goes on.
#[tokio::test]
async fn what_is_sent_at_once_does_not_wait_for_a_rebuild() {
    const BACKLOG: usize = 20_000;
    let receiver = receiver(ok());
    let webhooks = [
        webhook("windowed", "ws", &receiver.url("/24h"), json!({"granularity": "24h"})),
        webhook("at-once", "ws-at-once", &receiver.url("/none"), json!({})),
    ];
    let Some(mut system) = system(3_600_000).start(&webhooks).await else { return };
    let events: Vec<_> = (0..BACKLOG).map(|n| event("ws", &format!("c{}", n % 50), &n.to_string())).collect();
    system.publish(&events).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", BACKLOG as f64).await;
    system.publish(&[event("ws-at-once", "c", "before")]).await;
    receiver.wait_for(|requests| requests.len() == 1, "the message before").await;
    system.wait_delivered().await;

    kill_and_forget(&mut system).await;
    system.publish(&[event("ws-at-once", "c", "during")]).await;
    receiver.wait_for(|requests| requests.len() == 2, "the message during the rebuild").await;
    let read = system.aggregate.sum("bundlehook_events_read_total").await;
    assert!(read < BACKLOG as f64, "the rebuild was over: {read} records were read");

    system.publish(&[event("ws-at-once", "c", "during too")]).await;
    system.aggregate.wait_sum("bundlehook_events_read_total", (BACKLOG + 3) as f64).await;
    system.publish(&[event("ws-at-once", "c", "after")]).await;
    receiver.wait_for(|requests| requests.len() == 4, "the messages after it").await;
    let ids: Vec<_> = receiver.requests().iter().flat_map(message_ids).collect();
    assert_eq!(ids, ["before", "during", "during too", "after"]);
    let bundles = system.records("bundles").await;
    assert_eq!(bundles.len(), 4, "nothing was published twice");
}

/// Kills aggregate, empties Redis, and starts aggregate again.
async fn kill_and_forget(system: &mut System) {
    system.aggregate.process.sigkill();
    system.aggregate.process.wait_exit(LIMIT).await;
    system.redis.flushall().await;
    system.restart("aggregate").await;
}

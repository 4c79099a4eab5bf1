//! Endpoints that hang or fail for long, while others go on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{
    Answer, Behaviour, LIMIT, PATIENT, Receiver, Record, Request, SESSION, System, answer, event,
    message_ids, ok, receiver, refuse, status, system, wait_until, webhook,
};

const CHATS: usize = 40;
const PARKED: &str = "bundlehook_deliveries_parked{";
const IN_FLIGHT: &str = "bundlehook_requests_in_flight";

/// Messages of a workspace over its chats, by number.
fn events(workspace: &str, numbers: std::ops::Range<usize>) -> Vec<Value> {
    let one = |n: usize| event(workspace, &format!("{workspace}-{}", n % CHATS), &format!("{n:05}"));
    numbers.map(one).collect()
}

/// Answers with 200, but not before it is released.
fn ok_once(released: &CancellationToken) -> Behaviour {
    let released = released.clone();
    answer(move |_| Answer::status(200).once(&released))
}

/// The numbers of the messages that came to each path, in the order in which they came, and the first requests of those
/// that came again. Each chat's are in order.
fn received(requests: &[Request]) -> (BTreeMap<String, Vec<usize>>, Vec<Request>) {
    let mut seen: HashMap<(String, String), Request> = HashMap::new();
    let mut by_path: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut repeated = Vec::new();
    for request in requests {
        let id = request.header("webhook-id").expect("each POST has an id").to_owned();
        if let Some(first) = seen.get(&(request.path.clone(), id.clone())) {
            assert_eq!(first.body, request.body, "what comes again is the same");
            repeated.push(first.clone());
            continue;
        }
        seen.insert((request.path.clone(), id), request.clone());
        let numbers = message_ids(request).into_iter().map(|id| id.parse().expect("it is a number"));
        by_path.entry(request.path.clone()).or_default().extend::<Vec<usize>>(numbers.collect());
    }
    for (path, numbers) in &by_path {
        let mut last = HashMap::new();
        for number in numbers {
            let before = last.insert(number % CHATS, number);
            assert!(before < Some(number), "{path}: {number} came after {before:?}");
        }
    }
    (by_path, repeated)
}

#[track_caller]
fn assert_all(by_path: &BTreeMap<String, Vec<usize>>, path: &str, count: usize) {
    let mut numbers = by_path.get(path).cloned().unwrap_or_default();
    numbers.sort_unstable();
    let all: Vec<usize> = (0..count).collect();
    assert!(numbers == all, "{path}: {} of {count} came", numbers.len());
}

/// A system with an endpoint that takes requests and does not answer them, and one that does; reading may be little ahead.
/// Everything of both was read when this returns.
async fn read_past_hanging_requests(hanging: &Receiver, healthy: &Receiver) -> Option<System> {
    let webhooks = [
        webhook("hanging", "ws-hanging", &hanging.url("/"), json!({})),
        webhook("healthy", "ws-healthy", &healthy.url("/"), json!({})),
    ];
    let setup = system(2_000).env("BUNDLEHOOK_READ_AHEAD", "100").env("BUNDLEHOOK_REQUEST_TIMEOUT", "5m");
    let system = setup.env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).start(&webhooks).await?;
    system.publish(&events("ws-hanging", 0..40)).await;
    hanging.wait_for(|requests| requests.len() == 8, "as many requests as a lane begins with").await;
    system.publish(&events("ws-healthy", 0..400)).await;

    healthy.wait_for(|requests| requests.len() >= 400, "all of the healthy webhook's").await;
    system.wait_committed("deliver", "bundles").await;
    assert_eq!(hanging.requests().len(), 8);
    // Also of the healthy one something may have been parked while it was in flight; nothing of it is any more.
    system.wait_records("delivery-attempts", |attempts| attempts.len() == 400).await;
    wait_until("only what hangs and waits to be parked", LIMIT, async || {
        system.deliver.sum(PARKED).await as usize == 40
    })
    .await;
    assert_eq!(healthy.requests().len(), 400, "each once");
    Some(system)
}

#[tokio::test]
async fn requests_that_hang_do_not_hold_up_the_reading_and_end_like_any_others() {
    let released = CancellationToken::new();
    let (hanging, healthy) = (receiver(ok_once(&released)), receiver(ok()));
    let Some(system) = read_past_hanging_requests(&hanging, &healthy).await else { return };

    released.cancel();

    hanging.wait_for(|requests| requests.len() >= 40, "all that waited").await;
    system.wait_delivered().await;
    for (receiver, count) in [(&hanging, 40), (&healthy, 400)] {
        let (by_path, repeated) = received(&receiver.requests());
        assert_all(&by_path, "/", count);
        assert!(repeated.is_empty());
    }
    let attempts = system.records("delivery-attempts").await;
    assert_eq!(attempts.len(), 440);
    assert!(attempts.iter().all(|attempt| attempt.json()["attempt"] == 1));
}

#[tokio::test]
async fn a_crash_while_requests_hang_that_were_parked_loses_none_and_repeats_only_those() {
    let (hanging, healthy) = (receiver(ok_once(&CancellationToken::new())), receiver(ok()));
    let Some(mut system) = read_past_hanging_requests(&hanging, &healthy).await else { return };

    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    hanging.set(ok()).await;
    system.restart("deliver").await;

    hanging.wait_for(|requests| requests.len() >= 48, "all that waited").await;
    system.wait_delivered().await;
    let (by_path, repeated) = received(&hanging.requests());
    assert_all(&by_path, "/", 40);
    assert_eq!((repeated.len(), hanging.requests().len()), (8, 48));
    assert_eq!(healthy.requests().len(), 400);
}

#[tokio::test]
async fn ten_thousand_deliveries_in_memory_and_parked_outlive_a_kill_and_only_those_in_flight_come_again() {
    const EACH: usize = 900;
    const DEAD: usize = 1_200;
    let (slow, dead) = (receiver(ok_once(&CancellationToken::new())), receiver(refuse()));
    let several = |kind: &str, receiver: &Receiver| -> Vec<Value> {
        let one = |n: usize| {
            let (id, workspace) = (format!("{kind}-{n}"), format!("ws-{kind}"));
            webhook(&id, &workspace, &receiver.url(&format!("/{id}")), json!({}))
        };
        (0..5).map(one).collect()
    };
    let webhooks = [several("slow", &slow), several("dead", &dead)].concat();
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let setup = setup.env("BUNDLEHOOK_RETRY_SCHEDULE", PATIENT).env("BUNDLEHOOK_REQUEST_TIMEOUT", "5m");
    let Some(mut system) = setup.start(&webhooks).await else { return };
    system.publish(&events("ws-dead", 0..DEAD)).await;
    system.deliver.wait_sum(PARKED, 5.0 * DEAD as f64).await;
    system.publish(&events("ws-slow", 0..EACH)).await;
    let in_flight = 5 * 8;
    system.deliver.wait_sum("bundlehook_deliveries_waiting ", (5 * EACH - in_flight) as f64).await;
    slow.wait_for(|requests| requests.len() == in_flight, "as many requests as lanes begin with").await;

    system.deliver.process.sigkill();
    system.deliver.process.wait_exit(LIMIT).await;
    let before: HashSet<usize> = slow.requests().iter().map(|request| request.number).collect();
    slow.set(ok()).await;
    dead.set(ok()).await;
    system.restart("deliver").await;

    system.wait_delivered().await;
    let (by_path, repeated) = received(&slow.requests());
    assert!(
        repeated.iter().all(|first| before.contains(&first.number)),
        "only what was in flight came again"
    );
    let (dead_by_path, dead_repeated) = received(&dead.requests());
    assert!(dead_repeated.is_empty(), "its endpoint had got nothing");
    for n in 0..5 {
        assert_all(&by_path, &format!("/slow-{n}"), EACH);
        assert_all(&dead_by_path, &format!("/dead-{n}"), DEAD);
    }
}

/// The schedule of pauses, and an hour, 180 times as fast.
const HOUR_MS: u64 = 20_000;
const SCHEDULE: &str = "28ms,167ms,667ms,1667ms,3333ms,10s,20s,40s";

#[tokio::test]
async fn a_webhook_that_fails_for_an_hour_gets_everything_once_and_in_order_while_fifty_others_notice_nothing()
 {
    const OTHERS: usize = 50;
    let (failing, healthy) = (receiver(status(500)), receiver(ok()));
    let granularity = |n: usize| json!({"granularity": if n.is_multiple_of(2) { "none" } else { "1h" }});
    let other = |n: usize| {
        let id = format!("other-{n}");
        webhook(&id, &format!("ws-{n}"), &healthy.url(&format!("/{id}")), granularity(n))
    };
    let mut webhooks: Vec<Value> = (0..OTHERS).map(other).collect();
    for (n, path) in ["none", "1h"].into_iter().enumerate() {
        webhooks.push(webhook(path, "ws-failing", &failing.url(&format!("/{path}")), granularity(n)));
    }
    let setup = system(HOUR_MS).partitions(2).env("BUNDLEHOOK_RETRY_SCHEDULE", SCHEDULE);
    // The others answer, however long a busy machine takes for that.
    let Some(system) = setup.env("BUNDLEHOOK_REQUEST_TIMEOUT", "30s").start(&webhooks).await else { return };
    let (began, mut count) = (Instant::now(), 0);

    let mut mended = None;
    // An hour of failing, in which the bundles of a window were tried twice, and a tenth of one to come.
    while mended.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(HOUR_MS / 10)) {
        let mut batch = events("ws-failing", count..count + 1);
        for n in 0..OTHERS {
            batch.extend(events(&format!("ws-{n}"), count..count + 1));
        }
        system.publish(&batch).await;
        count += 1;
        let bundles = || failing.requests().iter().filter(|request| request.path == "/1h").count();
        if mended.is_none() && began.elapsed() >= Duration::from_millis(HOUR_MS) && bundles() >= 2 {
            mended = Some(Instant::now());
            failing.set(ok()).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    // The last failure of that hour is followed by a pause of an hour.
    system.wait_done().await;
    let refused: Vec<Request> = failing.requests();
    let attempts = system.records("delivery-attempts").await;
    let of = |webhook: &str| attempts.iter().filter(|attempt| attempt.key() == webhook).count();
    let failures = |webhook: &str| {
        let failed = |attempt: &&Record| attempt.key() == webhook && attempt.json()["outcome"] != "delivered";
        attempts.iter().filter(failed).count()
    };
    for path in ["none", "1h"] {
        let is_counted = |attempt: &&Record| {
            attempt.key() == path
                && attempt.json()["counted"] == true
                && attempt.json()["outcome"] == "status"
        };
        let counted = attempts.iter().filter(is_counted).count();
        assert!(
            (2..=8).contains(&counted),
            "{counted} failures of {path}: an hour is no reason to disable it"
        );
    }
    let taken = &refused[failures("none") + failures("1h")..];
    let (by_path, repeated) = received(taken);
    assert!(repeated.is_empty());
    assert_all(&by_path, "/none", count);
    assert_all(&by_path, "/1h", count);

    let (by_path, repeated) = received(&healthy.requests());
    assert!(repeated.is_empty());
    for n in 0..OTHERS {
        let id = format!("other-{n}");
        assert_all(&by_path, &format!("/{id}"), count);
        let posts = healthy.requests().iter().filter(|request| request.path == format!("/{id}")).count();
        assert_eq!((failures(&id), of(&id)), (0, posts), "each went once");
    }
    let waiting = system.records("waiting-deliveries").await;
    let parked = |record: &Record| {
        record.value.is_some()
            && !record.key().contains("claim")
            && record.json()["workspace_id"] != "ws-failing"
    };
    assert!(!waiting.iter().any(parked), "nothing of the others was ever parked");
}

#[tokio::test]
async fn of_two_processes_one_at_a_time_probes_and_the_other_goes_on_where_the_prober_dies() {
    let endpoint = receiver(status(500));
    let settings = webhook("wh", "ws", &endpoint.url("/"), json!({}));
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let setup = setup.env("BUNDLEHOOK_RETRY_SCHEDULE", PATIENT).env("BUNDLEHOOK_REQUEST_TIMEOUT", "4s");
    let Some(system) = setup.start(&[settings]).await else { return };
    let second = system.another("deliver").await;
    wait_until("both to have a partition", LIMIT, async || {
        let owned = "bundlehook_partitions_owned{role=\"deliver\"}";
        system.deliver.sum(owned).await > 0.5 && second.sum(owned).await > 0.5
    })
    .await;
    endpoint.set(answer(|_| Answer::hang())).await;
    system.publish(&events("ws", 0..200)).await;
    wait_until("both to have some parked", LIMIT, async || {
        let (first, second) = (system.deliver.sum(PARKED).await, second.sum(PARKED).await);
        first > 0.0 && second > 0.0 && (first + second - 200.0).abs() < 0.5
    })
    .await;

    let seen = endpoint.requests().len();
    endpoint.wait_for(|requests| requests.len() >= seen + 2, "more than one probe").await;
    let prober = async || (system.deliver.sum(IN_FLIGHT).await > 0.0, second.sum(IN_FLIGHT).await > 0.0);
    let (dying, survivor) = loop {
        match prober().await {
            (true, false) => break (&system.deliver, &second),
            (false, true) => break (&second, &system.deliver),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    dying.process.sigkill();
    dying.process.wait_exit(LIMIT).await;
    let seen = endpoint.requests().len();
    endpoint.wait_for(|requests| requests.len() > seen, "a probe of the other one").await;

    endpoint.set(ok()).await;
    survivor.wait_claimed(2).await;
    wait_until("all to be delivered", LIMIT, async || {
        let requests = endpoint.requests();
        requests.iter().flat_map(message_ids).collect::<HashSet<_>>().len() == 200
            && survivor.sum(PARKED).await < 0.5
    })
    .await;
    system.wait_committed("deliver", "bundles").await;
    let attempts: Vec<Value> = system.records("delivery-attempts").await.iter().map(Record::json).collect();
    let delivered: Vec<&Value> =
        attempts.iter().filter(|attempt| attempt["outcome"] == "delivered").collect();
    assert_eq!(delivered.len(), 200);
    let ids: HashSet<String> =
        delivered.iter().map(|attempt| attempt["bundle"]["bundle_id"].to_string()).collect();
    assert_eq!(ids.len(), 200, "each was delivered once");
    assert_one_at_a_time(&attempts);
}

/// After the first failure no attempt that failed began before the one before it had ended.
fn assert_one_at_a_time(attempts: &[Value]) {
    let mut failed: Vec<(i64, i64)> = attempts
        .iter()
        .filter(|attempt| attempt["outcome"] != "delivered")
        .map(|attempt| {
            let began = attempt["started_at"].as_str().expect("it is a text");
            let began =
                began.parse::<chrono::DateTime<chrono::Utc>>().expect("it is a time").timestamp_millis();
            (began, began + attempt["duration_ms"].as_i64().expect("it is a number"))
        })
        .collect();
    failed.sort_unstable();
    let tripped = failed.iter().map(|(_, end)| *end).min().expect("some failed");
    let probes: Vec<_> = failed.into_iter().filter(|(began, _)| *began > tripped).collect();
    assert!(probes.len() >= 2, "{probes:?}");
    assert!(probes.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{probes:?}");
}

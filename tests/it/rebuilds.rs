//! What Redis lost is built up again: how far that is can be seen.

use serde_json::json;

use crate::support::{LIMIT, Role, System, event, ok, receiver, refuse, system, wait_until, webhook};

const REMAINING: &str = "bundlehook_rebuild_remaining_records{";
const REBUILT: &str = "bundlehook_rebuild_records_total{";

/// The number behind a name in a line of the log.
fn number(line: &str, name: &str) -> f64 {
    let value = line.split(' ').find_map(|field| field.strip_prefix(&format!("{name}=")));
    let value = value.unwrap_or_else(|| panic!("no `{name}` in {line}"));
    value.parse().unwrap_or_else(|_| panic!("`{name}` is no number in {line}"))
}

/// The lines of the log with a text, without what colours them.
fn lines(role: &Role, text: &str) -> Vec<String> {
    let said = role.process.stderr();
    let plain =
        regex::Regex::new("\u{1b}\\[[0-9;]*m").expect("it is valid").replace_all(&said, "").into_owned();
    plain.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

/// Ends a role, empties Redis, and starts the role again without waiting for it.
async fn forget(system: &mut System, role: &'static str) {
    let running = if role == "aggregate" { &mut system.aggregate } else { &mut system.deliver };
    running.process.sigterm();
    assert!(running.process.wait_exit(LIMIT).await.success());
    system.redis.flushall().await;
    system.restart(role).await;
}

/// Redis stands still in the midst of it, so the figures can be compared.
#[tokio::test]
async fn a_rebuild_of_windows_tells_how_much_is_done_and_left_and_how_fast() {
    const COUNT: usize = 20_000;
    let receiver = receiver(ok());
    let windowed = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "24h"}));
    // A day that does not end while the test runs; a Redis that stands still is given time.
    let setup = system(3_600_000).env("BUNDLEHOOK_REDIS_TIMEOUT", "1m");
    let Some(mut system) = setup.start(&[windowed]).await else { return };
    let events: Vec<_> = (0..COUNT).map(|n| event("ws", &format!("c{}", n % 50), &n.to_string())).collect();
    system.publish(&events).await;
    system.aggregate.wait_sum("bundlehook_events_accepted_total", COUNT as f64).await;

    forget(&mut system, "aggregate").await;
    system.aggregate.wait_sum(REBUILT, 1.0).await;
    system.redis.sigstop();
    // What was answered before is taken in; then both stand still.
    let mut seen = (-1.0, -1.0);
    wait_until("the rebuild to stand still", LIMIT, async || {
        let former = seen;
        seen = (system.aggregate.sum(REBUILT).await, system.aggregate.sum(REMAINING).await);
        former == seen
    })
    .await;
    let (done, left) = seen;
    let total = number(&lines(&system.aggregate, "rebuilding from the log")[0], "left");
    assert_eq!(total.to_string(), COUNT.to_string());
    assert!(left > 0.0, "the rebuild was over: {done}");
    assert_eq!((done + left).to_string(), total.to_string());
    system.redis.sigcont();

    system.aggregate.wait_sum(REBUILT, COUNT as f64).await;
    wait_until("nothing to be left", LIMIT, async || system.aggregate.sum(REMAINING).await == 0.0).await;
    let ended = lines(&system.aggregate, "rebuilt role");
    let [ended] = &ended[..] else { panic!("it is said once: {ended:?}") };
    assert_eq!(number(ended, "records").to_string(), COUNT.to_string());
    let rate = number(ended, "records") / number(ended, "seconds");
    assert!((number(ended, "rate") - rate).abs() <= 1.0, "{ended}");
}

#[tokio::test]
async fn a_rebuild_of_what_is_parked_tells_how_much_was_read_again() {
    const COUNT: usize = 3_000;
    let dead = receiver(refuse());
    let setup = system(2_000).env("BUNDLEHOOK_WAITING_MEMORY", "1").env("BUNDLEHOOK_RETRY_SCHEDULE", "10m");
    let Some(mut system) = setup.start(&[webhook("wh", "ws", &dead.url("/"), json!({}))]).await else {
        return;
    };
    let events: Vec<_> = (0..COUNT).map(|n| event("ws", &format!("c{n}"), &n.to_string())).collect();
    system.publish(&events).await;
    system.deliver.wait_sum("bundlehook_deliveries_parked{", COUNT as f64).await;

    forget(&mut system, "deliver").await;

    let begun = lines(&system.deliver, "rebuilding from the log");
    let ended = lines(&system.deliver, "rebuilt role");
    let total = number(&begun[0], "left");
    assert!(total >= COUNT as f64, "{begun:?}");
    assert_eq!(number(&ended[0], "records").to_string(), total.to_string());
    assert_eq!(system.deliver.sum(REBUILT).await.to_string(), total.to_string());
    assert_eq!(system.deliver.sum(REMAINING).await.to_string(), "0");
}

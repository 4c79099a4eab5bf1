//! Processes that stand still at a named moment, between one write and the next, until another one has taken over, and
//! then go on with that next write.

use crate::support::{LIMIT, Load, RedisKind, Role, SESSION, System, redis, system, wait_until};

/// The variable that names a moment.
const FAILPOINT: &str = "BUNDLEHOOK_FAILPOINT";
/// Lets a role stand still at each of the points in turn, and go on when another process has taken over and has worked
/// for a while. `meanwhile` is done when it stands still. Returns the last process.
async fn stop_at(
    system: &System,
    load: &Load,
    role: &'static str,
    points: &[&str],
    meanwhile: impl AsyncFn(&str),
) -> Role {
    let mut working: Option<Role> = None;
    for point in points {
        let stopping = system.start_with(role, FAILPOINT, &format!("{point}:stop"));
        let initial = if role == "aggregate" { &system.aggregate } else { &system.deliver };
        let former = working.as_ref().unwrap_or(initial);
        former.process.sigterm();
        assert!(former.process.wait_exit(LIMIT).await.success(), "{}", former.process.stderr());
        wait_until(&format!("`{point}`"), LIMIT, async || stopping.process.is_stopped()).await;
        meanwhile(point).await;
        let other = system.start_with(role, FAILPOINT, "");
        other.wait_claimed(system.partitions).await;
        load.wait_more(30).await;
        stopping.process.sigcont();
        load.wait_more(30).await;
        stopping.process.sigterm();
        let ended = stopping.process.wait_exit(LIMIT).await;
        assert!(ended.success(), "`{point}`: {}", stopping.process.stderr());
        working = Some(other);
    }
    working.expect("there are points")
}

#[tokio::test]
async fn wherever_an_aggregate_stands_still_it_is_fenced_and_nothing_is_lost_or_repeated() {
    let load = Load::new();
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points = [
        "aggregate.token-set:1",
        "aggregate.claiming:1",
        "aggregate.claim-committed:1",
        "aggregate.state-taken:1",
        "aggregate.polled:10",
        "aggregate.applied:10",
        "aggregate.produced:10",
        "aggregate.closing:3",
        "aggregate.committing:5",
        "aggregate.committed:5",
    ];

    let mut last = None;
    let count = load
        .run(&system, async {
            last = Some(stop_at(&system, &load, "aggregate", &points, async |_| ()).await);
        })
        .await;

    system.aggregate = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, 0);
}

/// What it had begun to close is gone when it goes on, and so is what it had applied.
#[tokio::test]
async fn a_redis_that_forgets_while_an_aggregate_stands_still_loses_and_repeats_nothing() {
    let load = Load::new();
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).redis(redis(RedisKind::Single).await);
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points =
        ["aggregate.closing:2", "aggregate.applied:10", "aggregate.state-taken:1", "aggregate.committing:5"];

    let mut last = None;
    let count = load
        .run(&system, async {
            let forget = async |_: &str| system.redis.flushall().await;
            last = Some(stop_at(&system, &load, "aggregate", &points, forget).await);
        })
        .await;

    system.aggregate = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, 0);
}

/// One endpoint is away half of the time, so that deliveries are parked, and pulled.
#[tokio::test]
async fn wherever_a_deliver_stands_still_nothing_is_lost_and_no_more_repeated_than_was_in_flight() {
    let load = Load::new();
    // Too few failures to be disabled meanwhile.
    let setup = system(2_000)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "1s,5s,10s");
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points = [
        "deliver.answered:20",
        "deliver.recorded:20",
        "deliver.committing:3",
        "deliver.put:5",
        "deliver.token-set:1",
        "deliver.claim-committed:1",
        "deliver.claim-marked:1",
        "deliver.queue-begun:1",
        "deliver.queue-restored:1",
        "deliver.queued:3",
        "deliver.taken-out:5",
        "deliver.counted:20",
    ];

    let mut last = None;
    let count = load
        .run(&system, async {
            let meanwhile = async |point: &str| match point {
                // From here on deliveries are parked …
                "deliver.committing:3" => load.leave().await,
                // … and from here on pulled.
                "deliver.queued:3" => load.come_back().await,
                _ => {}
            };
            last = Some(stop_at(&system, &load, "deliver", &points, meanwhile).await);
        })
        .await;

    system.deliver = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, points.len() * Load::IN_FLIGHT);
}

/// The queue of what is parked is gone when it goes on, and so is the health that its attempts changed.
#[tokio::test]
async fn a_redis_that_forgets_while_a_deliver_stands_still_loses_nothing() {
    let load = Load::new();
    let setup = system(2_000)
        .env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION)
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "1s,5s,10s");
    let Some(mut system) = setup.start(&load.webhooks()).await else { return };
    let points = [
        "deliver.health-logged:1",
        "deliver.put:5",
        "deliver.queue-begun:1",
        "deliver.queued:3",
        "deliver.taken-out:5",
        "deliver.counted:20",
    ];

    let mut last = None;
    let count = load
        .run(&system, async {
            load.leave().await;
            let forget = async |point: &str| {
                system.redis.flushall().await;
                if point == "deliver.queued:3" {
                    load.come_back().await;
                }
            };
            last = Some(stop_at(&system, &load, "deliver", &points, forget).await);
        })
        .await;

    system.deliver = last.expect("it was started");
    system.wait_done().await;
    load.assert_all(count, points.len() * Load::IN_FLIGHT);
}

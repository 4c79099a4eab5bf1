//! Redis with Sentinel and as a Cluster: what happens there while messages come loses nothing and repeats nothing.

use crate::support::{LIMIT, Load, RedisKind, redis, system, wait_until};

#[tokio::test]
async fn a_failover_by_sentinel_under_load_loses_and_repeats_nothing() {
    let load = Load::new();
    let setup = system(2_000).partitions(2).redis(redis(RedisKind::Sentinel).await);
    let setup = setup.env("BUNDLEHOOK_REDIS_TIMEOUT", "1s").env("BUNDLEHOOK_RETRY_SCHEDULE", "1s");
    let Some(system) = setup.start(&load.webhooks()).await else { return };

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            load.leave().await;
            load.wait_more(50).await;
            system.redis.kill9();
            wait_until("a new master", LIMIT, async || {
                system.redis.sentinel_master().await != system.redis.addr()
            })
            .await;
            load.wait_more(50).await;
            load.come_back().await;
            // It comes back empty, as a master at first.
            system.redis.restart().await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
}

/// The replica that takes over has heard nothing of the last writes.
#[tokio::test]
async fn a_failover_to_a_stale_replica_loses_and_repeats_nothing() {
    let load = Load::new();
    let setup = system(2_000).redis(redis(RedisKind::Sentinel).await);
    let setup = setup.env("BUNDLEHOOK_REDIS_TIMEOUT", "1s").env("BUNDLEHOOK_RETRY_SCHEDULE", "1s");
    let Some(system) = setup.start(&load.webhooks()).await else { return };
    let owner = format!("{{{}me:0}}:owner", system.prefix);
    let queue = format!("*{{{}bundles:0}}*", system.prefix);
    let applied = async |node: usize| {
        let asked: redis::RedisResult<i64> = system.redis.ask(node, &["HGET", &owner, "applied"]).await;
        asked.expect("both have a state of the partition")
    };
    let queued = async |node: usize| {
        let asked: redis::RedisResult<Vec<String>> = system.redis.ask(node, &["KEYS", &queue]).await;
        asked.expect("both answer").len()
    };

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            system.redis.cut_replication().await;
            load.leave().await;
            load.wait_more(100).await;
            assert!(applied(0).await > applied(1).await, "the replica lacks what was applied last");
            assert!(queued(0).await > queued(1).await, "the replica lacks what was parked");
            system.redis.kill9();
            wait_until("the replica to be the master", LIMIT, async || {
                system.redis.sentinel_master().await != system.redis.addr()
            })
            .await;
            load.wait_more(50).await;
            load.come_back().await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    system.aggregate.wait_sum("bundlehook_claims_total{role=\"aggregate\",state=\"rebuilt\"}", 1.0).await;
}

#[tokio::test]
async fn slots_that_move_under_load_in_a_cluster_lose_and_repeat_nothing() {
    let load = Load::new();
    let setup = system(2_000).partitions(2).redis(redis(RedisKind::Cluster).await);
    let setup = setup.env("BUNDLEHOOK_RETRY_SCHEDULE", "1s");
    let Some(system) = setup.start(&load.webhooks()).await else { return };

    let tags = ["me:0", "me:1", "bundles:0", "bundles:1", "wh:none", "wh:1h", "wh:parked"];
    let count = load
        .run(&system, async {
            load.leave().await;
            for round in 0..3 {
                for tag in tags {
                    system.redis.move_slot_of(&format!("{{{}{tag}}}", system.prefix)).await;
                }
                load.wait_more(50).await;
                if round == 1 {
                    load.come_back().await;
                }
            }
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    let rebuilt = system.aggregate.sum("bundlehook_claims_total{role=\"aggregate\",state=\"rebuilt\"}").await;
    assert!(rebuilt < 1.0, "the state moved with its slot");
}

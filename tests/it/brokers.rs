//! Kafka in trouble: the roles wait and go on; what can't heal ends the process, so that its supervisor starts it anew.

use serde_json::json;

use crate::support::{
    Kafka, LIMIT, Load, Role, System, end_offsets, event, ok, receiver, system, wait_until, webhook,
};

/// A member that is gone is given up after so long.
const SESSION: &str = "session.timeout.ms=6000,heartbeat.interval.ms=500,reconnect.backoff.max.ms=500";

#[tokio::test]
async fn a_broker_that_dies_under_load_and_comes_back_loses_and_repeats_nothing() {
    let Some(kafka) = Kafka::start(1).await else { return };
    let load = Load::new();
    let setup = system(2_000).kafka(kafka).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(system) = setup.start(&load.webhooks()).await else { return };

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            system.kafka.kill9(0);
            system.kafka.restart(0).await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    for role in [&system.aggregate, &system.deliver] {
        assert!(role.process.get("/livez").await.is_ok_and(|(status, _)| status == 200));
    }
}

async fn assert_alive(system: &System) {
    for role in [&system.aggregate, &system.deliver] {
        assert!(role.process.get("/livez").await.is_ok_and(|(status, _)| status == 200));
    }
}

/// Each of three brokers dies in turn, so that each partition changes its leader, and the groups their coordinators.
#[tokio::test]
async fn leaders_that_change_under_load_lose_and_repeat_nothing() {
    let Some(kafka) = Kafka::start(3).await else { return };
    let load = Load::new();
    let setup = system(2_000).kafka(kafka).partitions(3).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(system) = setup.start(&load.webhooks()).await else { return };
    system.kafka.wait_in_sync(3).await;

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            for node in 0..3 {
                system.kafka.kill9(node);
                system.kafka.wait_in_sync(2).await;
                load.wait_more(50).await;
                system.kafka.restart(node).await;
                system.kafka.wait_in_sync(3).await;
            }
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    assert_alive(&system).await;
}

/// Messages are taken, but nothing may be written that follows from them: nothing is committed, and nothing is sent.
#[tokio::test]
async fn too_few_replicas_in_sync_are_waited_out() {
    let Some(kafka) = Kafka::start(3).await else { return };
    let load = Load::new();
    // What can't be recorded while its group gives a member up is sent again; here nobody is given up.
    let session = "session.timeout.ms=120000,heartbeat.interval.ms=500,reconnect.backoff.max.ms=500";
    let setup = system(2_000).kafka(kafka).env("BUNDLEHOOK_KAFKA_PROPERTIES", session);
    let Some(system) = setup.start(&load.webhooks()).await else { return };
    system.kafka.wait_in_sync(3).await;
    let outputs = ["bundles", "delivery-attempts", "waiting-deliveries", "webhook-health"];
    for topic in outputs {
        system.kafka.configure_topic(&system.topic(topic), &[("min.insync.replicas", "3")]).await;
    }
    let ends = async |topic: &str| end_offsets(system.kafka.servers(), &system.topic(topic)).await;

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            // A new leader would not tell its end before enough replicas are in sync.
            let victim = (system.kafka.leader(&system.topic("bundles")).await + 1) % 3;
            system.kafka.kill9(victim);
            system.kafka.wait_in_sync(2).await;
            let (events, bundles) = (ends("message-events").await, ends("bundles").await);
            load.let_more_wait(400);
            wait_until("many messages", LIMIT, async || ends("message-events").await[0] > events[0] + 300)
                .await;
            assert_eq!(ends("bundles").await, bundles, "too few replicas take nothing");
            assert_alive(&system).await;
            system.kafka.restart(victim).await;
            load.wait_more(50).await;

            // With two of three down there is no majority either; messages wait with everything else.
            system.kafka.wait_in_sync(3).await;
            system.kafka.kill9(0);
            system.kafka.kill9(1);
            assert_alive(&system).await;
            system.kafka.restart(0).await;
            system.kafka.restart(1).await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
}

#[tokio::test]
async fn a_full_disk_of_a_broker_loses_nothing_and_heals_when_there_is_room() {
    let Some(kafka) = Kafka::start_on_small_disk(3, 96).await else { return };
    let load = Load::new();
    let setup = system(2_000).kafka(kafka).partitions(3).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(system) = setup.start(&load.webhooks()).await else { return };
    system.kafka.wait_in_sync(3).await;

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            system.kafka.fill_disk().await;
            load.wait_more(100).await;
            system.kafka.free_disk();
            system.kafka.restart(0).await;
            system.kafka.wait_in_sync(3).await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
    assert_alive(&system).await;
}

/// The end of a process, with what it said.
async fn ended(role: &Role) -> String {
    let status = role.process.wait_exit(LIMIT).await;
    assert_eq!(status.code(), Some(1), "{}", role.process.stderr());
    role.process.stderr()
}

#[tokio::test]
async fn a_fatal_error_of_consumer_or_producer_ends_the_process_with_its_cause() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", "group.instance.id=one,session.timeout.ms=6000");
    let Some(system) = setup.start(&[settings]).await else { return };

    // Under its name there is another one now.
    let second = system.another("aggregate").await;
    let said = ended(&system.aggregate).await;
    assert!(said.contains("the consumer of aggregate can't go on"), "{said}");
    second.wait_claimed(1).await;

    let topic = system.topic("bundles");
    system.kafka.configure_topic(&topic, &[("max.message.bytes", "2000")]).await;
    let mut large = event("ws", "c", "large");
    large["message"]["text"] = (0..5_000).map(|n| n.to_string()).collect::<String>().into();
    system.publish(&[large]).await;
    let said = ended(&second).await;
    assert!(said.contains("was not acknowledged") && said.contains(&topic), "{said}");
}

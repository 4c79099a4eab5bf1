//! Kafka in trouble: the roles wait and go on; what can't heal ends the process, so that its supervisor starts it anew.

use serde_json::json;

use crate::support::{Kafka, LIMIT, Load, Role, event, ok, receiver, system, webhook};

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

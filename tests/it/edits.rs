//! Publishing edits: what was given up does not come later.

use std::collections::BTreeMap;
use std::time::Duration;

use bundlehook::config::KafkaSettings;
use bundlehook::io::kafka::{edits::EditPublisher, publisher::Outgoing};

use crate::support::{Fault, Record, kafka, proxy, read_topic};

/// A network that lets nothing pass while the edit is waited for, and all of it afterwards, when somebody else has edited.
#[tokio::test]
async fn an_edit_that_was_given_up_does_not_come_after_another() {
    let Some(kafka) = kafka().await else { return };
    let topic = format!("{}edits", kafka.prefix());
    kafka.create_topic(&topic, 1, &[]).await;
    let broker = kafka.servers().split(',').next().expect("there is a broker").parse().expect("an address");
    let network = proxy(broker);
    let publisher = |brokers| {
        EditPublisher::new(&KafkaSettings::embedded(brokers, BTreeMap::new()), Duration::from_secs(2))
            .expect("the settings can be used")
    };
    let edit = |value: &'static [u8]| Outgoing {
        topic: &topic,
        partition: Some(0),
        key: b"wh",
        value: Some(value),
        headers: &[],
    };

    network.set(Fault::Stall).await;
    let late = publisher(network.addr().to_string());
    late.publish(&edit(b"given up")).await.expect_err("nobody acknowledges it");
    publisher(kafka.servers().to_owned()).publish(&edit(b"of another")).await.expect("it is acknowledged");
    network.set(Fault::None).await;
    late.publish(&edit(b"later")).await.expect("it is acknowledged");

    let records = read_topic(kafka.servers(), &topic).await;
    let values: Vec<_> = records.iter().map(Record::text).collect();
    assert_eq!(values, ["of another", "later"]);
}

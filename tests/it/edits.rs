//! Edits: one whose command dies between two of its steps is made once or not at all, and can be made again; one that
//! was given up does not come later.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use bundlehook::config::KafkaSettings;
use bundlehook::io::clock;
use bundlehook::io::kafka::{edits::EditPublisher, publisher::Outgoing};
use serde_json::{Value, json};

use crate::commands::{PARKED, assert_ended, events, ids, start};
use crate::support::{Fault, Receiver, Record, System, kafka, ok, proxy, read_topic, receiver, status};

const FAILPOINT: &str = "BUNDLEHOOK_FAILPOINT";
const HELD: usize = 8;

/// Runs a command that dies at a point.
async fn die(system: &System, point: &str, args: &[&str]) {
    let dying = system.launch("webhook").args(args.iter().copied()).env(FAILPOINT, point).run().await;
    assert_eq!(dying.status.signal(), Some(9), "`{point}`: {dying:?}");
}

/// Lets the claim of an edit be as old as if half a minute had passed.
async fn age_claim(system: &System, subject: &str) {
    let key = format!("{{{}wh:wh}}:edit:{subject}", system.prefix);
    let claim: String = system.redis.command(&["GET", &key]).await;
    let mut claim: Value = serde_json::from_str(&claim).expect("a claim is JSON");
    claim["at"] = json!(clock::now().0 - 31_000);
    let _: String = system.redis.command(&["SET", &key, &claim.to_string()]).await;
}

/// Version and switch of each record of settings.
async fn records(system: &System) -> Vec<(Value, Value)> {
    let records = system.records("webhook-settings").await;
    let fields = |record: &Record| {
        let record = record.json();
        (record["version"].clone(), record["enabled"].clone())
    };
    records.iter().map(fields).collect()
}

#[tokio::test]
async fn an_edit_that_dies_with_its_claim_changes_nothing_and_is_in_the_way_for_half_a_minute() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };

    die(&system, "command.claimed", &["disable", "wh", "--by", "amnon"]).await;

    assert_eq!(records(&system).await.len(), 1, "nothing was published");
    let refused = system.webhook(&["disable", "wh", "--by", "dana"]).await;
    assert_ended(&refused, 75, "webhook `wh` is being changed by `amnon` (`disable`, since ");
    age_claim(&system, "settings").await;
    assert_ended(&system.webhook(&["disable", "wh", "--by", "dana"]).await, 0, "webhook `wh` is off");
    assert_eq!(records(&system).await[1..], [(json!(2), json!(false))]);
}

#[tokio::test]
async fn the_claim_of_a_later_release_counts_as_forgotten() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    die(&system, "command.claimed", &["disable", "wh", "--by", "amnon"]).await;
    let key = format!("{{{}wh:wh}}:edit:settings", system.prefix);
    let _: String = system.redis.command(&["SET", &key, &json!({"v": 2, "who": "amnon"}).to_string()]).await;
    let disabled = system.webhook(&["disable", "wh", "--by", "dana"]).await;
    assert_ended(&disabled, 0, "webhook `wh` is off");
    assert!(disabled.stderr.contains("of another version"), "{disabled:?}");
}

#[tokio::test]
async fn an_edit_that_dies_once_it_is_published_is_made_once_and_is_in_nobodys_way() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };

    die(&system, "command.published", &["disable", "wh"]).await;

    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "off already");
    assert_ended(&system.webhook(&["enable", "wh"]).await, 0, "webhook `wh` is on");
    assert_eq!(records(&system).await[1..], [(json!(2), json!(false)), (json!(3), json!(true))]);
    // The same if Redis forgets in between.
    die(&system, "command.published", &["disable", "wh"]).await;
    system.redis.flushall().await;
    assert_ended(&system.webhook(&["disable", "wh"]).await, 0, "off already");
    assert_eq!(records(&system).await.len(), 4);
}

/// A webhook that the system has disabled, with deliveries that are held.
async fn disabled(endpoint: &Receiver) -> Option<(System, usize)> {
    let system = start(endpoint, json!({}), "50ms").await?;
    system.publish(&events(0..HELD)).await;
    let is_disabled = |record: &Record| record.value.is_some() && record.json()["kind"] == "disabled";
    system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.deliver.wait_sum(PARKED, HELD as f64).await;
    endpoint.set(ok()).await;
    Some((system, endpoint.requests().len()))
}

/// Ids of the events that say that a webhook was enabled.
async fn enabled_events(system: &System) -> Vec<String> {
    let events = system.records("webhook-events").await;
    let of_enabling = events.iter().filter(|record| record.header("ce_type") == Some("webhook.enabled"));
    of_enabling.filter_map(|record| record.header("ce_id").map(str::to_owned)).collect()
}

#[tokio::test]
async fn an_enabling_that_dies_before_it_is_published_leaves_the_webhook_disabled_and_can_be_given_again() {
    for point in ["command.claimed", "command.discarded"] {
        let endpoint = receiver(status(500));
        let Some((system, posts)) = disabled(&endpoint).await else { return };

        die(&system, point, &["enable", "wh", "--discard"]).await;

        let shown = system.webhook_json(&["show", "wh"]).await;
        assert_eq!(shown["state"], "disabled", "`{point}`");
        assert_ended(&system.webhook(&["enable", "wh", "--discard"]).await, 75, "is being changed by");
        age_claim(&system, "activation").await;
        assert_ended(&system.webhook(&["enable", "wh", "--discard"]).await, 0, "on again");
        system.publish(&events(HELD..HELD + 4)).await;
        system.wait_done().await;
        let sent = ids(&endpoint.requests()[posts..]);
        assert_eq!(sent.len(), 4, "`{point}`: {sent:?}");
        assert_eq!(enabled_events(&system).await.len(), 1, "`{point}`");
    }
}

/// The webhook is enabled; that nobody is told is documented.
#[tokio::test]
async fn an_enabling_that_dies_once_it_is_published_has_enabled_the_webhook_and_tells_nobody() {
    let endpoint = receiver(status(500));
    let Some((system, posts)) = disabled(&endpoint).await else { return };

    die(&system, "command.published", &["enable", "wh", "--send"]).await;

    endpoint.wait_for(|requests| requests.len() >= posts + HELD, "all that was held").await;
    system.wait_done().await;
    assert_eq!(ids(&endpoint.requests()[posts..]).len(), HELD);
    let again = system.webhook_json(&["enable", "wh", "--send"]).await;
    assert_eq!(again["switched"], "unchanged");
    assert_eq!(enabled_events(&system).await, Vec::<String>::new());
}

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

//! Offsets that do not fit the log: it lost its beginning or its end, the group's offsets are gone, transactions of
//! others leave holes in it.

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;

use crate::support::{
    LIMIT, Outgoing, Receiver, Role, System, commit, committed, event, message_ids, ok, produce_afresh,
    receiver, system, wait_until, webhook,
};

/// A system with a webhook that got one message so far.
async fn begin() -> Option<(System, Receiver)> {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({}));
    let system = system(2_000).start(&[settings]).await?;
    system.publish(&[event("ws", "c", "0")]).await;
    receiver.wait_for(|requests| requests.len() == 1, "the first message").await;
    system.wait_done().await;
    Some((system, receiver))
}

async fn stop(role: &Role) {
    role.process.sigterm();
    assert!(role.process.wait_exit(LIMIT).await.success(), "{}", role.process.stderr());
}

fn got(receiver: &Receiver) -> Vec<String> {
    receiver.requests().iter().flat_map(message_ids).collect()
}

#[tokio::test]
async fn what_was_deleted_before_it_was_read_is_counted_and_the_rest_goes_on() {
    let Some((mut system, receiver)) = begin().await else { return };

    stop(&system.aggregate).await;
    system.publish(&["1", "2", "3", "4"].map(|id| event("ws", "c", id))).await;
    system.kafka.delete_records(&system.topic("message-events"), 0, 3).await;
    system.restart("aggregate").await;
    system.wait_done().await;
    assert_eq!(got(&receiver), ["0", "3", "4"]);
    let lost = system.aggregate.sum("bundlehook_records_lost_total{role=\"aggregate\"}").await;
    assert_eq!(lost.to_string(), "2");

    stop(&system.deliver).await;
    system.publish(&["5", "6", "7"].map(|id| event("ws", "c", id))).await;
    system.wait_committed("aggregate", "message-events").await;
    system.kafka.delete_records(&system.topic("bundles"), 0, 4).await;
    system.restart("deliver").await;
    system.wait_delivered().await;
    assert_eq!(got(&receiver), ["0", "3", "4", "6", "7"]);
    let lost = system.deliver.sum("bundlehook_records_lost_total{role=\"deliver\"}").await;
    assert_eq!(lost.to_string(), "1");
}

#[tokio::test]
async fn an_offset_above_the_end_of_its_log_ends_the_process_with_the_cause() {
    let Some((system, _receiver)) = begin().await else { return };
    for (role, topic, running) in
        [("aggregate", "message-events", &system.aggregate), ("deliver", "bundles", &system.deliver)]
    {
        stop(running).await;
        let (servers, topic) = (system.kafka.servers(), system.topic(topic));
        let group = format!("{}bundlehook-{role}", system.prefix);
        let metadata = committed(servers, &group, &topic).await[0].metadata.clone();
        commit(servers, &group, &topic, 0, 99, &metadata).await;

        let again = system.start_with(role, "BUNDLEHOOK_MAX_AGE", "0");
        let ended = again.process.wait_exit(LIMIT).await;
        assert_eq!(ended.code(), Some(1), "{}", again.process.stderr());
        assert!(
            again.process.stderr().contains("lies above the end 1 of its log"),
            "{}",
            again.process.stderr()
        );
    }
}

#[tokio::test]
async fn a_group_that_lost_its_offsets_asks_where_to_start_and_sends_nothing_again() {
    let Some((mut system, receiver)) = begin().await else { return };
    stop(&system.aggregate).await;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", system.kafka.servers())
        .create()
        .expect("an admin client needs no network");
    let group = format!("{}bundlehook-aggregate", system.prefix);
    let options = AdminOptions::new().request_timeout(Some(LIMIT));
    let deleted = admin.delete_groups(&[&group], &options).await.expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    system.publish(&[event("ws", "c", "1")]).await;

    let asking = system.start_with("aggregate", "BUNDLEHOOK_MAX_AGE", "0");
    let ended = asking.process.wait_exit(LIMIT).await;
    assert_eq!(ended.code(), Some(1));
    assert!(asking.process.stderr().contains("`--from beginning`"), "{}", asking.process.stderr());

    system.set("BUNDLEHOOK_FROM", "beginning");
    system.restart("aggregate").await;
    system.wait_done().await;
    assert_eq!(got(&receiver), ["0", "1"], "what is published again does not pass deliver");
    system.deliver.wait_sum("bundlehook_bundles_repeated_total", 1.0).await;
}

/// A producer of somebody else, which writes in transactions.
struct Upstream {
    producer: BaseProducer,
    topic: String,
}

impl Upstream {
    fn new(system: &System, name: &str) -> Self {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", system.kafka.servers())
            .set("transactional.id", format!("{}{name}", system.prefix))
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer needs no network");
        producer.init_transactions(LIMIT).expect("the broker knows transactions");
        Self { producer, topic: system.topic("message-events") }
    }

    /// Begins a transaction with a message, which the broker has when this returns.
    fn write(&self, chat: &str, id: &str) {
        self.producer.begin_transaction().expect("none is open");
        let value = event("ws", chat, id).to_string();
        let record = BaseRecord::to(&self.topic).key(chat).payload(&value);
        self.producer.send(record).map_err(|(error, _)| error).expect("the queue has room");
        self.producer.flush(LIMIT).expect("the broker takes it");
    }

    fn commit(&self) {
        self.producer.commit_transaction(LIMIT).expect("it can be committed");
    }

    fn abort(&self) {
        self.producer.abort_transaction(LIMIT).expect("it can be aborted");
    }
}

#[tokio::test]
async fn transactions_upstream_stop_nothing_be_they_committed_aborted_or_open() {
    let receiver = receiver(ok());
    let webhooks = [
        webhook("at-once", "ws", &receiver.url("/none"), json!({})),
        webhook("windowed", "ws", &receiver.url("/1h"), json!({"granularity": "1h"})),
    ];
    let Some(system) = system(2_000).start(&webhooks).await else { return };
    let (first, second) = (Upstream::new(&system, "first"), Upstream::new(&system, "second"));
    let of = |path: &str| {
        let mut requests = receiver.requests();
        requests.retain(|request| request.path == path);
        let mut ids: Vec<String> = requests.iter().flat_map(message_ids).collect();
        ids.sort();
        ids
    };
    let come = async |path: &'static str, expected: &[&str]| {
        let what = format!("{expected:?} at `{path}`");
        crate::support::wait_until(&what, LIMIT, async || of(path) == expected).await;
    };

    // What ends the log is no message but the mark of a transaction; the window closes by the clock all the same.
    first.write("a", "1");
    first.commit();
    first.write("a", "aborted");
    first.abort();
    come("/none", &["1"]).await;
    come("/1h", &["1"]).await;

    // What comes behind an open transaction waits for its end, and is not lost.
    system.publish(&[event("ws", "b", "2")]).await;
    come("/none", &["1", "2"]).await;
    second.write("c", "3");
    system.publish(&[event("ws", "d", "4")]).await;
    come("/1h", &["1", "2"]).await;
    assert_eq!(of("/none"), ["1", "2"], "an open transaction is not read past");
    second.commit();
    come("/none", &["1", "2", "3", "4"]).await;
    come("/1h", &["1", "2", "3", "4"]).await;

    second.write("c", "aborted too");
    second.abort();
    system.publish(&[event("ws", "d", "5")]).await;
    come("/1h", &["1", "2", "3", "4", "5"]).await;
    system.wait_delivered().await;
}

/// Brokers delete a group's offsets with the topic, so the operator is asked, as wherever offsets are gone. The topic's
/// offsets begin at 0 again, and so do the positions of what follows from them.
#[tokio::test]
async fn a_topic_that_was_created_anew_is_read_from_where_the_operator_says_and_begins_new_sequences() {
    let Some((mut system, receiver)) = begin().await else { return };
    system.publish(&["1", "2", "3"].map(|id| event("ws", "c", id))).await;
    system.wait_done().await;
    stop(&system.aggregate).await;

    let topic = system.topic("message-events");
    system.kafka.delete_topic(&topic).await;
    wait_until("the topic to be there again", LIMIT, async || {
        let made = system.launch("topics").arg("--partitions=1").run().await;
        made.status.success()
    })
    .await;
    system.kafka.wait_for_leaders(&topic, 1).await;
    produce_afresh(
        system.kafka.servers(),
        &topic,
        ["4", "5"].map(|id| Outgoing::new("c", event("ws", "c", id).to_string())),
    )
    .await;
    let asking = system.start_with("aggregate", "BUNDLEHOOK_LOG", "info");
    assert_eq!(asking.process.wait_exit(LIMIT).await.code(), Some(1));
    assert!(asking.process.stderr().contains("`--from beginning`"), "{}", asking.process.stderr());
    system.set("BUNDLEHOOK_FROM", "beginning");
    system.restart("aggregate").await;

    receiver.wait_for(|requests| requests.len() == 6, "what the new topic holds").await;
    system.wait_delivered().await;
    assert_eq!(got(&receiver), ["0", "1", "2", "3", "4", "5"]);
    let repeated = system.deliver.sum("bundlehook_bundles_repeated_total").await;
    assert!(repeated < 1.0, "nothing of it is taken for a repeat");
}

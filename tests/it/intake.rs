//! What a partition's worker is handed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bundlehook::config::KafkaSettings;
use bundlehook::io::kafka::intake::{FeedEvent, Intake, IntakeOptions, PartitionFeed, SpawnWorker};
use tokio_util::sync::CancellationToken;

use crate::support::{self, LIMIT, Outgoing, produce, wait_until};

const RECORDS: usize = 50;

/// Values of each batch, in the order in which they were handed over.
type Batches = Arc<Mutex<Vec<Vec<String>>>>;

/// Reads from the beginning, the first batch at once, and the next ones when it is told to.
async fn work(mut feed: PartitionFeed, go_on: CancellationToken, batches: Batches) {
    feed.start_at(0).await.expect("it can begin");
    while let Some(event) = feed.next().await {
        if let FeedEvent::Records(batch) = event {
            let value =
                |value: Option<&[u8]>| String::from_utf8_lossy(value.expect("it has one")).into_owned();
            batches
                .lock()
                .expect("nobody panics")
                .push(batch.iter().map(|record| value(record.value)).collect());
            go_on.cancelled().await;
        }
    }
}

/// So a worker whose turns take long catches up with many records that come one by one.
#[tokio::test]
async fn records_that_came_one_by_one_while_the_worker_was_busy_are_one_batch() {
    let Some(kafka) = support::kafka().await else { return };
    let topic = format!("{}one-by-one", kafka.prefix());
    kafka.create_topic(&topic, 1, &[]).await;
    let (go_on, batches) = (CancellationToken::new(), Batches::default());
    let (told, noted) = (go_on.clone(), batches.clone());
    let spawn: SpawnWorker = Box::new(move |feed| Box::pin(work(feed, told.clone(), noted.clone())));
    let settings = KafkaSettings::embedded(kafka.servers().to_owned(), BTreeMap::new());
    let options = IntakeOptions {
        topic: topic.clone(),
        group: format!("{topic}-readers"),
        drain: Duration::from_secs(1),
        embedded: false,
    };
    let intake = Intake::start(&settings, &options, spawn).expect("a consumer needs no network");
    let seen = || batches.lock().expect("nobody panics").clone();

    for n in 0..RECORDS {
        produce(kafka.servers(), &topic, [Outgoing::new("key", n.to_string())]).await;
        wait_until("the first record", LIMIT, async || !seen().is_empty()).await;
    }
    let turns = intake.turns.load(Ordering::Relaxed);
    wait_until("turns in which the rest is read", LIMIT, async || {
        intake.turns.load(Ordering::Relaxed) > turns + 20
    })
    .await;
    go_on.cancel();

    wait_until("all records", LIMIT, async || seen().iter().map(Vec::len).sum::<usize>() == RECORDS).await;
    let seen = seen();
    assert_eq!(seen.concat(), (0..RECORDS).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(seen[0], ["0"]);
    // Usually two; what was read late makes another one.
    assert!(seen.len() < RECORDS / 5, "{} batches", seen.len());
    intake.stop().await.expect("it ends");
}

//! Views of webhooks in Redis, as those who follow a partition write them.

use std::time::Duration;

use bundlehook::io::StoreError;
use bundlehook::io::redis::views::{Item, Said, ViewKind, ViewSource, ViewStore};
use bundlehook::model::delivery::Outcome;
use bundlehook::model::event::Skip;
use bundlehook::model::ids::{BundleId, WebhookId, WorkspaceId};
use bundlehook::model::statistics::{Day, LogEntry, Statistics, Tenure};
use bundlehook::model::time::Millis;
use uuid::Uuid;

use crate::support::{self, RedisKind, redis};

const NOW: Millis = Millis(1_614_211_270_020);
const DAY: Duration = Duration::from_hours(24);
const ATTEMPTS: ViewSource = ViewSource { kind: ViewKind::Attempts, partition: 3 };

async fn store(server: &support::Redis) -> ViewStore {
    ViewStore::new(server.client().await, "p.")
}

fn wh() -> Tenure {
    Tenure {
        webhook: WebhookId::parse("wh").expect("it is an id"),
        workspace: WorkspaceId::parse("ws").expect("it is an id"),
    }
}

/// An attempt whose record stands at an offset, made at a time.
fn attempt(offset: i64, outcome: Outcome, at: Millis) -> Item {
    let entry = LogEntry {
        at,
        partition: 3,
        offset,
        bundle_offset: offset,
        bundle_id: BundleId(Uuid::from_u128(offset as u128)),
        messages: 1,
        kind: "bundle".to_owned(),
        attempt: 1,
        outcome,
        status: (outcome != Outcome::Timeout).then_some(200),
        duration_ms: 5,
        settled: None,
    };
    Item { offset, said: Said::Attempted(entry) }
}

fn delivered(offsets: std::ops::Range<i64>) -> Vec<Item> {
    let at = |offset| Millis(NOW.0 - 100_000 + offset);
    offsets.map(|offset| attempt(offset, Outcome::Delivered, at(offset))).collect()
}

async fn statistics(store: &ViewStore) -> Statistics {
    store.statistics(&wh(), NOW).await.expect("redis answers")
}

async fn logged(store: &ViewStore) -> Vec<i64> {
    let entries = store.recent(&wh(), 100, NOW).await.expect("redis answers");
    entries.iter().map(|entry| entry.offset).collect()
}

async fn reflect(
    store: &ViewStore,
    incarnation: i64,
    items: &[Item],
    next: i64,
) -> Result<Option<i64>, StoreError> {
    store.reflect(ATTEMPTS, incarnation, &wh(), items, next, NOW).await
}

#[tokio::test]
async fn a_record_counts_once_however_often_it_is_taken_in() {
    let server = redis(RedisKind::Single).await;
    let store = store(&server).await;

    assert!(matches!(reflect(&store, 7, &delivered(0..3), 3).await, Ok(None)));
    assert!(matches!(reflect(&store, 7, &delivered(0..3), 3).await, Ok(Some(3))));
    assert!(matches!(reflect(&store, 7, &delivered(1..5), 5).await, Ok(Some(3))));
    assert!(matches!(reflect(&store, 7, &delivered(2..4), 4).await, Ok(Some(5))), "by a slower process");

    assert_eq!(statistics(&store).await.deliveries(), 5);
    assert_eq!(logged(&store).await, [4, 3, 2, 1, 0]);
}

#[tokio::test]
async fn a_later_incarnation_begins_at_zero_and_an_earlier_one_is_refused() {
    let server = redis(RedisKind::Single).await;
    let store = store(&server).await;
    reflect(&store, 7, &delivered(0..3), 3).await.expect("it is taken in");

    assert!(matches!(reflect(&store, 8, &delivered(1..3), 3).await, Ok(None)));
    assert_eq!(statistics(&store).await.deliveries(), 2);
    assert!(matches!(reflect(&store, 7, &delivered(3..4), 4).await, Err(StoreError::Lost)));

    let begun = store.begin(ATTEMPTS, 8).await.expect("it begins");
    assert!(matches!(store.begin(ATTEMPTS, 8).await, Err(StoreError::Lost)));
    store.advance(ATTEMPTS, begun, 4).await.expect("it advances");
    store.advance(ATTEMPTS, begun, 2).await.expect("a slower process does no harm");
    let progress = store.progress(ATTEMPTS).await.expect("redis answers").expect("it is there");
    assert_eq!((progress.incarnation, progress.reflects), (8, 4));
    server.flushall().await;
    assert!(matches!(store.advance(ATTEMPTS, progress, 5).await, Err(StoreError::Lost)));
    assert_eq!(store.progress(ATTEMPTS).await.expect("redis answers"), None);
}

#[tokio::test]
async fn a_view_holds_a_hundred_attempts_of_ten_days_and_adds_up_its_partitions() {
    let server = redis(RedisKind::Single).await;
    let store = store(&server).await;
    reflect(&store, 1, &delivered(0..130), 130).await.expect("it is taken in");
    assert_eq!(logged(&store).await, (30..130).rev().collect::<Vec<_>>());
    let first_day = Day::of(NOW).first_counted().start();
    let others = [
        attempt(130, Outcome::Status, first_day),
        attempt(131, Outcome::Timeout, Millis(first_day.0 - 1)),
        attempt(132, Outcome::Timeout, NOW),
    ];
    reflect(&store, 1, &others, 133).await.expect("it is taken in");
    let skips = ViewSource { kind: ViewKind::Skips, partition: 0 };
    let today = Day::of(NOW);
    let skipped =
        [Skip::Attachments, Skip::TooOld].map(|skip| Item { offset: 0, said: Said::Skipped(today, skip, 4) });
    store.reflect(skips, 1, &wh(), &skipped, 1, NOW).await.expect("it is taken in");

    let found = statistics(&store).await;
    assert_eq!((found.days[0].failures, found.failures(), found.deliveries()), (1, 2, 130));
    assert_eq!(found.days[9].skipped.values().collect::<Vec<_>>(), [&4, &4]);
    assert_eq!(found.last_response.as_ref().map(|entry| entry.offset), Some(129), "a timeout is no response");

    let later = store.statistics(&wh(), NOW + DAY).await.expect("redis answers");
    assert_eq!((later.failures(), later.deliveries()), (1, 130), "the first day is over");
    let much_later = store.recent(&wh(), 100, NOW + 10 * DAY).await.expect("redis answers");
    assert_eq!(much_later, []);
}

#[tokio::test]
async fn of_attempts_of_the_same_millisecond_the_last_by_offset_are_kept() {
    let server = redis(RedisKind::Single).await;
    let store = store(&server).await;

    let items: Vec<_> = (200..330).map(|offset| attempt(offset, Outcome::Delivered, NOW)).collect();
    reflect(&store, 1, &items, 330).await.expect("it is taken in");

    assert_eq!(logged(&store).await, (230..330).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_test_is_logged_and_counts_as_neither_delivery_nor_failure() {
    let server = redis(RedisKind::Single).await;
    let store = store(&server).await;
    let mut item = attempt(0, Outcome::Delivered, NOW);
    if let Said::Attempted(entry) = &mut item.said {
        entry.kind = "test".to_owned();
    }

    reflect(&store, 1, &[item], 1).await.expect("it is taken in");

    let found = statistics(&store).await;
    assert_eq!((found.deliveries(), found.failures(), logged(&store).await), (0, 0, vec![0]));
    assert_eq!(found.last_response.map(|entry| entry.offset), Some(0));
}

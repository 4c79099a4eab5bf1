//! The queue of parked deliveries in Redis, as its one owner uses it.

use std::collections::BTreeMap;

use bundlehook::io::redis::queue::{Changes, QueueStore};
use bundlehook::io::{Redis, StoreError};
use bundlehook::model::ids::{BundleId, WebhookId};
use bundlehook::model::parked::Parked;
use bundlehook::model::time::Millis;
use uuid::Uuid;

use crate::support::{RedisKind, redis};

const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);
const NOW: Millis = Millis(1_614_211_270_020);

fn id(name: &str) -> WebhookId {
    WebhookId::parse(name).expect("it is an id")
}

fn parked(offset: i64) -> Parked {
    Parked {
        offset,
        bundle_id: BundleId(Uuid::from_u128(offset as u128)),
        bytes: 2_000,
        bundled_at: NOW,
        arrived_at: NOW,
        waiting_since: NOW,
        attempts: 1,
        refusals: 0,
    }
}

fn changes<'a>(all: impl IntoIterator<Item = (&'a str, i64, Option<Parked>)>) -> Changes {
    let mut changes = Changes::new();
    for (webhook, offset, change) in all {
        changes.entry(id(webhook)).or_default().insert(offset, change);
    }
    changes
}

/// A queue that this claim has begun, empty, at an offset.
async fn begun(redis: &Redis, token: Uuid, reflects: i64) -> QueueStore {
    let store = QueueStore::new(redis.clone(), "p.", 3, token);
    let found = store.claim().await.expect("it can be claimed");
    store.begin_anew(&found, 0, reflects, NOW).await.expect("it begins");
    store
}

async fn offsets(store: &QueueStore, webhook: &str, after: i64, most: usize) -> Vec<i64> {
    let page = store.page(&id(webhook), after, most).await.expect("it can be read");
    page.iter().map(|parked| parked.offset).collect()
}

#[tokio::test]
async fn a_queue_is_read_in_order_and_by_pages_whatever_the_order_of_the_puts() {
    let server = redis(RedisKind::Single).await;
    let store = begun(&server.client().await, FIRST, 0).await;
    let puts = changes([9, 1, 1 << 40, 5].map(|offset| ("a", offset, Some(parked(offset)))));

    assert_eq!(store.apply(&puts, 4, NOW).await.expect("it is put"), [4]);

    assert_eq!(offsets(&store, "a", -1, 3).await, [1, 5, 9]);
    assert_eq!(offsets(&store, "a", 9, 3).await, [1 << 40]);
    assert_eq!(store.page(&id("a"), 0, 1).await.expect("it can be read"), [parked(1)]);
    assert!(offsets(&store, "b", -1, 3).await.is_empty());
}

#[tokio::test]
async fn a_change_may_be_repeated_and_a_later_put_takes_the_place_of_the_former() {
    let server = redis(RedisKind::Single).await;
    let store = begun(&server.client().await, FIRST, 0).await;
    let renewed = Parked { attempts: 2, refusals: 1, ..parked(7) };
    let both = changes([("a", 7, Some(parked(7))), ("a", 8, Some(parked(8))), ("b", 9, Some(parked(9)))]);
    let later = changes([("a", 7, Some(renewed)), ("a", 8, None), ("b", 9, None), ("c", 1, None)]);

    for _ in 0..2 {
        assert_eq!(store.apply(&both, 3, NOW).await.expect("it is put"), [2, 1]);
    }
    for _ in 0..2 {
        assert_eq!(store.apply(&later, 7, NOW).await.expect("it is changed"), [1, 0, 0]);
    }

    assert_eq!(store.page(&id("a"), -1, 9).await.expect("it can be read"), [renewed]);
    assert_eq!(store.webhooks().await.expect("they can be read"), [(id("a"), 1)].into());
}

#[tokio::test]
async fn a_claim_fences_the_former_owner_and_goes_on_with_its_queue() {
    let server = redis(RedisKind::Single).await;
    let redis = server.client().await;
    let former = begun(&redis, FIRST, 10).await;
    former.apply(&changes([("a", 7, Some(parked(7)))]), 11, NOW).await.expect("it is put");

    let store = QueueStore::new(redis.clone(), "p.", 3, SECOND);
    let found = store.claim().await.expect("it can be claimed");

    assert_eq!((found.writer, found.reflects, found.readable), (Some(FIRST), Some(11), true));
    assert_eq!(found.written_at, Some(NOW));
    for fenced in [
        former.apply(&Changes::new(), 12, NOW).await.map(drop),
        former.page(&id("a"), -1, 1).await.map(drop),
        former.webhooks().await.map(drop),
        former.begin_anew(&found, 0, 0, NOW).await,
    ] {
        assert!(matches!(fenced, Err(StoreError::Fenced)), "{fenced:?}");
    }
    store.go_on(&found, 7).await.expect("it goes on");
    assert_eq!(offsets(&store, "a", -1, 9).await, [7]);
    assert_eq!(store.claim().await.expect("it can be claimed").writer, Some(SECOND));
}

#[tokio::test]
async fn a_new_queue_leaves_nothing_of_the_former_behind() {
    let server = redis(RedisKind::Single).await;
    let redis = server.client().await;
    let former = begun(&redis, FIRST, 10).await;
    former.apply(&changes([("a", 7, Some(parked(7)))]), 11, NOW).await.expect("it is put");

    let store = begun(&redis, SECOND, 0).await;

    assert!(store.webhooks().await.expect("they can be read").is_empty());
    assert!(offsets(&store, "a", -1, 9).await.is_empty());
    let keys: Vec<String> = server.command(&["KEYS", "*"]).await;
    assert_eq!(keys, ["{p.bundles:3}:owner"]);
}

#[tokio::test]
async fn a_queue_that_went_backwards_or_lacks_entries_is_lost() {
    let server = redis(RedisKind::Single).await;
    let store = begun(&server.client().await, FIRST, 10).await;
    store.apply(&changes([("a", 7, Some(parked(7)))]), 11, NOW).await.expect("it is put");

    server.command::<()>(&["DEL", "{p.bundles:3}:00000000-0000-0000-0000-000000000001:a"]).await;
    let page = store.page(&id("a"), -1, 9).await;
    assert!(matches!(page, Err(StoreError::Lost)), "{page:?}");

    server.command::<()>(&["HSET", "{p.bundles:3}:owner", "reflects", "10"]).await;
    let applied = store.apply(&Changes::new(), 12, NOW).await;
    assert!(matches!(applied, Err(StoreError::Lost)), "{applied:?}");

    server.flushall().await;
    let page = store.page(&id("a"), -1, 9).await;
    assert!(matches!(page, Err(StoreError::Fenced)), "{page:?}");
}

#[tokio::test]
async fn a_parked_delivery_takes_at_most_200_bytes_of_redis() {
    const COUNT: i64 = 20_000;
    let server = redis(RedisKind::Single).await;
    let store = begun(&server.client().await, FIRST, 0).await;
    let all: BTreeMap<i64, Option<Parked>> =
        (0..COUNT).map(|n| (5_000_000_000 + n, Some(parked(5_000_000_000 + n)))).collect();
    let mut changes = Changes::new();
    changes.insert(id("a"), all);

    store.apply(&changes, COUNT, NOW).await.expect("it is put");

    let used: i64 = server
        .command(&["MEMORY", "USAGE", "{p.bundles:3}:00000000-0000-0000-0000-000000000001:a", "SAMPLES", "0"])
        .await;
    assert!(used / COUNT <= 200, "{} bytes", used / COUNT);
    println!("{} bytes of Redis a parked delivery", used / COUNT);
}

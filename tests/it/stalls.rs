//! Processes that stand still for longer than their group waits, and go on when others have taken over.

use std::{collections::HashSet, time::Duration};

use serde_json::json;

use crate::support::{
    Answer, LIMIT, Load, SESSION, answer, event, message_ids, receiver, system, wait_until, webhook,
};

fn owned(role: &str) -> String {
    format!("bundlehook_partitions_owned{{role=\"{role}\"}}")
}

#[tokio::test]
async fn an_aggregate_that_stood_still_is_fenced_and_splits_no_window() {
    let load = Load::new();
    let setup = system(2_000).partitions(2).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(system) = setup.start(&load.webhooks()).await else { return };
    let second = system.another("aggregate").await;
    second.wait_claimed(1).await;

    let count = load
        .run(&system, async {
            load.wait_more(50).await;
            system.aggregate.process.sigstop();
            wait_until("the second to own both partitions", LIMIT, async || {
                second.sum(&owned("aggregate")).await >= 2.0
            })
            .await;
            load.wait_more(50).await;
            system.aggregate.process.sigcont();
            wait_until("the first to come back", LIMIT, async || {
                second.sum(&owned("aggregate")).await <= 1.0
                    && system.aggregate.sum(&owned("aggregate")).await >= 1.0
            })
            .await;
            load.wait_more(50).await;
        })
        .await;

    system.wait_done().await;
    load.assert_all(count, 0);
}

#[tokio::test]
async fn a_deliver_that_stood_still_sends_nothing_more_than_what_was_in_flight() {
    let slow = receiver(answer(|_| Answer::status(200).after(Duration::from_millis(200))));
    let settings = webhook("wh", "ws", &slow.url("/"), json!({}));
    let setup =
        system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION).env("BUNDLEHOOK_REQUEST_TIMEOUT", "30s");
    let Some(system) = setup.start(&[settings]).await else { return };
    let ids: Vec<String> = (0..120).map(|n| format!("{n:03}")).collect();
    let events: Vec<_> = ids.iter().map(|id| event("ws", &format!("c{}", &id[1..]), id)).collect();
    system.publish(&events).await;
    slow.wait_for(|requests| requests.len() >= 20, "the first of them").await;

    system.deliver.process.sigstop();
    let second = system.another("deliver").await;
    second.wait_claimed(1).await;
    slow.wait_for(|requests| requests.len() >= 60, "the second to send").await;
    let before = slow.requests().len();
    system.deliver.process.sigcont();
    system.wait_committed("deliver", "bundles").await;
    system.publish(&[event("ws", "c", "after")]).await;
    system.wait_committed("deliver", "bundles").await;

    let sent: Vec<String> = slow.requests().iter().flat_map(message_ids).collect();
    let distinct: HashSet<&String> = sent.iter().collect();
    assert_eq!(distinct.len(), ids.len() + 1);
    let early: HashSet<&String> = sent[..before].iter().collect();
    let repeats: Vec<_> = sent[before..].iter().filter(|id| early.contains(id)).collect();
    // It had eight in flight, of which one or the other may have been about to be written.
    assert!(repeats.len() < 8, "{repeats:?} came again");
}

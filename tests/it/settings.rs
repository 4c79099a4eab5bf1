//! Settings that change while messages flow.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::{
    LIMIT, Load, Receiver, SESSION, System, event, message_ids, ok, receiver, status, system, wait_until,
    webhook,
};

#[tokio::test]
async fn a_new_granularity_counts_after_five_seconds_and_open_windows_close_on_their_own_schedule() {
    let receiver = receiver(ok());
    let settings =
        |granularity: &str| webhook("wh", "ws", &receiver.url("/"), json!({"granularity": granularity}));
    let Some(system) = system(9_000).start(&[settings("1h")]).await else { return };
    system.window_start(1).await;
    system.publish(&[event("ws", "c", "before")]).await;
    system.settings(&[settings("none")]).await;
    system.publish(&[event("ws", "c", "just after")]).await;
    system.settings_count().await;

    system.publish(&[event("ws", "c", "five seconds after")]).await;

    system.wait_done().await;
    let posts = receiver.requests();
    assert_eq!(posts.len(), 2);
    assert_eq!(message_ids(&posts[0]), ["five seconds after"]);
    assert!(posts[0].json().get("message").is_some());
    assert_eq!(message_ids(&posts[1]), ["before", "just after"]);
}

#[tokio::test]
async fn what_the_owner_disables_or_deletes_drops_its_open_windows_and_waiting_deliveries() {
    let (taking, failing) = (receiver(ok()), receiver(status(500)));
    let windowed = |id: &str, enabled: bool| {
        webhook(id, "ws", &taking.url("/"), json!({"granularity": "1h", "enabled": enabled}))
    };
    let at_once = |id: &str, enabled: bool| {
        webhook(id, "ws", &failing.url(&format!("/{id}")), json!({"enabled": enabled}))
    };
    let webhooks = [windowed("a", true), at_once("b", true), windowed("c", true), at_once("d", true)];
    let Some(system) = system(4_000).env("BUNDLEHOOK_RETRY_SCHEDULE", "1s").start(&webhooks).await else {
        return;
    };
    system.window_start(1).await;
    system.publish(&[event("ws", "x", "1"), event("ws", "x", "2"), event("ws", "y", "3")]).await;
    let both_failed = |path: &'static str| move |request: &crate::support::Request| request.path == path;
    failing
        .wait_for(
            |seen| seen.iter().any(both_failed("/b")) && seen.iter().any(both_failed("/d")),
            "both to fail",
        )
        .await;

    system.settings(&[windowed("a", false), at_once("b", false)]).await;
    system.delete_webhook("c").await;
    system.delete_webhook("d").await;

    system.wait_done().await;
    assert_eq!(taking.requests().len(), 0);
    assert_eq!(
        system.aggregate.sum("bundlehook_messages_dropped_total{cause=\"owner\"}").await.to_string(),
        "6"
    );
    assert_eq!(
        system.deliver.sum("bundlehook_bundles_settled_total{result=\"dropped\"}").await.to_string(),
        "6"
    );
    assert_eq!(
        system.deliver.sum("bundlehook_bundles_settled_total{result=\"delivered\"}").await.to_string(),
        "0"
    );
}

#[tokio::test]
async fn what_is_in_force_outlives_the_compaction_of_its_record_where_the_latest_cannot_be_used() {
    let receiver = receiver(ok());
    let settings = |id: &str, url: &str| webhook(id, "ws", url, json!({"headers": {"x-key": "kept"}}));
    let setup = system(2_000).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
    let Some(mut system) = setup.start(&[settings("wh", &receiver.url("/"))]).await else { return };
    system.settings(&[settings("wh", "ftp://hooks.example/")]).await;
    system
        .wait_records("webhook-states", |records| records.iter().any(|record| record.key() == "wh/in_force"))
        .await;
    let topic = system.topic("webhook-settings");
    let compacting = [
        ("cleanup.policy", "compact"),
        ("message.timestamp.type", "LogAppendTime"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "100"),
    ];
    system.kafka.configure_topic(&topic, &compacting).await;
    // The segment that is written to is never compacted.
    system.settings(&[webhook("other", "ws-other", &receiver.url("/other"), json!({}))]).await;
    wait_until("the usable settings to be compacted away", LIMIT, async || {
        system.records("webhook-settings").await.iter().filter(|record| record.key() == "wh").count() == 1
    })
    .await;

    for role in ["aggregate", "deliver"] {
        let running = if role == "aggregate" { &mut system.aggregate } else { &mut system.deliver };
        running.process.sigkill();
        running.process.wait_exit(LIMIT).await;
        system.restart(role).await;
    }
    system.publish(&[event("ws", "c", "m")]).await;

    let posts = receiver.wait_for(|requests| !requests.is_empty(), "the message").await;
    assert_eq!((message_ids(&posts[0]), posts[0].header("x-key")), (vec!["m".to_owned()], Some("kept")));
    let disabled = system.webhook(&["disable", "wh"]).await;
    assert!(disabled.status.success(), "an edit is based on what is in force: {disabled:?}");
    let record = system.records("webhook-settings").await.pop().expect("it was just published").json();
    assert_eq!((&record["enabled"], &record["url"]), (&json!(false), &json!(receiver.url("/"))));
}

/// Publishes messages while nobody reads them, and changes settings in between: what counts is what was in force when
/// each message arrived.
struct Backlog {
    receiver: Receiver,
    system: System,
}

impl Backlog {
    /// Starts a system whose `aggregate` is away, with the settings of the first messages.
    async fn begin(hour: u64) -> Option<Self> {
        let receiver = receiver(ok());
        let setup = system(hour).env("BUNDLEHOOK_KAFKA_PROPERTIES", SESSION);
        let first = [
            ("changed", "ws", json!({"granularity": "24h"})),
            ("anew", "ws", json!({})),
            ("moved", "ws", json!({})),
            ("same", "ws", json!({})),
        ];
        let first = first.map(|(id, workspace, more)| of(&receiver, id, workspace, more));
        let system = setup.start(&first).await?;
        system.aggregate.process.sigterm();
        assert!(system.aggregate.process.wait_exit(LIMIT).await.success());
        Some(Self { receiver, system })
    }

    async fn change(&self, id: &str, workspace: &str, more: Value) {
        self.system.settings(&[of(&self.receiver, id, workspace, more)]).await;
    }

    /// Publishes what was said so far to be in force, and a message in each workspace once it counts.
    async fn message(&self, text: &str) {
        self.change("same", "ws", json!({})).await;
        self.system.settings_count().await;
        self.system.publish(&[event("ws", "c", text), event("ws-other", "d", text)]).await;
    }

    async fn publish(&self) {
        self.message("first").await;
        self.change("changed", "ws", json!({"granularity": "none"})).await;
        self.system.delete_webhook("anew").await;
        self.change("moved", "ws-other", json!({})).await;
        self.message("second").await;
        self.change("changed", "ws", json!({"granularity": "none", "url": "ftp://nowhere.example/"})).await;
        self.change("anew", "ws", json!({})).await;
        self.message("third").await;
    }

    /// The messages that each webhook got, those of one POST joined; sorted.
    fn got(&self) -> BTreeMap<String, Vec<String>> {
        let mut got = BTreeMap::<String, Vec<String>>::new();
        for request in self.receiver.requests() {
            let aggregated = if request.json().get("messages").is_some() { "bundle of " } else { "" };
            let text = format!("{aggregated}{}", message_ids(&request).join(", "));
            got.entry(request.path.trim_start_matches('/').to_owned()).or_default().push(text);
        }
        for texts in got.values_mut() {
            texts.sort();
        }
        got
    }

    fn assert_decided_by_arrival(&self) {
        let expected = [
            ("anew", vec!["third"]),
            ("changed", vec!["bundle of first", "second", "third"]),
            ("moved", vec!["second", "third"]),
            ("same", vec!["first", "second", "third"]),
        ];
        let expected =
            expected.map(|(id, texts)| (id.to_owned(), texts.into_iter().map(str::to_owned).collect()));
        assert_eq!(self.got(), BTreeMap::from(expected));
    }
}

fn of(receiver: &Receiver, id: &str, workspace: &str, more: Value) -> Value {
    webhook(id, workspace, &receiver.url(&format!("/{id}")), more)
}

/// Some two days of the product's hours.
#[tokio::test]
async fn a_backlog_of_days_is_decided_by_the_settings_of_each_arrival() {
    let Some(mut backlog) = Backlog::begin(300).await else { return };
    backlog.publish().await;

    backlog.system.restart("aggregate").await;

    backlog.system.wait_done().await;
    backlog.assert_decided_by_arrival();
}

/// The window of the first message is open all the time, so a rebuild reads everything again.
#[tokio::test]
async fn a_rebuild_decides_by_the_settings_of_each_arrival_and_publishes_nothing_again() {
    let Some(mut backlog) = Backlog::begin(2_000).await else { return };
    backlog.system.window_start(24).await;
    backlog.publish().await;
    backlog.system.restart("aggregate").await;
    backlog.system.aggregate.wait_sum("bundlehook_events_read_total", 6.0).await;
    let at_once = |backlog: &Backlog| backlog.receiver.requests().len() >= 8;
    wait_until("what is sent at once", LIMIT, async || at_once(&backlog)).await;
    backlog.system.wait_delivered().await;

    backlog.system.aggregate.process.sigkill();
    backlog.system.aggregate.process.wait_exit(LIMIT).await;
    backlog.system.redis.flushall().await;
    backlog.system.restart("aggregate").await;

    backlog
        .system
        .aggregate
        .wait_sum("bundlehook_claims_total{role=\"aggregate\",state=\"rebuilt\"}", 1.0)
        .await;
    // As many as there are but for what has come since.
    backlog.system.aggregate.wait_sum("bundlehook_events_read_total", 6.0).await;
    backlog.system.wait_done().await;
    backlog.assert_decided_by_arrival();
    let bundles = backlog.system.records("bundles").await;
    let positions: std::collections::BTreeSet<_> =
        bundles.iter().map(|record| ["stream", "position"].map(|name| record.header(name))).collect();
    assert_eq!(positions.len(), bundles.len(), "nothing was published twice");
}

/// Some upstream systems publish all they have each hour, be it changed or not, or with another version and time.
#[tokio::test]
async fn settings_that_are_published_anew_all_the_time_change_nothing() {
    let (load, failing) = (Load::new(), receiver(status(500)));
    let mut webhooks = load.webhooks();
    webhooks.push(webhook("failing", "ws-failing", &failing.url("/"), json!({})));
    let Some(system) = system(1_000).start(&webhooks).await else { return };
    system.publish(&[event("ws-failing", "c", "1"), event("ws-failing", "c", "2")]).await;
    let is_disabled = |record: &crate::support::Record| {
        record.value.is_some() && record.text().contains("\"kind\":\"disabled\"")
    };
    let mut version = 1;
    let mut publish_anew = async || {
        system.settings(&webhooks).await;
        version += 1;
        for webhook in &mut webhooks {
            webhook["version"] = version.into();
            webhook["updated_at"] = bundlehook::io::clock::now().to_rfc3339().into();
        }
        system.settings(&webhooks).await;
    };

    let count = load
        .run(&system, async {
            for _ in 0..10 {
                publish_anew().await;
                load.wait_more(100).await;
            }
            wait_until("the disabling", LIMIT, async || {
                publish_anew().await;
                system.records("webhook-states").await.iter().any(is_disabled)
            })
            .await;
            for _ in 0..10 {
                publish_anew().await;
                load.wait_more(100).await;
            }
        })
        .await;

    assert_eq!(failing.requests().len(), 11, "it is disabled, and stays so");
    failing.set(ok()).await;
    let enabled = system.webhook(&["enable", "failing", "--send"]).await;
    assert!(enabled.status.success(), "{enabled:?}");
    system.wait_done().await;
    load.assert_all(count, 0);
    let ids: Vec<_> = failing.requests().iter().skip(11).flat_map(message_ids).collect();
    assert_eq!(ids, ["1", "2"], "what was held was not dropped");
}

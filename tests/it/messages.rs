//! What a receiver gets: bodies, windows, order, repeats, parts.

use bundlehook::io::clock;
use serde_json::{Value, json};

use crate::support::{self, event, message_ids, ok, receiver, system, tenant, webhook};

const EVENTS: &str = include_str!("../examples/events.jsonl");
const MESSAGE: &str = include_str!("../examples/message.json");
const BUNDLE: &str = include_str!("../examples/bundle.json");
const GROUP: &str = include_str!("../examples/group.json");

/// The examples as they arrive on the wire: without the white space between tokens.
fn compact(pretty: &str) -> String {
    let (mut text, mut escaped) = (false, false);
    let mut keep = |c: char| {
        let kept = text || !c.is_ascii_whitespace();
        text ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        kept
    };
    pretty.chars().filter(|c| keep(*c)).collect()
}

fn examples() -> Vec<Value> {
    EVENTS.lines().map(|line| serde_json::from_str(line).expect("an example is JSON")).collect()
}

fn sent_before(seconds: i64) -> Value {
    let at = bundlehook::model::time::Millis(clock::now().0 - seconds * 1000);
    at.to_rfc3339().into()
}

#[tokio::test]
async fn a_message_goes_at_once_and_is_the_example_byte_for_byte() {
    let Some(tenant) = tenant().await else { return };
    let mut first = examples().swap_remove(0);
    first["workspace_id"] = tenant.workspace.clone().into();

    tenant.system.publish(&[first]).await;

    let posts = tenant.wait_posts("/none", 1).await;
    assert_eq!(posts[0].text(), compact(MESSAGE));
    assert_eq!(posts[0].method, "POST");
    assert_eq!(posts[0].header("content-type"), Some("application/json; charset=utf-8"));
    assert!(posts[0].header("user-agent").is_some_and(|agent| agent.starts_with("Bundlehook/")));
    assert_eq!(posts[0].header("bundlehook-part"), None);
    assert_eq!(posts[0].header("webhook-signature"), None);
}

#[tokio::test]
async fn bundles_are_the_examples_byte_for_byte_for_every_granularity() {
    let receiver = receiver(ok());
    let webhooks = ["1h", "6h", "12h", "24h"].map(|granularity| {
        let url = receiver.url(&format!("/{granularity}"));
        webhook(granularity, "ws-acme", &url, json!({"granularity": granularity}))
    });
    let Some(system) = system(600).start(&webhooks).await else { return };
    system.window_start(1).await;

    system.publish(&examples()).await;

    system.wait_done().await;
    for granularity in ["/1h", "/6h", "/12h", "/24h"] {
        let requests = receiver.requests();
        let mut bodies: Vec<&str> = requests
            .iter()
            .filter(|request| request.path == granularity)
            .map(support::Request::text)
            .collect();
        bodies.sort_unstable();
        let mut expected = [compact(BUNDLE), compact(GROUP)];
        expected.sort();
        assert_eq!(bodies, expected, "{granularity}");
    }
}

#[tokio::test]
async fn a_repeated_message_is_one_message_and_the_first_counts() {
    let Some(tenant) = tenant().await else { return };
    let first = tenant.event("c", "m");
    let mut second = tenant.event("c", "m");
    second["message"]["text"] = "changed".into();
    let in_another_chat = tenant.event("d", "m");
    tenant.system.window_start(1).await;

    tenant.system.publish(&[first, second, in_another_chat]).await;

    let bundles = tenant.wait_posts("/1h", 2).await;
    assert!(bundles.iter().all(|bundle| message_ids(bundle) == ["m"]));
    assert!(bundles.iter().all(|bundle| !bundle.text().contains("changed")));
    tenant.wait_sentinel("c").await;
    let at_once = tenant.posts("/none");
    assert_eq!(at_once.len(), 3, "two chats' messages and the sentinel");
    assert!(at_once.iter().all(|post| !post.text().contains("changed")));
}

#[tokio::test]
async fn a_bundle_is_ordered_by_timestamp_then_arrival_and_shows_the_chat_as_it_arrived_last() {
    let Some(tenant) = tenant().await else { return };
    let message = |id: &str, sent: &Value, name: &str, is_new: bool| {
        let mut event = tenant.event("c", id);
        event["message"]["timestamp"] = sent.clone();
        event["chat"]["full_name"] = name.into();
        event["chat"]["is_new_chat"] = is_new.into();
        event
    };
    let (early, late) = (sent_before(20), sent_before(10));
    tenant.system.window_start(1).await;

    let events = [
        message("late-1", &late, "first", true),
        message("late-2", &late, "second", false),
        message("early", &early, "third", false),
    ];
    tenant.system.publish(&events).await;

    let bundle = &tenant.wait_posts("/1h", 1).await[0];
    assert_eq!(message_ids(bundle), ["early", "late-1", "late-2"]);
    let body = bundle.json();
    assert_eq!(body["chat"]["full_name"], "third");
    assert_eq!(body["chat"]["is_new_chat"], true);
    assert_eq!(body["first_message_timestamp"], body["messages"][0]["timestamp"]);
    assert_eq!(body["last_message_timestamp"], body["messages"][2]["timestamp"]);
}

#[tokio::test]
async fn a_late_message_joins_the_current_window_with_its_own_timestamp() {
    let Some(tenant) = tenant().await else { return };
    let mut late = tenant.event("c", "late");
    late["message"]["timestamp"] = "2021-02-24T16:25:29.700Z".into();
    tenant.system.window_start(1).await;

    tenant.system.publish(&[tenant.event("c", "present"), late]).await;

    let bundle = &tenant.wait_posts("/1h", 1).await[0];
    assert_eq!(message_ids(bundle), ["late", "present"]);
    assert_eq!(bundle.json()["messages"][0]["timestamp"], "2021-02-24T16:25:29+0000");
}

#[tokio::test]
async fn every_webhook_of_a_workspace_gets_its_messages_and_no_other_workspace_does() {
    let (Some(one), Some(other)) = (tenant().await, tenant().await) else { return };

    one.system
        .publish(&[one.event("shared-chat-id", "of-one"), other.event("shared-chat-id", "of-other")])
        .await;

    for (tenant, message) in [(&one, "of-one"), (&other, "of-other")] {
        tenant.wait_posts("/1h", 1).await;
        let requests = tenant.wait_posts("/none", 1).await;
        assert_eq!(requests.len(), 1);
        assert!(tenant.receiver.requests().iter().all(|request| message_ids(request) == [message]));
    }
}

#[tokio::test]
async fn a_window_that_outgrows_the_limits_goes_out_in_parts() {
    let receiver = receiver(ok());
    let settings = webhook("wh", "ws", &receiver.url("/"), json!({"granularity": "1h"}));
    let Some(system) = system(3_000).start(&[settings]).await else { return };
    let large = |id: &str, kib: usize| {
        let mut event = event("ws", "large", id);
        event["message"]["text"] = "<".repeat(kib * 1024).into();
        event
    };
    let mut events: Vec<Value> = (0..2_500).map(|n| event("ws", "many", &format!("{n:04}"))).collect();
    events.extend([large("a", 1), large("b", 600), large("c", 1), event("ws", "large", "a")]);
    let sent = events[0]["message"]["timestamp"].clone();
    for event in &mut events {
        event["message"]["timestamp"] = sent.clone();
    }
    system.window_start(1).await;

    system.publish(&events).await;

    system.wait_done().await;
    let posts = receiver.requests();
    let of =
        |chat: &str| posts.iter().filter(|post| post.json()["chat"]["chat_id"] == chat).collect::<Vec<_>>();
    let parts = |chat: &str| {
        of(chat).iter().map(|post| post.header("bundlehook-part").map(str::to_owned)).collect::<Vec<_>>()
    };
    let numbered = ["1", "2", "3"].map(|part| Some(part.to_owned()));
    assert_eq!(parts("many"), numbered);
    assert_eq!(of("many").iter().map(|post| message_ids(post).len()).collect::<Vec<_>>(), [1000, 1000, 500]);
    let in_order: Vec<String> = of("many").iter().flat_map(|post| message_ids(post)).collect();
    assert!(
        in_order.iter().map(String::as_str).eq((0..2_500).map(|n| format!("{n:04}")).collect::<Vec<_>>())
    );
    assert_eq!(parts("large"), numbered);
    let each: Vec<_> = of("large").iter().map(|post| message_ids(post)).collect();
    assert_eq!(each, [["a"], ["b"], ["c"]], "a repeat is recognised across parts");
    assert_eq!(system.aggregate.sum("bundlehook_parts_sealed_total").await.to_string(), "4");
}

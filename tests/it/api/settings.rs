//! Webhooks through the API: created, changed, rotated, deleted, with who did it.

use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::commands::{events, start};
use crate::support::{ADMIN, Console, LIMIT, claims, ok, receiver, signed, status, token, wait_until};

/// Waits until the change log says so much, oldest first: what, who, which fields.
async fn changes(console: &Console, count: usize) -> Vec<(String, String, Vec<String>)> {
    let mut found: Vec<Value> = Vec::new();
    wait_until(&format!("{count} changes"), LIMIT, async || {
        found.clone_from(console.get("/api/v1/changes").await.as_array().expect("it is a list"));
        found.len() >= count
    })
    .await;
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    let fields = |change: &Value| {
        change["fields"].as_array().expect("it is a list").iter().map(|field| text(&field["field"])).collect()
    };
    found.iter().rev().map(|change| (text(&change["what"]), text(&change["by"]), fields(change))).collect()
}

#[tokio::test]
async fn a_webhook_is_created_changed_and_deleted_and_the_change_log_says_by_whom() {
    let target = receiver(ok());
    let Some(system) = start(&target, json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let editor = token("ws", "editor");
    let call = async |method: &str, path: &str, body: Value| console.call(method, path, &editor, &body).await;

    let url = target.url("/second?key=s3cret");
    let new = json!({"url": url, "label": "Second", "granularity": "1h", "headers": {"authorization": "Bearer s3cret"}});
    let created = call("POST", "/api/v1/webhooks", new).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert!(!created.text().contains("s3cret"), "{}", created.text());
    let webhook = created.json();
    let id = webhook["webhook_id"].as_str().expect("it has an id").to_owned();
    let path = format!("/api/v1/webhooks/{id}");
    assert_eq!((&webhook["owner"]["email"], &webhook["version"]), (&json!("amnon@acme.example"), &json!(1)));

    // What is in Kafka is sealed, and what was shown masked comes back without harm.
    let edit = json!({"version": 1, "label": "Renamed", "url": webhook["url"], "max_per_second": 25, "headers": {"x-team": "a"}});
    let changed = call("PATCH", &path, edit.clone()).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let record = system.records("webhook-settings").await.pop().expect("there are some");
    assert!(!record.text().contains("Bearer s3cret"), "{}", record.text());
    assert_eq!(record.json()["url"], url);
    let keys = bundlehook::io::sealing_keys::read(crate::support::console::sealing_keys().as_ref())
        .expect("the file is sound");
    let stored = bundlehook::wire::settings::decode(record.text().as_bytes()).expect("it is usable");
    let opened = keys.unseal(&stored).expect("it opens");
    assert!(opened.headers.iter().any(|(name, value)| name == "authorization" && value == "Bearer s3cret"));

    // A value that was only shown masked never takes the place of the value itself.
    let half = json!({"version": 2, "url": target.url("/third?key=***")});
    let refused = call("PATCH", &path, half).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["field"]), (422, &json!("url")));
    assert!(refused.text().contains("`***` as the value of `key`"), "{}", refused.text());

    // Whoever has seen the former version is told.
    let second = call("PATCH", &path, edit).await;
    assert_eq!((second.status, &second.json()["title"]), (409, &json!("Changed meanwhile")));
    assert!(second.text().contains("`ann@acme.example`"), "{}", second.text());

    let rotated = call("POST", &format!("{path}/rotate-secret"), json!({})).await.json();
    let again = call("POST", &format!("{path}/rotate-secret"), json!({"version": 3})).await.json();
    assert_eq!((&rotated["secrets"], &again["secrets"]), (&json!(1), &json!(2)));
    assert_ne!(rotated["secret"], again["secret"]);
    // The receiver may know the elder one alone.
    let third = call("POST", &format!("{path}/rotate-secret"), json!({})).await;
    assert_eq!((third.status, &third.json()["title"]), (409, &json!("Not possible now")));
    assert!(third.text().contains("a rotation is going on; end it"), "{}", third.text());
    let record = system.records("webhook-settings").await.pop().expect("there are some");
    let stored = bundlehook::wire::settings::decode(record.text().as_bytes()).expect("it is usable");
    let opened = keys.unseal(&stored).expect("it opens");
    let secrets: Vec<_> = opened.secrets.iter().map(|secret| json!(secret.expose_secret())).collect();
    assert_eq!(secrets, [again["secret"].clone(), rotated["secret"].clone()]);
    assert_eq!(call("POST", &format!("{path}/end-rotation"), json!({})).await.json()["secrets"], 1);

    assert_eq!(call("DELETE", &format!("{path}?version=3"), Value::Null).await.status, 409);
    assert_eq!(call("DELETE", &path, Value::Null).await.status, 204);
    assert_eq!(call("GET", &path, Value::Null).await.status, 404);

    let log = changes(&console, 7).await;
    let ann = |what: &str, fields: &[&str]| {
        (
            what.to_owned(),
            "ann@acme.example".to_owned(),
            fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(log[0].0, "created");
    assert_eq!(log[1], ann("created", &["granularity", "headers.authorization", "label", "owner", "url"]));
    assert_eq!(log[2], ann("changed", &["headers.x-team", "label", "max_per_second"]));
    assert_eq!(log[3], ann("changed", &["secrets"]));
    assert_eq!(log[6], ann("deleted", &[]));
    let text = console.call("GET", "/api/v1/changes/download?format=text", &editor, &Value::Null).await;
    assert!(text.text().contains("label: \"Second\" -> \"Renamed\""), "{}", text.text());
    assert!(!text.text().contains("s3cret") && !text.text().contains("whsec_"), "{}", text.text());
    assert_eq!(text.header("content-disposition"), Some("attachment; filename=\"changes.txt\""));

    // Another process notes nothing twice.
    let other = system.console(&[]).await;
    assert_eq!(changes(&other, 7).await.len(), 7);
    assert_eq!(system.records("webhook-changes").await.len(), 7);
}

#[tokio::test]
async fn wrong_values_are_named_with_what_is_expected() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[("BUNDLEHOOK_MAX_WEBHOOKS", "2")]).await;
    let editor = token("ws", "editor");
    for (body, field, part) in [
        (json!({"url": "ftp://x/"}), "url", "expected an absolute `http` or `https` URL"),
        (json!({"url": "https://h.example/", "granularity": "2h"}), "granularity", "`2h`"),
        (json!({"url": "https://h.example/", "secrets": ["topsecret"]}), "secrets[0]", "expected `whsec_`"),
        (json!({"url": "https://h.example/", "headers": {"host": "topsecret"}}), "headers.host", "reserved"),
        (json!({"url": "https://h.example/", "max_per_second": 0}), "max_per_second", "1 to 1000"),
        (json!({"url": "https://h.example/", "colour": "red"}), "colour", "unknown field"),
        (json!({"label": "x"}), "url", "missing field"),
    ] {
        let answered = console.call("POST", "/api/v1/webhooks", &editor, &body).await;
        assert_eq!(answered.status, 422, "{body}: {}", answered.text());
        let problem = answered.json();
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(part)), "{problem}");
        assert!(!answered.text().contains("topsecret"), "{problem}");
    }
    let new = json!({"url": "https://h.example/"});
    assert_eq!(console.call("POST", "/api/v1/webhooks", &editor, &new).await.status, 201);
    let full = console.call("POST", "/api/v1/webhooks", &editor, &new).await;
    assert_eq!(full.status, 409, "{}", full.text());
    assert!(full.text().contains("has 2 webhooks, expected fewer than 2"), "{}", full.text());

    let mut nobody = claims("empty", "editor");
    nobody["owner"] = Value::Null;
    let answered = console.call("POST", "/api/v1/webhooks", &signed(&nobody), &new).await;
    assert_eq!((answered.status, &answered.json()["errors"][0]["field"]), (422, &json!("owner")));
    let answered = console.call("POST", "/api/v1/webhooks", ADMIN, &new).await;
    assert_eq!((answered.status, &answered.json()["errors"][0]["field"]), (422, &json!("workspace_id")));
    let untyped = [("authorization", format!("Bearer {editor}"))];
    assert_eq!(console.send("POST", "/api/v1/webhooks", &untyped, "{}".to_owned()).await.status, 415);
    for (method, path, status) in [("GET", "/api/v1/nothing", 404), ("PUT", "/api/v1/webhooks", 405)] {
        let answered = console.call(method, path, &editor, &Value::Null).await;
        assert_eq!(
            (answered.status, answered.header("content-type")),
            (status, Some("application/problem+json"))
        );
    }
}

#[tokio::test]
async fn webhooks_that_are_created_in_the_same_moment_stay_within_the_limit() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let most = [("BUNDLEHOOK_MAX_WEBHOOKS", "3")];
    let consoles = (system.console(&most).await, system.console(&most).await);
    let editor = token("ws", "editor");
    let new = json!({"url": "https://h.example/"});
    let create = |console| Console::call(console, "POST", "/api/v1/webhooks", &editor, &new);
    for _ in 0..3 {
        let (one, other) = (&consoles.0, &consoles.1);
        let created =
            tokio::join!(create(one), create(other), create(one), create(other), create(one), create(other));
        for answered in <[_; 6]>::from(created) {
            assert!(matches!(answered.status, 201 | 409), "{}", answered.text());
        }
        let webhooks = one.get("/api/v1/webhooks").await;
        assert!(webhooks.as_array().is_some_and(|webhooks| webhooks.len() <= 3), "{webhooks}");
    }
}

#[tokio::test]
async fn a_range_is_sent_again_to_its_end_even_if_whoever_asked_is_gone() {
    let target = receiver(ok());
    let Some(system) = start(&target, json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    system.publish(&events(0..20)).await;
    target.wait_for(|requests| requests.len() == 20, "all messages").await;
    system.wait_delivered().await;

    let body = json!({"from": "2021-02-24T16:00:00Z", "new_id": true});
    console.ask_and_leave("POST", "/api/v1/webhooks/wh/resend", &token("ws", "editor"), &body).await;

    target.wait_for(|requests| requests.len() == 40, "all of them again").await;
}

/// A page holds all fields of its form. If it were told of a version that it does not show, its next save would undo what
/// somebody else has changed.
#[tokio::test]
async fn a_page_is_told_of_the_version_that_its_own_edit_made_and_of_no_other() {
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "50ms").await else { return };
    let console = system.console(&[]).await;
    let press = async |button: &str, form: &str| {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded".to_owned()),
            ("cookie", format!("bundlehook_token={}", token("ws", "editor"))),
            ("origin", console.url("")),
        ];
        let answered =
            console.send("POST", &format!("/webhooks/wh/{button}"), &headers, form.to_owned()).await;
        assert_eq!(answered.status, 200, "{}", answered.text());
        answered.text().to_owned()
    };
    system.publish(&events(0..4)).await;
    wait_until("the disabling", LIMIT, async || {
        console.get("/api/v1/webhooks/wh").await["state"] == "disabled"
    })
    .await;
    let edit = json!({"version": 1, "label": "Renamed by somebody else"});
    let edited = console.call("PATCH", "/api/v1/webhooks/wh", &token("ws", "editor"), &edit).await;
    assert_eq!(edited.status, 200, "{}", edited.text());

    let enabled = press("enable", "held=discard").await;

    assert!(enabled.contains("It is on again") && !enabled.contains("form-version"), "{enabled}");
    let off = press("disable", "version=2").await;
    assert!(off.contains("id=\"form-version\" value=\"3\""), "{off}");
    let rotated = press("rotate", "version=3").await;
    assert!(rotated.contains("id=\"form-version\" value=\"4\""), "{rotated}");
    assert_eq!(console.get("/api/v1/webhooks/wh").await["version"], 4);
}

#[tokio::test]
async fn where_settings_are_written_upstream_the_api_only_enables_tests_and_sends_again() {
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "50ms").await else { return };
    let console = system.console(&[("BUNDLEHOOK_SETTINGS", "upstream")]).await;
    let editor = token("ws", "editor");
    let call = async |method: &str, path: &str, body: Value| console.call(method, path, &editor, &body).await;
    for (method, path, body) in [
        ("POST", "/api/v1/webhooks", json!({"url": "https://h.example/"})),
        ("PATCH", "/api/v1/webhooks/wh", json!({"version": 1})),
        ("DELETE", "/api/v1/webhooks/wh", Value::Null),
        ("POST", "/api/v1/webhooks/wh/rotate-secret", json!({})),
        ("POST", "/api/v1/webhooks/wh/disable", json!({})),
    ] {
        let answered = call(method, path, body).await;
        assert_eq!(answered.status, 403, "{method} {path}: {}", answered.text());
        assert!(answered.text().contains("BUNDLEHOOK_SETTINGS"), "{}", answered.text());
    }
    system.publish(&events(0..4)).await;
    wait_until("the disabling", LIMIT, async || {
        console.get("/api/v1/webhooks/wh").await["state"] == "disabled"
    })
    .await;
    let asked = call("POST", "/api/v1/webhooks/wh/enable", json!({})).await;
    assert_eq!((asked.status, &asked.json()["errors"][0]["field"]), (422, &json!("held")));
    failing.set(ok()).await;
    let enabled = call("POST", "/api/v1/webhooks/wh/enable", json!({"held": "send"})).await.json();
    assert_eq!(enabled["switched"], "by_activation");
    system.wait_delivered().await;
    let tested = call("POST", "/api/v1/webhooks/wh/test", json!({})).await.json();
    assert_eq!(tested["attempt"]["outcome"], "delivered", "{tested}");
    let log = console.get("/api/v1/webhooks/wh/log?count=100").await;
    let delivered = log
        .as_array()
        .expect("it is a list")
        .iter()
        .find(|attempt| attempt["settled"] == "delivered" && attempt["kind"] == "bundle");
    let delivery = delivered.expect("something was delivered")["bundle"]["bundle_id"].clone();
    let before = failing.requests().len();
    let resent = call("POST", "/api/v1/webhooks/wh/resend", json!({"delivery": delivery})).await;
    assert_eq!((resent.status, &resent.json()["deliveries"]), (202, &json!(1)));
    failing.wait_for(|requests| requests.len() > before, "the delivery again").await;
    let log = changes(&console, 3).await;
    let whats: Vec<_> = log.iter().map(|(what, by, _)| (what.as_str(), by.as_str())).collect();
    assert_eq!(whats[1..], [("disabled", "system"), ("enabled", "ann@acme.example")]);
    let text = call("GET", "/api/v1/webhooks/wh/log/download?format=text", Value::Null).await;
    assert!(text.text().contains("---- answered 500"), "{}", text.text());
    let statistics = console.get("/api/v1/webhooks/wh/statistics").await;
    assert!(statistics["failures"].as_u64() >= Some(11), "{statistics}");
}

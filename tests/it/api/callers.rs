//! Every route by everybody who may not use it, or may.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{ADMIN, Answered, Console, claims, ok, receiver, signed, token};

/// Every route: method, path, a body, whether viewers may use it, and whether it is about one webhook.
fn routes() -> Vec<(&'static str, &'static str, Value, bool, bool)> {
    vec![
        ("GET", "/workspaces", Value::Null, true, false),
        ("GET", "/webhooks", Value::Null, true, false),
        ("POST", "/webhooks", json!({"workspace_id": "ws", "url": "https://hooks.example/"}), false, false),
        ("GET", "/webhooks/wh", Value::Null, true, true),
        ("PATCH", "/webhooks/wh", json!({"version": 1, "label": "x"}), false, true),
        ("DELETE", "/webhooks/wh", Value::Null, false, true),
        ("POST", "/webhooks/wh/rotate-secret", json!({}), false, true),
        ("POST", "/webhooks/wh/end-rotation", json!({}), false, true),
        ("POST", "/webhooks/wh/test", json!({}), false, true),
        ("POST", "/webhooks/wh/enable", json!({}), false, true),
        ("POST", "/webhooks/wh/disable", json!({}), false, true),
        ("POST", "/webhooks/wh/resend", json!({"from": "2021-02-24T16:00:00Z"}), false, true),
        ("GET", "/webhooks/wh/log", Value::Null, true, true),
        ("GET", "/webhooks/wh/log/download", Value::Null, true, true),
        ("GET", "/webhooks/wh/statistics", Value::Null, true, true),
        ("GET", "/changes", Value::Null, true, false),
        ("GET", "/changes/download", Value::Null, true, false),
        // It never ends for those who may use it.
        ("GET", "/events", Value::Null, false, false),
    ]
}

fn with(field: &str, value: Value) -> String {
    let mut claims = claims("ws", "editor");
    claims[field] = value;
    signed(&claims)
}

#[tokio::test]
async fn every_route_asks_who_calls_and_what_they_may_do() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let mut console = system.console(&[]).await;
    let unsigned = {
        let valid = token("ws", "editor");
        let (rest, _) = valid.rsplit_once('.').expect("it has three parts");
        format!("{rest}.")
    };
    // An attacker's favourite: no algorithm at all.
    let none = format!("eyJhbGciOiJub25lIn0.{}.", unsigned.split('.').nth(1).expect("it has claims"));
    let strangers = [
        ("no token", String::new()),
        ("nonsense", "nonsense".to_owned()),
        ("unsigned", unsigned),
        ("no algorithm", none),
        ("expired", with("exp", json!(1_600_000_000))),
        ("wrong audience", with("aud", json!("another"))),
        ("wrong issuer", with("iss", json!("another"))),
        ("unknown role", with("role", json!("god"))),
    ];
    for (index, (method, path, body, for_viewers, about_one)) in routes().into_iter().enumerate() {
        let path = format!("/api/v1{path}");
        // The limit on failures is by address.
        console.call_from(index + 1);
        for (who, token) in &strangers {
            let answered = console.call(method, &path, token, &body).await;
            assert_eq!(answered.status, 401, "{method} {path} by {who}: {}", answered.text());
            assert_eq!(answered.header("content-type"), Some("application/problem+json"));
            assert_eq!(answered.json()["status"], 401);
        }
        if about_one {
            let answered = console.call(method, &path, &token("other", "editor"), &body).await;
            assert_eq!(answered.status, 404, "{method} {path} of another workspace: {}", answered.text());
        }
        if path != "/api/v1/events" {
            let expected = if for_viewers { 200 } else { 403 };
            let answered = console.call(method, &path, &token("ws", "viewer"), &body).await;
            assert_eq!(answered.status, expected, "{method} {path} by a viewer: {}", answered.text());
        }
    }
    // Nothing of all that has changed anything.
    assert_eq!(system.records("webhook-settings").await.len(), 1);

    let described = console.get("/api/v1/openapi.json").await;
    let mut paths = BTreeSet::new();
    for (path, item) in described["paths"].as_object().expect("it has paths") {
        for method in item.as_object().expect("it has methods").keys() {
            paths.insert((method.to_uppercase(), path.replace("{webhook_id}", "wh")));
        }
    }
    let tested: BTreeSet<_> =
        routes().iter().map(|route| (route.0.to_owned(), format!("/api/v1{}", route.1))).collect();
    assert_eq!(tested, paths, "the table has every route");
}

#[tokio::test]
async fn others_see_nothing_of_a_workspace_and_an_operator_sees_all() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let other = token("other", "editor");
    for path in ["/api/v1/webhooks", "/api/v1/workspaces", "/api/v1/changes"] {
        assert_eq!(console.call("GET", path, &other, &Value::Null).await.json(), json!([]), "{path}");
        let named = format!("{path}?workspace_id=ws");
        let status = console.call("GET", &named, &other, &Value::Null).await.status;
        assert!(path.ends_with("workspaces") || status == 404, "{named}");
    }
    let new = json!({"workspace_id": "ws", "url": "https://hooks.example/"});
    assert_eq!(console.call("POST", "/api/v1/webhooks", &other, &new).await.status, 404);
    let all = console.call("GET", "/api/v1/webhooks", ADMIN, &Value::Null).await.json();
    assert_eq!(all[0]["webhook_id"], "wh");
    let created = console.call("POST", "/api/v1/webhooks", ADMIN, &new).await;
    assert_eq!(created.status, 201, "{}", created.text());
    assert_eq!(created.json()["updated_by"], "operator");
}

/// Guesses until the console wants a pause, as the client that a header names.
async fn guess(console: &Console, client: &[(&str, String)]) -> Answered {
    for _ in 0..200 {
        let headers = [client, &[("authorization", "Bearer guess".to_owned())]].concat();
        let answered = console.send("GET", "/api/v1/webhooks", &headers, String::new()).await;
        if answered.status == 429 {
            return answered;
        }
        assert_eq!(answered.status, 401);
    }
    panic!("guesses are never refused");
}

#[tokio::test]
async fn whoever_fails_to_sign_in_too_often_waits_and_nobody_else() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let answered = guess(&console, &[]).await;
    assert!(answered.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    // Others may come from the same address.
    for token in [ADMIN, &token("ws", "viewer")] {
        assert_eq!(console.call("GET", "/api/v1/webhooks", token, &Value::Null).await.status, 200);
    }
    // Nobody trusts this peer to say who the client is.
    let other = [("x-forwarded-for", "192.0.2.2".to_owned()), ("authorization", "Bearer guess".to_owned())];
    assert_eq!(console.send("GET", "/api/v1/webhooks", &other, String::new()).await.status, 429);
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_tries_of_its_own() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    for (header, one, other) in [
        ("x-forwarded-for", "198.51.100.1, 192.0.2.1", "192.0.2.2, 127.0.0.9"),
        ("forwarded", "for=198.51.100.1, for=192.0.2.1", "for=\"192.0.2.2:4711\";proto=https"),
    ] {
        let console = system
            .console(&[
                ("BUNDLEHOOK_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.0/8"),
                ("BUNDLEHOOK_FORWARDED_HEADER", header),
            ])
            .await;
        guess(&console, &[(header, one.to_owned())]).await;
        let headers = [(header, other.to_owned()), ("authorization", "Bearer guess".to_owned())];
        assert_eq!(console.send("GET", "/api/v1/webhooks", &headers, String::new()).await.status, 401);
    }
}

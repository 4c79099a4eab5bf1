//! Every route by everybody who may not use it, or may.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{ADMIN, claims, ok, receiver, signed, token};

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

#[tokio::test]
async fn whoever_fails_to_sign_in_too_often_waits() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let mut last = None;
    for _ in 0..200 {
        let answered = console.call("GET", "/api/v1/webhooks", "guess", &Value::Null).await;
        if answered.status == 429 {
            last = Some(answered);
            break;
        }
        assert_eq!(answered.status, 401);
    }
    let answered = last.expect("it is refused at last");
    assert!(answered.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
    // A guess that is right does not show while the address waits.
    assert_eq!(console.call("GET", "/api/v1/webhooks", ADMIN, &Value::Null).await.status, 429);
}

#[tokio::test]
async fn tokens_are_believed_by_the_keys_and_algorithms_that_are_set() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};

    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let ec = rcgen::KeyPair::generate().expect("a key can be made");
    let ec = EncodingKey::from_ec_der(ec.serialized_der());
    let mut jwk = Jwk::from_encoding_key(&ec, Algorithm::ES256).expect("it has a public key");
    jwk.common.key_id = Some("k1".to_owned());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": [jwk]}).to_string()).expect("it can be written");
    let console = system.console(&[("BUNDLEHOOK_JWT_JWKS", &file.to_string_lossy())]).await;
    let sign = |key: &EncodingKey, algorithm, id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
        encode(&header, &claims("ws", "viewer"), key).expect("claims can be signed")
    };
    let other = rcgen::KeyPair::generate().expect("a key can be made");
    let other = EncodingKey::from_ec_der(other.serialized_der());
    let public = serde_json::to_string(&jwk).expect("it is JSON");
    for (what, token, status) in [
        ("the key", sign(&ec, Algorithm::ES256, Some("k1")), 200),
        ("without an id", sign(&ec, Algorithm::ES256, None), 200),
        ("another id", sign(&ec, Algorithm::ES256, Some("k2")), 401),
        ("another key", sign(&other, Algorithm::ES256, Some("k1")), 401),
        // The public key as a secret.
        ("HS256", sign(&EncodingKey::from_secret(public.as_bytes()), Algorithm::HS256, Some("k1")), 401),
        ("a shared secret", token("ws", "viewer"), 401),
    ] {
        let answered = console.call("GET", "/api/v1/webhooks", &token, &Value::Null).await;
        assert_eq!(answered.status, status, "{what}: {}", answered.text());
    }
}

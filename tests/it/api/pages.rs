//! The pages: who may see and do what, signing in, and what a browser without scripts gets.

use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{Answered, Console, claims, ok, receiver, signed, token};

/// Every page and what its buttons send: method, path, form, what a viewer gets, and whether it is about one webhook.
const ROUTES: [(&str, &str, &str, u16, bool); 17] = [
    ("GET", "/", "", 200, false),
    ("GET", "/list", "", 200, false),
    ("GET", "/changes", "", 200, false),
    ("GET", "/mails", "", 404, false),
    ("POST", "/check-url", "url=https%3A%2F%2Fh.example%2F", 200, false),
    ("GET", "/webhooks/new", "", 403, false),
    ("POST", "/webhooks", "url=https%3A%2F%2Fh.example%2F", 422, false),
    ("GET", "/webhooks/wh", "", 200, true),
    ("GET", "/webhooks/wh/state", "", 200, true),
    ("GET", "/webhooks/wh/log", "", 200, true),
    ("POST", "/webhooks/wh/settings", "version=1&url=https%3A%2F%2Fh.example%2F", 422, true),
    ("POST", "/webhooks/wh/test", "", 403, true),
    ("POST", "/webhooks/wh/enable", "", 403, true),
    ("POST", "/webhooks/wh/disable", "version=1", 403, true),
    ("POST", "/webhooks/wh/resend", "from=2021-02-24T16%3A00", 403, true),
    ("POST", "/webhooks/wh/end-rotation", "version=1", 200, true),
    ("POST", "/webhooks/wh/delete", "version=1", 403, true),
];

async fn ask(console: &Console, method: &str, path: &str, token: &str, form: &str) -> Answered {
    let mut headers = vec![("origin", console.url(""))];
    if !token.is_empty() {
        headers.push(("cookie", format!("bundlehook_token={token}")));
    }
    if method == "POST" {
        headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
    }
    console.send(method, path, &headers, form.to_owned()).await
}

#[tokio::test]
async fn every_page_asks_who_looks_and_what_they_may_do() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let mut console = system.console(&[]).await;
    let with = |field: &str, value: Value| {
        let mut claims = claims("ws", "editor");
        claims[field] = value;
        signed(&claims)
    };
    let strangers = [
        ("no token", String::new()),
        ("expired", with("exp", json!(1_600_000_000))),
        ("wrong audience", with("aud", json!("another"))),
    ];
    let rotate = ("POST", "/webhooks/wh/rotate", "version=1", 200, true);
    for (index, (method, path, form, viewer, about_one)) in ROUTES.into_iter().chain([rotate]).enumerate() {
        // The limit on failures is by address.
        console.call_from(index + 1);
        for (who, token) in &strangers {
            let answered = ask(&console, method, path, token, form).await;
            assert_eq!(
                (answered.status, answered.header("location")),
                (303, Some("/sign-in")),
                "{method} {path} by {who}"
            );
        }
        if about_one {
            let answered = ask(&console, method, path, &token("other", "editor"), form).await;
            assert_eq!(answered.status, 404, "{method} {path} of another workspace");
        }
        let answered = ask(&console, method, path, &token("ws", "viewer"), form).await;
        assert_eq!(answered.status, viewer, "{method} {path} by a viewer: {}", answered.text());
        if method == "POST" && path != "/check-url" {
            let refused =
                answered.text().contains("our role is viewer") || answered.text().contains("`viewer`");
            assert!(refused, "{method} {path}: {}", answered.text());
        }
    }
    assert_eq!(system.records("webhook-settings").await.len(), 1, "nothing was changed");
}

#[tokio::test]
async fn a_form_of_the_console_or_of_the_product_signs_in_and_nothing_else_does() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let product = "https://app.example.com";
    let embedded = system.console(&[("BUNDLEHOOK_FRAME_ANCESTORS", product)]).await;
    let alone = system.console(&[]).await;
    let form = format!("token={}", token("ws", "viewer"));
    let sign_in = async |console: &Console, origin: &str| {
        let headers =
            [("origin", origin.to_owned()), ("content-type", "application/x-www-form-urlencoded".to_owned())];
        console.send("POST", "/sign-in", &headers, form.clone()).await
    };
    for (console, origin, expected) in [
        (&embedded, product, 303),
        (&embedded, &embedded.url("") as &str, 303),
        (&embedded, "https://evil.example", 403),
        (&embedded, "null", 403),
        (&alone, product, 403),
        (&alone, &alone.url(""), 303),
    ] {
        let answered = sign_in(console, origin).await;
        assert_eq!(answered.status, expected, "from {origin}");
        assert_eq!(answered.header("set-cookie").is_some(), expected == 303, "from {origin}");
    }
    // In a frame of another site a cookie must be allowed to come from there.
    let cookie = |answered: &Answered| answered.header("set-cookie").expect("it has one").to_owned();
    assert!(cookie(&sign_in(&embedded, product).await).ends_with("HttpOnly; Secure; SameSite=None"));
    assert!(cookie(&sign_in(&alone, &alone.url("")).await).ends_with("HttpOnly; Secure; SameSite=Lax"));

    for (console, ancestors, options) in [(&embedded, product, None), (&alone, "'none'", Some("DENY"))] {
        let link = console.send("GET", &format!("/sign-in?{form}"), &[], String::new()).await;
        assert_eq!((link.status, link.header("set-cookie")), (200, None), "a link signs nobody in");
        let policy = link.header("content-security-policy").expect("it has a policy");
        assert!(policy.ends_with(&format!("frame-ancestors {ancestors}")), "{policy}");
        assert_eq!(link.header("x-frame-options"), options);
    }
}

#[tokio::test]
async fn without_scripts_what_was_typed_is_kept_and_only_what_was_seen_is_deleted() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let editor = token("ws", "editor");
    let post = async |path: &str, form: &str| ask(&console, "POST", path, &editor, form).await;
    let typed = "version=1&url=ftp%3A%2F%2Fh.example%2F&label=Typed+with+care&granularity=6h&success=200";
    let refused = post("/webhooks/wh/settings", typed).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().starts_with("<!doctype html>"), "{}", refused.text());
    assert!(refused.text().contains("value=\"Typed with care\""), "{}", refused.text());
    assert!(refused.text().contains("expected an absolute http or https URL"), "{}", refused.text());
    let saved = typed.replace("ftp", "https");
    let saved = post("/webhooks/wh/settings", &saved).await;
    assert_eq!((saved.status, saved.header("location")), (303, Some("/webhooks/wh")));

    for (path, expected) in [
        ("/webhooks/wh/delete", 422),
        ("/webhooks/wh/delete?version=1", 409),
        ("/webhooks/wh/delete?version=2", 303),
    ] {
        let answered = post(path, "").await;
        assert_eq!(answered.status, expected, "{path}: {}", answered.text());
    }
    let gone = console.call("GET", "/api/v1/webhooks/wh", &editor, &Value::Null).await;
    assert_eq!(gone.status, 404);
}

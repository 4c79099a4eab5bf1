//! The console in a real browser, on the real product.

use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::{ids, numbered};
use crate::support::{
    Browser, Console, LIMIT, System, claims, event, ok, receiver, signed, status, system, token, wait_until,
    webhook,
};

async fn start(retry: &str, webhooks: &[Value]) -> Option<(System, Console)> {
    let keys = crate::support::console::sealing_keys();
    let setup = system(2_000).env("BUNDLEHOOK_RETRY_SCHEDULE", retry);
    let system = setup.env("BUNDLEHOOK_SEALING_KEYS", &keys).start(webhooks).await?;
    let console = system.console(&[]).await;
    Some((system, console))
}

/// Opens the console signed in.
async fn sign_in(console: &Console, role: &str) -> Browser {
    sign_in_with(console, || token("ws", role)).await
}

/// With a token that is made once the page is there, which may take a while.
async fn sign_in_with(console: &Console, token: impl FnOnce() -> String) -> Browser {
    let browser = Browser::open(&console.url("/"), 1200, "light").await;
    browser.wait_text("button", "Sign in").await;
    browser.fill("Token", &token()).await;
    browser.click("button", "Sign in").await;
    browser.wait_text("nav", "Change log").await;
    browser
}

fn events(numbers: std::ops::Range<usize>) -> Vec<Value> {
    numbers.map(|n| event("ws", &format!("c{}", n % 2), &format!("{n:03}"))).collect()
}

/// A tree without what differs from run to run.
fn stable(tree: &str) -> String {
    let patterns = [
        (r"127\.0\.0\.1:\d+", "HOST"),
        (r"\d{1,2} \w{3,4} 20\d\d, \d\d:\d\d:\d\d", "TIME"),
        // In a path, its hyphens are encoded.
        (r"[0-9a-f]{8}(-|%2D)[0-9a-f]{4}(-|%2D)[0-9a-f]{4}(-|%2D)[0-9a-f]{4}(-|%2D)[0-9a-f]{12}", "ID"),
        (r"arrived: \d+ ms", "arrived: N ms"),
        (r"in \d+ min", "in N min"),
    ];
    let mut stable = tree.to_owned();
    for (pattern, name) in patterns {
        let pattern = regex::Regex::new(pattern).expect("it is a pattern");
        stable = pattern.replace_all(&stable, name).into_owned();
    }
    stable
}

#[tokio::test]
async fn a_webhook_is_created_breaks_is_mended_and_its_log_says_what_the_receiver_got() {
    let target = receiver(ok());
    let Some((system, console)) = start("100ms", &[]).await else { return };
    let browser = sign_in(&console, "editor").await;
    browser.wait_text("h2", "No webhooks yet").await;
    browser.assert_accessible("empty").await;
    insta::assert_snapshot!("empty", stable(&browser.aria("body").await));

    // A wrong URL is said beside its field, at once and again when it is sent.
    browser.click("link", "New webhook").await;
    browser.wait_text("h1", "New webhook").await;
    browser.assert_accessible("empty form").await;
    browser.fill("URL", "ftp://hooks.example/").await;
    browser.fill("Label", "CRM notes").await;
    browser.wait_text("#url-error", "expected an absolute http or https URL").await;
    browser.click("button", "Create").await;
    browser.wait_text("[role=alert]", "This can't be saved yet").await;
    browser.assert_accessible("wrong value").await;
    browser.fill("URL", &target.url("/hook?key=s3cret")).await;
    browser.fill("Extra headers", "Authorization: Bearer s3cret").await;
    browser.click("button", "Create").await;
    browser.wait_text("h1", "CRM notes").await;
    browser.wait_text("#log", "Nothing was sent yet").await;
    browser.assert_accessible("new").await;
    insta::assert_snapshot!("new", stable(&browser.aria("main").await));

    // A delivery arrives, and shows without a reload.
    system.settings_count().await;
    system.publish(&events(0..1)).await;
    browser.wait_text("#log .badge", "Delivered").await;
    browser.wait_text("#state", "What is sent arrives").await;
    browser.act("open_row", json!({"index": 0})).await;
    browser.wait_text("details[open] pre", "\"message_id\": \"000\"").await;
    assert!(!browser.text("details[open]").await.contains("s3cret"));
    browser.assert_accessible("delivered").await;

    // The receiver breaks, and the webhook is disabled before the viewer's eyes.
    target.set(status(500)).await;
    system.publish(&events(1..6)).await;
    browser.wait_text("#state .badge", "Disabled").await;
    browser.wait_text("#state", "5 calls held").await;
    browser.wait_text("#state", "The last call: answered 500.").await;
    browser.assert_accessible("disabled").await;
    insta::assert_snapshot!("disabled", stable(&browser.aria("#state").await));

    // It is mended, and enabled: what was held is sent.
    target.set(ok()).await;
    let before = target.requests().len();
    browser.click("radio", "Send them, in order").await;
    browser.click("button", "Enable").await;
    browser.wait_text("#result", "It is on again. What was held is being sent.").await;
    target.wait_for(|requests| requests.len() >= before + 5, "what was held").await;
    browser.wait_text("#state .badge", "Healthy").await;
    let mut came = ids(&target.requests()[before..]);
    came.sort();
    assert_eq!(came, numbered(1..6));
    system.wait_delivered().await;

    // The log holds what the receiver got, request by request.
    let got = target.requests();
    let mut log = Value::Null;
    wait_until("the log to be complete", LIMIT, async || {
        let file = browser.act("download", json!({"name": "Download the log (JSON)"})).await;
        assert!(file["name"].as_str().is_some_and(|name| name.ends_with("-log.json")), "{file}");
        log = serde_json::from_str(file["text"].as_str().expect("it has a text")).expect("it is JSON");
        log.as_array().is_some_and(|log| log.len() >= got.len())
    })
    .await;
    let sent = |entry: &Value| (entry["bundle"]["bundle_id"].clone(), entry["body"].clone());
    let mut logged: Vec<String> =
        log.as_array().expect("a list").iter().map(|entry| format!("{:?}", sent(entry))).collect();
    let received = got.iter().map(|request| (json!(request.header("webhook-id")), json!(request.text())));
    let mut received: Vec<String> = received.map(|pair| format!("{pair:?}")).collect();
    logged.sort();
    received.sort();
    assert_eq!(logged, received);
    assert!(got.iter().all(|request| request.header("authorization") == Some("Bearer s3cret")));

    browser.click("link", "Change log").await;
    browser.wait_text("td", "enabled it again").await;
    browser.assert_accessible("change log").await;
    browser.click("link", "All webhooks").await;
    browser.wait_text(".hook", "CRM notes").await;
    browser.assert_accessible("list").await;
    browser.assert_clean(&console.addr().to_string()).await;
}

#[tokio::test]
async fn everything_can_be_done_with_the_keyboard() {
    let target = receiver(ok());
    let Some((_system, console)) = start("10m", &[]).await else { return };
    let browser = Browser::open(&console.url("/"), 1200, "light").await;
    browser.assert_accessible("sign in").await;
    insta::assert_snapshot!("sign_in", browser.aria("body").await);
    browser.act("goto", json!({"url": console.url("/sign-in")})).await;
    let type_in = async |text: &str| {
        browser.act("type", json!({"text": text})).await;
    };
    browser.tab_to("input Token").await;
    type_in(&token("ws", "editor")).await;
    browser.press("Enter").await;
    browser.wait_text("h2", "No webhooks yet").await;
    browser.tab_to("a New webhook").await;
    browser.press("Enter").await;
    browser.wait_text("h1", "New webhook").await;
    browser.tab_to("input URL").await;
    type_in(&target.url("/keys")).await;
    browser.tab_to("input Label").await;
    type_in("By keyboard").await;
    browser.tab_to("button Create").await;
    browser.press("Enter").await;
    browser.wait_text("h1", "By keyboard").await;

    browser.tab_to("button Send a test").await;
    browser.press("Enter").await;
    browser.wait_text("#result", "The test arrived").await;
    browser.wait_text("#log .badge", "Delivered").await;
    browser.tab_to("summary Delivered").await;
    browser.press("Enter").await;
    browser.wait_text("details[open] dd", "a test by ann@acme.example").await;

    // Focus does not get lost where a part of the page is replaced.
    browser.tab_to("button Make a secret").await;
    browser.press("Space").await;
    browser.wait_text("#new-secret", "whsec_").await;
    assert_eq!(browser.focused().await, "button Copy the secret");
    browser.press("Enter").await;
    browser.wait_text("#secret-part", "Copied").await;
    browser.assert_accessible("secret").await;
    browser.tab_to("summary Delete this webhook").await;
    browser.press("Enter").await;
    browser.tab_to("button Delete “By keyboard”").await;
    browser.press("Enter").await;
    browser.wait_text("h2", "No webhooks yet").await;
    browser.assert_clean(&console.addr().to_string()).await;
    browser.act("goto", json!({"url": console.url("/webhooks/none")})).await;
    browser.wait_text("main", "does not exist, or was deleted").await;
    browser.assert_accessible("problem").await;
}

#[tokio::test]
async fn a_viewer_sees_a_failing_webhook_with_a_hostile_name_and_no_buttons() {
    let failing = receiver(status(503));
    let hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";
    let webhooks = [
        webhook("wh/<b>&\"'", "ws", &failing.url("/a"), json!({"label": hostile})),
        webhook(
            "wh-day",
            "ws",
            "https://hooks.zapier.com/hooks/catch/1/abc/",
            json!({"granularity": "24h", "label": "Zapier"}),
        ),
    ];
    let Some((system, console)) = start("10m", &webhooks).await else { return };
    system.publish(&[event("ws", "c", hostile)]).await;
    let browser = sign_in(&console, "viewer").await;
    browser.wait_text(".hook .badge", "Failing").await;
    browser.assert_accessible("failing list").await;
    assert_eq!(browser.count("a:text-is('New webhook')").await, 0);
    browser.click("link", hostile).await;
    browser.wait_text("#state", ", 1 of 10 failures, next try in ").await;
    browser.wait_text("#state", "1 call waiting, in order").await;
    insta::assert_snapshot!("failing", stable(&browser.aria("#state").await));
    browser.act("open_row", json!({"index": 0})).await;
    assert!(browser.text("h1").await.contains("<script>"));
    browser.assert_accessible("failing").await;
    assert_eq!(browser.count("main button:not([data-copy])").await, 0);
    assert_eq!(browser.count("img").await, 0);
    // Times are the viewer's, with UTC on hover.
    let title = browser.act("attribute", json!({"selector": "#state time", "name": "title"})).await;
    assert!(title.as_str().is_some_and(|title| title.ends_with(" UTC")), "{title}");

    browser.click("link", "All webhooks").await;
    browser.click("link", "Zapier").await;
    browser.wait_text("#state", "Zapier takes at most 25 calls a second").await;
    browser.wait_text("#state", "The open windows close at").await;
    browser.assert_clean(&console.addr().to_string()).await;

    // What another workspace has, and what a stranger's page sends, is refused.
    let other = console
        .send(
            "GET",
            "/webhooks/wh-day",
            &[("cookie", format!("bundlehook_token={}", token("other", "editor")))],
            String::new(),
        )
        .await;
    assert_eq!(other.status, 404);
    let cookie = format!("bundlehook_token={}", token("ws", "editor"));
    let form = ("content-type", "application/x-www-form-urlencoded".to_owned());
    for (origin, expected) in
        [("http://evil.example".to_owned(), 403), (format!("http://{}", console.addr()), 200)]
    {
        let headers = [("cookie", cookie.clone()), ("origin", origin), form.clone()];
        let answered = console.send("POST", "/webhooks/wh-day/disable", &headers, String::new()).await;
        assert_eq!(answered.status, expected, "{}", answered.text());
        let policy = answered.header("content-security-policy").expect("it has a policy");
        assert!(
            policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{policy}"
        );
        assert_eq!(answered.header("cache-control"), Some("no-store"));
        assert_eq!(answered.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn what_helps_is_said_what_was_skipped_is_counted_and_the_next_try_counts_down() {
    let (accepting, failing) = (receiver(status(202)), receiver(status(503)));
    let webhooks = [
        webhook("wh-202", "ws", &accepting.url("/"), json!({"label": "Says accepted"})),
        webhook("wh-503", "ws", &failing.url("/"), json!({"label": "Says no"})),
    ];
    let Some((system, console)) = start("100s", &webhooks).await else { return };
    let mut photo = event("ws", "c", "photo");
    photo["message"]["attachments"] = json!([{}]);
    system.publish(&[event("ws", "c", "1"), photo]).await;
    wait_until("the skip to be counted", LIMIT, async || {
        console.get("/api/v1/webhooks/wh-202").await["skipped"]["attachments"] == 1
    })
    .await;
    let browser = sign_in(&console, "viewer").await;
    browser.click("link", "Says accepted").await;
    browser.wait_text("#state .note", "The receiver answers 202").await;
    browser.wait_text("#skipped tr", "It has an attachment").await;
    browser.assert_accessible("hint and skips").await;

    browser.click("link", "All webhooks").await;
    browser.click("link", "Says no").await;
    browser.wait_text("#state p", "1 of 10 failures, next try in ").await;
    let left = async || {
        let text = browser.text("time[data-soon]").await;
        let mut words = text.split(' ');
        assert!(text.starts_with("in ") && text.ends_with(" s"), "{text}");
        words.nth(1).and_then(|count| count.parse::<u32>().ok()).expect("it is a number")
    };
    let first = left().await;
    browser.wait("the next try to come nearer", async || left().await < first).await;
    browser.assert_clean(&console.addr().to_string()).await;
}

/// Clocks may differ by 30 s, so this token is good for so long.
#[tokio::test]
async fn an_open_page_leads_to_signing_in_once_its_token_has_ended() {
    let Some((_system, console)) = start("10m", &[]).await else { return };
    let ends_now = || {
        let mut claims = claims("ws", "viewer");
        claims["exp"] = json!(bundlehook::io::clock::now().0 / 1000);
        signed(&claims)
    };
    let browser = sign_in_with(&console, ends_now).await;
    browser.wait_text("button", "Sign in").await;
}

#[tokio::test]
async fn each_button_does_what_it_says() {
    let target = receiver(ok());
    let webhooks = [webhook("wh", "ws", &target.url("/"), json!({"label": "Buttons"}))];
    let Some((system, console)) = start("100ms", &webhooks).await else { return };
    system.publish(&events(0..1)).await;
    let first = target.wait_for(|requests| requests.len() == 1, "the message").await;
    system.wait_delivered().await;
    let browser = sign_in(&console, "editor").await;
    browser.click("link", "Buttons").await;
    browser.wait_text("#log .badge", "Delivered").await;
    browser.act("open_row", json!({"index": 0})).await;
    browser.click("button", "Send this again").await;
    browser.wait_text("#result", "1 call is being sent again.").await;
    let again = target.wait_for(|requests| requests.len() == 2, "it again").await;
    assert_eq!(again[1].header("webhook-id"), first[0].header("webhook-id"));
    browser.wait_text("#log details:nth-of-type(1)", "Delivered").await;

    browser.fill("From (UTC)", "2021-02-24T16:25:00").await;
    browser.act("check", json!({"label": "Under new ids, so that the receiver takes them for new"})).await;
    browser.click("button", "Send again").await;
    browser.wait_text("#resend-result", "1 call is being sent again.").await;
    let again = target.wait_for(|requests| requests.len() == 3, "it again").await;
    assert_ne!(again[2].header("webhook-id"), first[0].header("webhook-id"));
    browser.click("button", "Send a test").await;
    browser.wait_text("#result", "The test arrived").await;

    browser.click("button", "Make a secret").await;
    browser.wait_text("#secret-part", "signed with one secret").await;
    browser.click("button", "Rotate the secret").await;
    browser.wait_text("#secret-part", "signed with two secrets").await;
    assert_eq!(browser.count("button:text-is('Rotate the secret')").await, 0);
    browser.assert_accessible("rotation").await;
    browser.click("button", "End the rotation").await;
    browser.wait_text("#secret-part", "signed with one secret").await;

    target.set(status(500)).await;
    system.publish(&events(1..4)).await;
    browser.wait_text("#state .badge", "Disabled").await;
    browser.wait_text("#state", "3 calls held").await;
    target.set(ok()).await;
    let before = target.requests().len();
    browser.click("radio", "Discard them").await;
    // What is shown is replaced whenever something happened: a choice that was made holds.
    browser.act("refresh", json!({"selector": "#state"})).await;
    browser.click("button", "Enable").await;
    browser.wait_text("#result", "What was held is discarded.").await;
    browser.wait_text("#state .badge", "Healthy").await;
    browser.click("button", "Switch off").await;
    browser.wait_text("#result", "It is off.").await;
    browser.wait_text("#state .badge", "Off").await;
    browser.assert_accessible("off").await;
    browser.click("button", "Switch on").await;
    browser.wait_text("#result", "It is on.").await;
    browser.wait_text("#state .badge", "Healthy").await;
    system.settings_count().await;
    system.publish(&events(4..5)).await;
    let came = target.wait_for(|requests| requests.len() > before, "what comes after it").await;
    assert_eq!(ids(&came[before..]), numbered(4..5), "what was held is gone");
    browser.assert_clean(&console.addr().to_string()).await;
}

#[tokio::test]
async fn pages_keep_up_while_something_happens_all_the_time() {
    let target = receiver(ok());
    let webhooks = [webhook("wh", "ws", &target.url("/"), json!({"label": "Busy"}))];
    let Some((system, console)) = start("100ms", &webhooks).await else { return };
    let browser = sign_in(&console, "viewer").await;
    let busy = async || {
        for number in 0.. {
            system.publish(&events(number..number + 1)).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let looking = async {
        browser.wait_text("#list", "calls, no errors").await;
        browser.click("link", "Busy").await;
        let shown = async || browser.text("#state .card").await;
        let first = shown().await;
        browser.wait("the state to be another one", async || shown().await != first).await;
        let newest = async || browser.text("#log summary").await;
        let first = newest().await;
        browser.wait("the log to have something new", async || newest().await != first).await;
    };
    tokio::select! {
        () = busy() => unreachable!("it goes on"),
        () = looking => {}
    }
    browser.assert_clean(&console.addr().to_string()).await;
}

#[tokio::test]
async fn of_two_who_edit_at_once_the_second_is_told_and_nothing_is_overwritten() {
    let webhooks = [webhook("wh", "ws", "https://hooks.example/", json!({"label": "Shared"}))];
    let Some((system, console)) = start("10m", &webhooks).await else { return };
    // Over two processes, as behind a proxy.
    let other = system.console(&[]).await;
    let (ann, dana) = tokio::join!(sign_in(&console, "editor"), sign_in(&other, "editor"));
    for browser in [&ann, &dana] {
        browser.click("link", "Shared").await;
        browser.wait_text("h1", "Shared").await;
    }
    ann.fill("Label", "By Ann").await;
    ann.click("button", "Save").await;
    ann.wait_text("#settings-form", "Saved.").await;
    dana.fill("Label", "By Dana").await;
    dana.fill("Most calls a second", "7").await;
    dana.click("button", "Save").await;
    dana.wait_text("[role=alert]", "changed by ann@acme.example").await;
    assert_eq!(dana.act("value", json!({"label": "Label"})).await, "By Dana", "what was typed stays");
    dana.assert_accessible("conflict").await;

    // Nor is anything deleted that was not seen.
    dana.act("press_on", json!({"selector": "#remove ~ details summary"})).await;
    dana.click("button", "Delete “Shared”").await;
    dana.wait_text("#delete-result", "changed by").await;
    let shown = console.get("/api/v1/webhooks/wh").await;
    assert_eq!(
        (&shown["label"], &shown["version"], &shown["max_per_second"]),
        (&json!("By Ann"), &json!(2), &Value::Null)
    );
}

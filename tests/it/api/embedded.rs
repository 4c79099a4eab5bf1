//! `dev`: the console on an embedded broker, signed in by a link.

use serde_json::json;

use crate::support::{Browser, HeldPort, LIMIT, event, process, receiver, status, wait_until};

#[tokio::test]
async fn dev_prints_a_link_that_opens_the_page_signed_in_and_the_page_shows_the_mails() {
    let failing = receiver(status(500));
    let port = HeldPort::new();
    let dev = process("dev")
        .env("BUNDLEHOOK_CONSOLE_ADDR", port.addr().to_string())
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", failing.addr().to_string())
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "100ms")
        .start();
    dev.wait_ready().await;
    let said = |name: &str| {
        let stdout = dev.stdout();
        let line = stdout.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("`{name}` is not in: {stdout}"))
    };
    let browser = Browser::open(&said("console: "), 1200, "light").await;
    browser.wait_text("h2", "No webhooks yet").await;
    browser.click("link", "New webhook").await;
    browser.fill("URL", &failing.url("/")).await;
    browser.fill("Label", "Of a newcomer").await;
    browser.click("button", "Create").await;
    browser.wait_text("h1", "Of a newcomer").await;

    // A change counts from five seconds after it; until then messages are not for it.
    let brokers = said("export BUNDLEHOOK_KAFKA_BROKERS=");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let (file, mut number) = (folder.path().join("events.jsonl"), 0);
    wait_until("a call", LIMIT, async || {
        number += 1;
        let input = event("ws-acme", "c", &number.to_string()).to_string() + "\n";
        std::fs::write(&file, input).expect("it can be written");
        let produce = process("produce").env("BUNDLEHOOK_KAFKA_BROKERS", &brokers);
        let finished = produce.arg("--file").arg(file.to_string_lossy()).run().await;
        assert!(finished.status.success(), "{finished:?}");
        !failing.requests().is_empty()
    })
    .await;
    browser.wait_text("#state .badge", "Disabled").await;
    browser.click("link", "E-mails").await;
    browser.wait_text("h1", "E-mails").await;
    wait_until("the mails", LIMIT, async || {
        browser.act("goto", json!({"url": format!("http://{}/mails", port.addr())})).await;
        browser.count(".mail").await == 2
    })
    .await;
    browser.wait_text(".mail h2", "is failing").await;
    browser.wait_text(".mail h2", "was disabled").await;
    browser.wait_text(".mail p", "dev@localhost").await;
    assert!(dev.stdout().contains("e-mail (shown, not sent)"));
    browser.assert_accessible("mails").await;
    browser.assert_clean(&port.addr().to_string()).await;
}

//! E-mails to the owners of webhooks, through a real SMTP server.

use serde_json::{Value, json};

use crate::commands::{PARKED, assert_ended, events, start};
use crate::support::{
    LIMIT, MailServer, Outgoing, Process, Record, System, mail_server, ok, receiver, secure_mail_server,
    status, wait_until,
};

const SENT: &str = "bundlehook_mails_total{result=\"sent\"}";
const REPEATED: &str = "bundlehook_mails_total{result=\"repeated\"}";

/// Starts `notify` beside a system.
pub(crate) async fn notify(system: &System, server: &MailServer, more: &[(&str, &str)]) -> Process {
    let mut launch = system
        .launch("notify")
        .env("BUNDLEHOOK_SMTP_URL", server.url())
        .env("BUNDLEHOOK_MAIL_FROM", "Bundlehook <hooks@product.example>")
        .env("BUNDLEHOOK_CONSOLE_URL", "https://console.example/")
        .env("BUNDLEHOOK_MAIL_RETRY_SCHEDULE", "100ms");
    for (name, value) in more {
        launch = launch.env(name, *value);
    }
    let process = launch.start();
    process.wait_ready().await;
    process
}

pub(crate) fn notification(number: u128, email: &str) -> Value {
    json!({
        "v": 1, "notification_id": uuid::Uuid::from_u128(number), "kind": "webhook.warning", "workspace_id": "ws",
        "webhook_id": "wh", "to": {"full_name": "Amnon\r\nBcc: thief@evil.example", "email": email},
        "label": "CRM\r\nBcc: thief@evil.example", "url": "https://hooks.example/", "failures": 5,
        "last_error": "endpoint answered `503`", "at": "2021-02-24T16:25:29.123Z",
    })
}

pub(crate) async fn publish(system: &System, notification: &Value) {
    system.produce("notifications", [Outgoing::new("ws", notification.to_string())]).await;
}

pub(crate) async fn dead_letters(system: &System, count: usize) -> Vec<Record> {
    system.wait_records("dead-letters", |records| records.len() >= count).await
}

fn subjects(mails: &[Value]) -> Vec<String> {
    let subject = |mail: &Value| {
        let text = mail["text"].as_str().expect("it is a text");
        let line = text.lines().find(|line| line.starts_with("Subject: ")).expect("it has a subject");
        line.to_owned()
    };
    mails.iter().map(subject).collect()
}

#[tokio::test]
async fn the_owner_is_told_of_a_warning_a_disabling_and_an_enabling_once_each() {
    let failing = receiver(status(500));
    let Some(system) = start(&failing, json!({}), "50ms").await else { return };
    let server = mail_server().await;
    let sender = notify(&system, &server, &[]).await;
    system.publish(&events(0..4)).await;
    let mails = server.wait_for(2).await;
    system.deliver.wait_sum(PARKED, 4.0).await;
    failing.set(ok()).await;
    assert_ended(&system.webhook(&["enable", "wh", "--send"]).await, 0, "on again");
    let mut all = server.wait_for(3).await;
    all[..2].clone_from_slice(&mails[..2]);
    for (mail, part) in all.iter().zip(["is failing", "was disabled", "was enabled again"]) {
        assert_eq!(
            (&mail["from"], &mail["to"]),
            (&json!("hooks@product.example"), &json!(["amnon@acme.example"]))
        );
        let text = mail["text"].as_str().expect("it is a text").replace("=\r\n", "");
        assert!(text.contains(part), "`{part}` is not in {text}");
        assert!(text.contains("https://console.example/webhooks/wh"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }

    // What is published once more, and what was read before a crash, is not sent again.
    wait_until("three e-mails to be done with", LIMIT, async || sender.metric(SENT).await == Some(3.0)).await;
    sender.sigkill();
    sender.wait_exit(LIMIT).await;
    let sender = notify(&system, &server, &[]).await;
    let notifications = system.records("notifications").await;
    let again = notifications.iter().map(|record| Outgoing::new(record.key(), record.text()));
    system.produce("notifications", again).await;
    publish(&system, &notification(1, "ann@acme.example")).await;
    let mails = server.wait_for(4).await;
    assert_eq!(mails.len(), 4, "{:?}", subjects(&mails));
    assert_eq!(mails[3]["to"], json!(["ann@acme.example"]));
    assert_eq!(sender.metric(REPEATED).await, Some(3.0));
}

#[tokio::test]
async fn an_email_waits_for_its_server_and_one_that_is_refused_is_a_dead_letter() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let mut server = mail_server().await;
    server.stop();
    let sender = notify(&system, &server, &[]).await;
    publish(&system, &notification(1, "ann@acme.example")).await;
    wait_until("some failures", LIMIT, async || {
        sender.metric("bundlehook_mail_failures_total").await >= Some(3.0)
    })
    .await;
    server.start().await;
    let mails = server.wait_for(1).await;
    let text = mails[0]["text"].as_str().expect("it is a text");
    let (head, _) = text.split_once("\r\n\r\n").expect("it has a head");
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
    assert_eq!(mails[0]["to"], json!(["ann@acme.example"]));

    server.set("refuse");
    publish(&system, &notification(2, "nobody@acme.example")).await;
    publish(&system, &notification(3, "no address")).await;
    let letters = dead_letters(&system, 2).await;
    let reasons: Vec<_> = letters.iter().filter_map(|letter| letter.header("reason")).collect();
    assert_eq!(reasons, ["mail_refused", "invalid_field"]);
    assert!(letters[0].header("detail").is_some_and(|detail| detail.contains("nobody lives here")));

    // Put off, then taken.
    server.set("put-off");
    publish(&system, &notification(4, "ann@acme.example")).await;
    let before = sender.metric("bundlehook_mail_failures_total").await;
    wait_until("it to be put off", LIMIT, async || {
        sender.metric("bundlehook_mail_failures_total").await > before
    })
    .await;
    server.set("ok");
    assert_eq!(server.wait_for(2).await.len(), 2);
}

#[tokio::test]
async fn an_email_that_may_have_been_sent_is_not_sent_again() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let server = mail_server().await;
    let sender = notify(&system, &server, &[]).await;

    // The server has the whole text, and the process dies before it hears of that.
    server.set("hang");
    publish(&system, &notification(1, "ann@acme.example")).await;
    server.wait_for(1).await;
    sender.sigkill();
    sender.wait_exit(LIMIT).await;
    server.set("ok");
    let _sender = notify(&system, &server, &[]).await;
    let letters = dead_letters(&system, 1).await;
    assert_eq!(letters[0].header("reason"), Some("mail_unsure"));

    // The server goes away with the whole text.
    server.set("hang-up");
    publish(&system, &notification(2, "ann@acme.example")).await;
    let letters = dead_letters(&system, 2).await;
    assert_eq!(letters[1].header("reason"), Some("mail_unsure"));
    server.set("ok");
    publish(&system, &notification(3, "ann@acme.example")).await;
    assert_eq!(server.wait_for(3).await.len(), 3);
}

#[tokio::test]
async fn emails_go_over_tls_with_a_login_to_a_server_that_is_trusted() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    for (number, implicit) in [(1, false), (2, true)] {
        let server = secure_mail_server(implicit).await;
        let stranger = notify(&system, &server, &[]).await;
        publish(&system, &notification(number, "ann@acme.example")).await;
        wait_until("a failure", LIMIT, async || {
            stranger.metric("bundlehook_mail_failures_total").await >= Some(1.0)
        })
        .await;
        stranger.sigterm();
        assert!(stranger.wait_exit(LIMIT).await.success());
        assert!(server.mails().is_empty());

        let certificate = server.certificate().to_string_lossy().into_owned();
        let trusting = notify(&system, &server, &[("BUNDLEHOOK_SMTP_CA_BUNDLE", &certificate)]).await;
        let mails = server.wait_for(1).await;
        assert_eq!((&mails[0]["tls"], &mails[0]["login"]), (&json!(true), &json!("ann")));
        trusting.sigterm();
        assert!(trusting.wait_exit(LIMIT).await.success());
    }
}

#[tokio::test]
async fn a_password_and_an_authority_that_change_need_no_restart() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let mut server = secure_mail_server(false).await;
    let url = server.certificate().with_file_name("url");
    let write = |content: &str| std::fs::write(&url, content).expect("the rig's folder can be written");
    write(&server.url());
    let sender = system
        .launch("notify")
        .env("BUNDLEHOOK_SMTP_URL_FILE", url.to_string_lossy())
        .env("BUNDLEHOOK_SMTP_CA_BUNDLE", server.certificate().to_string_lossy())
        .env("BUNDLEHOOK_MAIL_RETRY_SCHEDULE", "100ms")
        .start();
    sender.wait_ready().await;
    publish(&system, &notification(1, "ann@acme.example")).await;
    server.wait_for(1).await;

    server.renew("battery").await;
    publish(&system, &notification(2, "bob@acme.example")).await;
    wait_until("a failure", LIMIT, async || {
        sender.metric("bundlehook_mail_failures_total").await >= Some(1.0)
    })
    .await;
    write(&server.url().replace("s3cret", "battery"));
    let mails = server.wait_for(2).await;
    assert_eq!(mails[1]["to"], json!(["bob@acme.example"]));
}

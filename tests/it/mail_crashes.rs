//! A mailer that dies, or stands still until another one has taken over, between two steps of an e-mail: no e-mail is
//! sent twice, and one of which nobody knows whether it was sent becomes a dead letter.

use std::os::unix::process::ExitStatusExt as _;

use serde_json::{Value, json};

use crate::commands::start;
use crate::mails::{dead_letters, notification, notify, publish};
use crate::support::{LIMIT, MailServer, Process, SESSION, System, mail_server, ok, receiver, wait_until};

const FAILPOINT: &str = "BUNDLEHOOK_FAILPOINT";
const PROPERTIES: &str = "BUNDLEHOOK_KAFKA_PROPERTIES";

/// A system and a mail server.
async fn begin() -> Option<(System, MailServer)> {
    let system = start(&receiver(ok()), json!({}), "1s").await?;
    Some((system, mail_server().await))
}

async fn notify_at(system: &System, server: &MailServer, point: &str) -> Process {
    notify(system, server, &[(PROPERTIES, SESSION), (FAILPOINT, point)]).await
}

/// How many e-mails went to an address.
fn sent_to(mails: &[Value], address: &str) -> usize {
    mails.iter().filter(|mail| mail["to"] == json!([address])).count()
}

/// Waits until an e-mail that was published after the others has come: they have come by then, or never will.
async fn wait_last(system: &System, server: &MailServer) -> Vec<Value> {
    publish(system, &notification(9, "last@acme.example")).await;
    wait_until("the last e-mail", LIMIT, async || sent_to(&server.mails(), "last@acme.example") == 1).await;
    server.mails()
}

#[tokio::test]
async fn wherever_a_mailer_dies_an_email_is_sent_at_most_once() {
    for (point, sent, unsure) in [
        ("notify.claimed", 1, 0),
        // The server waits for the text, and nothing was noted.
        ("notify.offered", 1, 0),
        // It is noted, and the text was not handed over; nobody can know that.
        ("notify.noted", 0, 1),
        // The server has taken it, and that is not noted.
        ("notify.handed-over", 1, 1),
    ] {
        let Some((system, server)) = begin().await else { return };
        publish(&system, &notification(1, "ann@acme.example")).await;
        let dying = notify_dying(&system, &server, point);
        let ended = dying.wait_exit(LIMIT).await;
        assert_eq!(ended.signal(), Some(9), "`{point}`: {}", dying.stderr());

        let _next = notify_at(&system, &server, "").await;

        let mails = wait_last(&system, &server).await;
        assert_eq!(sent_to(&mails, "ann@acme.example"), sent, "`{point}`");
        let letters = dead_letters(&system, unsure).await;
        let reasons: Vec<_> = letters.iter().filter_map(|letter| letter.header("reason")).collect();
        assert_eq!(reasons, vec!["mail_unsure"; unsure], "`{point}`");
    }
}

/// Starts a mailer that may die before it is ready.
fn notify_dying(system: &System, server: &MailServer, point: &str) -> Process {
    system
        .launch("notify")
        .env("BUNDLEHOOK_SMTP_URL", server.url())
        .env("BUNDLEHOOK_MAIL_FROM", "Bundlehook <hooks@product.example>")
        .env(PROPERTIES, SESSION)
        .env(FAILPOINT, point)
        .start()
}

#[tokio::test]
async fn wherever_a_mailer_stands_still_while_another_takes_over_an_email_is_sent_at_most_once() {
    for (point, unsure) in
        [("notify.offered:1:stop", 0), ("notify.noted:1:stop", 1), ("notify.handed-over:1:stop", 1)]
    {
        let Some((system, server)) = begin().await else { return };
        publish(&system, &notification(1, "ann@acme.example")).await;
        let standing = notify_dying(&system, &server, point);
        wait_until(&format!("`{point}`"), LIMIT, async || standing.is_stopped()).await;

        let other = notify_at(&system, &server, "").await;
        wait_last(&system, &server).await;
        standing.sigcont();

        // It learns that the partition is not its own any more, and ends like any other.
        publish(&system, &notification(2, "later@acme.example")).await;
        wait_until("a later e-mail", LIMIT, async || sent_to(&server.mails(), "later@acme.example") == 1)
            .await;
        standing.sigterm();
        assert!(standing.wait_exit(LIMIT).await.success(), "{}", standing.stderr());
        drop(other);
        assert_eq!(sent_to(&server.mails(), "ann@acme.example"), 1, "`{point}`");
        let letters = dead_letters(&system, unsure).await;
        assert_eq!(letters.len(), unsure, "`{point}`");
    }
}

//! What strangers' URLs may lead to. Each row of the tables goes through the built program: settings, a message, an
//! attempt. Listeners where the rows lead see to it that nothing connects.

mod names;
mod urls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use self::names::{NAMES, decide};
use self::urls::{SETTINGS, URLS};
use crate::support::{Record, System, dns, event, ok, receiver, system, webhook};

/// A listener that nobody may connect to.
struct Trap {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

async fn trap(addr: &str) -> Trap {
    let listener = TcpListener::bind(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
    let addr = listener.local_addr().expect("a bound socket has an address");
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    Trap { addr, connections }
}

impl Trap {
    fn assert_untouched(&self) {
        assert_eq!(self.connections.load(Ordering::Relaxed), 0, "something connected to {}", self.addr);
    }
}

/// The first attempt of each webhook, by its id, once so many have one.
async fn attempts(system: &System, count: usize) -> HashMap<String, Value> {
    let first = |records: &[Record]| {
        let mut attempts = HashMap::new();
        for attempt in records.iter().map(Record::json) {
            let id = attempt["webhook_id"].as_str().expect("an id is text").to_owned();
            attempts.entry(id).or_insert(attempt);
        }
        attempts
    };
    first(&system.wait_records("delivery-attempts", |records| first(records).len() >= count).await)
}

/// Compares what became of each row with what should have, and names the row's reason.
fn assert_outcomes<'a>(
    attempts: &HashMap<String, Value>,
    rows: impl Iterator<Item = (String, &'a str, &'a str, &'a str)>,
) {
    let wrong: Vec<_> = rows
        .filter_map(|(id, what, expected, why)| {
            let outcome = attempts
                .get(&id)
                .map_or("no attempt", |attempt| attempt["outcome"].as_str().expect("an outcome is text"));
            (outcome != expected).then(|| format!("{what}: {outcome}, expected {expected}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[tokio::test]
async fn no_url_leads_inside() {
    assert!(URLS.len() + SETTINGS.len() >= 150, "the table is to have 150 rows");
    let (v4, v6) = (trap("0.0.0.0:0").await, trap("[::]:0").await);
    let taking = receiver(ok());
    let url = |text: &str| {
        text.replace("{v4}", &v4.addr.port().to_string()).replace("{v6}", &v6.addr.port().to_string())
    };
    let rows = |prefix: &'static str, urls: &'static [(&str, &str)]| {
        urls.iter().enumerate().map(move |(n, (url, why))| (format!("{prefix}-{n}"), *url, *why))
    };
    let mut webhooks: Vec<_> = rows("url", URLS)
        .chain(rows("settings", SETTINGS))
        .map(|(id, text, _)| webhook(&id, "ws", &url(text), json!({})))
        .collect();
    webhooks.push(webhook("open", "ws", &taking.url("/"), json!({})));
    let setup = system(3_000)
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", &taking.addr().to_string())
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "1h");
    let Some(system) = setup.start(&webhooks).await else { return };

    system.publish(&[event("ws", "c", "1")]).await;

    let attempts = attempts(&system, URLS.len() + 1).await;
    assert_outcomes(&attempts, rows("url", URLS).map(|(id, url, why)| (id, url, "forbidden_address", why)));
    assert_eq!(attempts["open"]["outcome"], "delivered", "what is opened explicitly is dialled");
    for (id, url, why) in rows("settings", SETTINGS) {
        assert!(!attempts.contains_key(&id), "{url:?} was tried, though {why}");
    }
    let dead = system.wait_records("dead-letters", |records| records.len() >= SETTINGS.len()).await;
    let invalid = |letter: &Record| letter.header("reason") == Some("invalid_settings");
    assert!(dead.len() == SETTINGS.len() && dead.iter().all(invalid), "{} dead letters", dead.len());
    for shown in attempts.values().filter_map(|attempt| attempt["error"].as_str()) {
        assert!(shown.contains("is not a public address"), "{shown}");
    }
    v4.assert_untouched();
    v6.assert_untouched();
    assert_eq!(taking.requests().len(), 1);
}

/// The system connects to 127.0.0.1 where a program says 0.0.0.0: another address than the one that was vetted, which
/// only a look at the peer shows.
#[tokio::test]
async fn a_peer_that_is_not_the_vetted_address_gets_nothing() {
    let inside = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let port = inside.local_addr().expect("a bound socket has an address").port();
    let url = format!("http://0.0.0.0:{port}/");
    let setup =
        system(3_000).env("BUNDLEHOOK_ALLOW_ADDRESSES", "0.0.0.0/32").env("BUNDLEHOOK_RETRY_SCHEDULE", "1h");
    let Some(system) = setup.start(&[webhook("wh", "ws", &url, json!({}))]).await else { return };

    system.publish(&[event("ws", "c", "1")]).await;

    let attempts = attempts(&system, 1).await;
    assert_eq!(attempts["wh"]["outcome"], "forbidden_address");
    let (mut reached, _) = inside.accept().await.expect("a listener accepts");
    let mut got = Vec::new();
    reached.read_to_end(&mut got).await.expect("the other side closes");
    assert!(got.is_empty(), "it got {got:?}");
}

#[tokio::test]
async fn no_answer_of_a_resolver_leads_inside() {
    assert!(NAMES.len() >= 15, "the table is to have 15 rows");
    let taking = receiver(ok());
    let port = taking.addr().port();
    let inside = trap(&format!("127.0.0.2:{port}")).await;
    let v6 = trap(&format!("[::1]:{port}")).await;
    let resolver = dns::resolver(decide);
    let mut webhooks: Vec<_> = NAMES
        .iter()
        .map(|row| {
            webhook(row.name, "ws", &format!("http://{}.cases.dev:{port}/{}", row.name, row.name), json!({}))
        })
        .collect();
    webhooks.push(webhook("unlucky", "ws-2", &format!("http://later.cases.dev:{port}/unlucky"), json!({})));
    let setup = system(3_000)
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", &taking.addr().to_string())
        .env("BUNDLEHOOK_DNS_SERVERS", &resolver.addr().to_string())
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "4s")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "500ms,500ms,1h");
    let Some(system) = setup.start(&webhooks).await else { return };

    system.publish(&[event("ws", "c", "1")]).await;

    let first = attempts(&system, NAMES.len()).await;
    assert_outcomes(&first, NAMES.iter().map(|row| (row.name.to_owned(), row.name, row.outcome, row.why)));
    let of_flip = |records: &[Record]| {
        records.iter().filter(|record| record.json()["webhook_id"] == "flip").count() >= 2
    };
    let flips = system.wait_records("delivery-attempts", of_flip).await;
    let flips: Vec<_> = flips.iter().map(Record::json).filter(|a| a["webhook_id"] == "flip").collect();
    assert_eq!(
        (&flips[0]["outcome"], &flips[1]["outcome"]),
        (&json!("forbidden_address"), &json!("delivered"))
    );
    for shown in first.values().filter_map(|attempt| attempt["error"].as_str()) {
        let inside = ["127.0.0.", "10.1.2.3", "169.254.", "::", "db.internal", "localhost"];
        assert!(!inside.iter().any(|inside| shown.contains(inside)), "{shown}");
    }
    assert!(first.values().all(|attempt| attempt["counted"] == (attempt["outcome"] != "delivered")));
    let absolute = |question: &dns::Question| {
        let aliases = ["db.internal", "localhost"];
        question.name.ends_with(".cases.dev") || aliases.contains(&&*question.name)
    };
    assert!(resolver.asked().iter().all(absolute), "no search domain is tried");

    // The resolver itself fails: nobody else's failure, and it heals by itself.
    resolver.die();
    system.publish(&[event("ws-2", "c", "1")]).await;
    let is_unlucky = |record: &Record| record.json()["webhook_id"] == "unlucky";
    let records = system.wait_records("delivery-attempts", |records| records.iter().any(is_unlucky)).await;
    let failed = records.iter().find(|record| is_unlucky(record)).expect("it was just seen").json();
    let shown = ["outcome", "counted", "failures", "error"].map(|field| failed[field].clone());
    let text = "could not be sent for a reason on our side; this does not count";
    assert_eq!(shown, [json!("dns"), json!(false), json!(0), json!(text)]);
    resolver.revive(decide);
    taking.wait_for(|seen| seen.iter().any(|request| request.path == "/unlucky"), "it to heal").await;

    let delivered: Vec<_> =
        NAMES.iter().filter(|row| row.outcome == "delivered").map(|row| row.name).collect();
    for request in taking.requests() {
        let name = request.path.trim_start_matches('/');
        assert!(delivered.contains(&name) || ["flip", "unlucky"].contains(&name), "{name} was sent");
    }
    inside.assert_untouched();
    v6.assert_untouched();
}

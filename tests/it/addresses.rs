//! What strangers' URLs may lead to. Each row of the tables goes through the built program: settings, a message, an
//! attempt. Listeners where the rows lead see to it that nothing connects.

mod names;
mod urls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::op::ResponseCode;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

use self::names::{FAILURES, NAMES, Row, decide};
use self::urls::{SETTINGS, URLS};
use crate::support::{Answer, Record, Request, System, answer, dns, event, ok, receiver, system, webhook};

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
    // After a failure the connection is closed, so that the name is resolved anew.
    let taking = receiver(answer(|request| match &*request.path {
        "/rebind" | "/rebind6" => Answer::status(500).header("connection", "close"),
        _ => Answer::status(200),
    }));
    let port = taking.addr().port();
    let inside = trap(&format!("127.0.0.2:{port}")).await;
    let v6 = trap(&format!("[::1]:{port}")).await;
    let resolver = dns::resolver(decide);
    let of_row =
        |row: &Row| webhook(row.name, "ws", &format!("http://{0}.cases.dev:{port}/{0}", row.name), json!({}));
    let webhooks: Vec<_> = NAMES.iter().map(of_row).collect();
    let setup = system(3_000)
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", &taking.addr().to_string())
        .env("BUNDLEHOOK_DNS_SERVERS", &resolver.addr().to_string())
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "16s")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "500ms,500ms,1h");
    let Some(system) = setup.start(&webhooks).await else { return };

    system.publish(&[event("ws", "c", "1")]).await;

    let first = attempts(&system, NAMES.len()).await;
    assert_outcomes(&first, NAMES.iter().map(|row| (row.name.to_owned(), row.name, row.outcome, row.why)));
    for Row { name, outcome, ours, why } in NAMES {
        let counted = *outcome != "delivered" && !ours;
        assert_eq!(first[*name]["counted"], counted, "{name}: {why}");
    }
    for (name, then) in
        [("flip", "delivered"), ("rebind", "forbidden_address"), ("rebind6", "forbidden_address")]
    {
        assert_eq!(second_attempt(&system, name).await["outcome"], then, "{name}");
    }
    for shown in first.values().filter_map(|attempt| attempt["error"].as_str()) {
        let inside = ["127.0.0.", "10.1.2.3", "169.254.", "::", "db.internal", "localhost"];
        assert!(!inside.iter().any(|inside| shown.contains(inside)), "{shown}");
    }
    let absolute = |question: &dns::Question| {
        let aliases = ["db.internal", "localhost"];
        let is_control =
            question.name.starts_with("bundlehook-check-") && question.name.split('.').count() == 2;
        question.name.ends_with(".cases.dev") || aliases.contains(&&*question.name) || is_control
    };
    assert!(resolver.asked().iter().all(absolute), "no search domain is tried: {:?}", resolver.asked());

    let mut sent: Vec<_> =
        taking.requests().iter().map(|request| request.path.trim_start_matches('/').to_owned()).collect();
    sent.sort_unstable();
    let delivered = NAMES.iter().filter(|row| row.outcome == "delivered").map(|row| row.name);
    let mut expected: Vec<_> = delivered.chain(["flip", "rebind", "rebind6"]).collect();
    expected.sort_unstable();
    assert_eq!(sent, expected, "each once, and nothing else");
    inside.assert_untouched();
    v6.assert_untouched();
}

/// The second attempt of a webhook, once there is one.
async fn second_attempt(system: &System, webhook: &str) -> Value {
    let of_webhook = |records: &[Record]| -> Vec<Value> {
        records.iter().map(Record::json).filter(|attempt| attempt["webhook_id"] == webhook).collect()
    };
    let records = system.wait_records("delivery-attempts", |records| of_webhook(records).len() > 1).await;
    of_webhook(&records).swap_remove(1)
}

/// However they fail: nothing is counted, nobody is warned or disabled, and all is sent once one of them works.
#[tokio::test]
async fn resolvers_of_ours_that_fail_are_nobody_elses_failure() {
    let taking = receiver(ok());
    let port = taking.addr().port();
    let works = |_: &dns::Question| dns::addresses(&["127.0.0.1"]);
    let (first, second) = (dns::resolver(works), dns::resolver(works));
    let of_failure = |(name, _): &(&str, dns::Reply)| {
        webhook(name, &format!("ws-{name}"), &format!("http://{name}.cases.dev:{port}/{name}"), json!({}))
    };
    let mut webhooks: Vec<_> = FAILURES.iter().map(of_failure).collect();
    for name in ["zone", "late"] {
        let url = format!("http://{name}.cases.dev:{port}/{name}");
        webhooks.push(webhook(name, &format!("ws-{name}"), &url, json!({})));
    }
    let setup = system(3_000)
        .env("BUNDLEHOOK_ALLOW_ADDRESSES", &taking.addr().to_string())
        .env("BUNDLEHOOK_DNS_SERVERS", &format!("{},{}", first.addr(), second.addr()))
        .env("BUNDLEHOOK_REQUEST_TIMEOUT", "2s")
        .env("BUNDLEHOOK_RETRY_SCHEDULE", "100ms");
    let Some(system) = setup.start(&webhooks).await else { return };

    for (name, reply) in FAILURES {
        let fails = move |_: &dns::Question| reply.clone();
        first.set(fails);
        second.set(fails);
        system.publish(&[event(&format!("ws-{name}"), "c", "1")]).await;
        let attempt = first_attempt(&system, name).await;
        let shown = ["outcome", "counted", "failures", "error"].map(|field| attempt[field].clone());
        let text = "could not be sent for a reason on our side; this does not count";
        assert_eq!(shown, [json!("dns"), json!(false), json!(0), json!(text)], "{name}");
    }
    // More often than a webhook may fail.
    let (name, _) = FAILURES[0];
    let often =
        |records: &[Record]| records.iter().filter(|record| record.json()["webhook_id"] == name).count() > 12;
    let records = system.wait_records("delivery-attempts", often).await;
    assert!(records.iter().all(|record| record.json()["counted"] == false));
    assert!(system.deliver.sum("bundlehook_attempts_unsent_total{outcome=\"dns\"}").await >= 12.0);
    assert_eq!(system.webhook_json(&["show", name]).await["failures"], 0);
    for topic in ["webhook-events", "notifications"] {
        assert!(system.records(topic).await.is_empty(), "nobody is told in `{topic}`");
    }
    assert!(taking.requests().is_empty());

    // One that works is enough, even if another is quicker to fail, and what it says of a zone counts: that one is at fault.
    first.set(|_| dns::Reply::Code(ResponseCode::Refused));
    second.set(move |question| match question.name.split('.').next() {
        Some("zone") => dns::Reply::Code(ResponseCode::ServFail),
        Some("late") => dns::Reply::Truncated(dns::parse(&["127.0.0.1"])),
        Some(name) if name.starts_with("bundlehook-check-") => dns::Reply::Code(ResponseCode::NXDomain),
        _ => works(question),
    });
    system.publish(&[event("ws-late", "c", "1"), event("ws-zone", "c", "1")]).await;
    assert_eq!(first_attempt(&system, "late").await["outcome"], "delivered");
    let attempt = first_attempt(&system, "zone").await;
    assert_eq!((&attempt["outcome"], &attempt["counted"]), (&json!("dns"), &json!(true)));
    let all = |seen: &[Request]| seen.len() > FAILURES.len();
    taking.wait_for(all, "all to be sent by what the other resolver says").await;
}

/// The first attempt of a webhook, once there is one.
async fn first_attempt(system: &System, webhook: &str) -> Value {
    let of_webhook = |record: &&Record| record.json()["webhook_id"] == webhook;
    let has_one = |records: &[Record]| records.iter().any(|record| of_webhook(&record));
    let records = system.wait_records("delivery-attempts", has_one).await;
    records.iter().find(of_webhook).expect("it was just seen").json()
}

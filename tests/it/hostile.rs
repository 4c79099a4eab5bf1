//! Endpoints that misbehave. Each attempt ends by the deadline, is classified and recorded, and costs nobody else
//! anything.

mod behaviours;
mod certificates;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};

use self::behaviours::{BEHAVIOURS, Behaviour};
use self::certificates::TLS;
use crate::support::{
    Authority, Hostile, LIMIT, Record, Setup, Step, System, dns, egress, event, hostile, message_ids, ok,
    receiver, system, wait_until, webhook,
};

/// The attempts of each webhook, once so many webhooks have one.
async fn attempts(system: &System, webhooks: usize) -> HashMap<String, Vec<Value>> {
    let by_webhook = |records: &[Record]| {
        let mut attempts: HashMap<String, Vec<Value>> = HashMap::new();
        for attempt in records.iter().map(Record::json) {
            let id = attempt["webhook_id"].as_str().expect("an id is text").to_owned();
            attempts.entry(id).or_default().push(attempt);
        }
        attempts
    };
    let enough = |records: &[Record]| by_webhook(records).len() >= webhooks;
    by_webhook(&system.wait_records("delivery-attempts", enough).await)
}

fn setup() -> Setup {
    system(3_000).env("BUNDLEHOOK_REQUEST_TIMEOUT", "3s").env("BUNDLEHOOK_RETRY_SCHEDULE", "1h")
}

#[tokio::test]
async fn hostile_endpoints_are_classified_and_cost_nobody_else_anything() {
    assert!(BEHAVIOURS.len() >= 30, "the table is to have 30 rows");
    let endpoints: Vec<_> = BEHAVIOURS.iter().map(|row| hostile((row.steps)(), None)).collect();
    let taking = receiver(ok());
    let url = |n: usize| format!("http://{}/", endpoints[n].addr());
    let named = BEHAVIOURS.iter().enumerate();
    let mut webhooks: Vec<_> =
        named.map(|(n, row)| webhook(row.name, "ws", &url(n), json!({"success": "2xx"}))).collect();
    webhooks.push(webhook("good", "ws-good", &taking.url("/"), json!({})));
    let Some(system) = setup().start(&webhooks).await else { return };

    // All at once, and while they are at it one message after the other for somebody else.
    system.publish(&[event("ws", "c", "1")]).await;
    for n in 0..20 {
        system.publish(&[event("ws-good", "c", &n.to_string())]).await;
        taking.wait_for(|seen| seen.len() > n, "the good one to get its message").await;
    }
    let good: Vec<_> = taking.requests().iter().flat_map(message_ids).collect();
    assert_eq!(good, (0..20).map(|n| n.to_string()).collect::<Vec<_>>(), "each once, in order");

    let attempts = attempts(&system, BEHAVIOURS.len() + 1).await;
    let mut wrong = Vec::new();
    for Behaviour { name, outcome, status, why, .. } in BEHAVIOURS {
        let attempt = &attempts[*name][0];
        let got = (attempt["outcome"].as_str().unwrap_or_default(), attempt["response"]["status"].as_u64());
        if !outcome.split('|').any(|outcome| got == (outcome, *status)) {
            wrong.push(format!("{name}: {got:?}, expected {outcome} {status:?}: {why}"));
        }
        if attempt["response"]["body_bytes"].as_u64().is_some_and(|bytes| bytes > 64 * 1024) {
            wrong.push(format!("{name}: too much was kept"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    let kept = &attempts["endless-body"][0]["response"];
    assert_eq!((&kept["body_bytes"], &kept["truncated"]), (&json!(64 * 1024), &json!(true)));
    assert_eq!(kept["body"], "x".repeat(64 * 1024));
    let packed = &attempts["bomb"][0]["response"];
    assert_eq!(packed["body"], format!("\u{1f}{}", "a".repeat(9)), "as it came");
    assert_nothing_goes_on(&endpoints).await;
}

/// Most rows never end by themselves: that each has its record shows that the deadline or a limit ended it. What is left
/// to show is that nothing goes on behind the record: no connection is open, but to who does not look whether it is.
async fn assert_nothing_goes_on(endpoints: &[Hostile]) {
    let looking = BEHAVIOURS
        .iter()
        .zip(endpoints)
        .filter(|(row, _)| !(row.steps)().iter().any(|step| matches!(step, Step::Sleep)));
    for (row, endpoint) in looking {
        let what = format!("the connections to `{}` to be closed", row.name);
        wait_until(&what, LIMIT, async || endpoint.open() == 0).await;
    }
}

#[tokio::test]
async fn a_response_that_nobody_asked_for_is_no_answer_to_the_next_request() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n";
    let endpoint = hostile(vec![Step::Read, Step::Send(answer.to_vec()), Step::Again], None);
    let url = format!("http://{}/", endpoint.addr());
    let Some(system) = setup().start(&[webhook("wh", "ws", &url, json!({}))]).await else { return };

    for n in 0..3 {
        system.publish(&[event("ws", "c", &n.to_string())]).await;
        system.wait_records("delivery-attempts", |records| records.len() > n).await;
    }

    let attempts = &attempts(&system, 1).await["wh"];
    assert!(attempts.iter().all(|attempt| attempt["outcome"] == "delivered"), "{attempts:?}");
    assert_eq!(endpoint.connections(), 3, "none is used again");
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let endpoint = hostile(vec![Step::Read, Step::Send(answer.to_vec()), Step::Again], None);
    let url = format!("http://{}/", endpoint.addr());
    let Some(system) = setup().start(&[webhook("wh", "ws", &url, json!({}))]).await else { return };

    for n in 0..5 {
        system.publish(&[event("ws", "c", &n.to_string())]).await;
        system.wait_records("delivery-attempts", |records| records.len() > n).await;
    }

    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn tls_is_checked_and_failures_are_classified() {
    let endpoints = TlsEndpoints::new();
    let Some(attempts) = endpoints.attempts(endpoints.setup()).await else { return };
    assert_classified(&attempts);
}

/// The tunnel changes nothing: the session is with the endpoint, and its certificate must be one for the name, though the
/// proxy is only told the address that was vetted.
#[tokio::test]
async fn tls_is_checked_likewise_through_an_egress_proxy() {
    let (endpoints, proxy) = (TlsEndpoints::new(), egress());
    let setup = endpoints.setup().env("BUNDLEHOOK_EGRESS_PROXY", &format!("http://{}", proxy.addr()));
    let Some(attempts) = endpoints.attempts(setup).await else { return };
    assert_classified(&attempts);
    let (mut asked, vetted) = (proxy.asked(), endpoints.endpoints.iter().map(Hostile::addr));
    let mut vetted: Vec<_> = vetted.map(|addr| addr.to_string()).collect();
    asked.sort_unstable();
    vetted.sort_unstable();
    assert_eq!(asked, vetted, "each tunnel leads to an address, once");
}

/// An endpoint for each row of the table of TLS.
struct TlsEndpoints {
    authority: Authority,
    endpoints: Vec<Hostile>,
    resolver: dns::Resolver,
}

impl TlsEndpoints {
    fn new() -> Self {
        let authority = Authority::new();
        let endpoints =
            TLS.iter().map(|row| hostile((row.steps)(), (row.server)(&authority, row.name))).collect();
        Self { authority, endpoints, resolver: dns::resolver(|_| dns::addresses(&["127.0.0.1"])) }
    }

    fn setup(&self) -> Setup {
        setup()
            .env("BUNDLEHOOK_CA_BUNDLE", &self.authority.bundle().to_string_lossy())
            .env("BUNDLEHOOK_DNS_SERVERS", &self.resolver.addr().to_string())
    }

    fn webhooks(&self) -> Vec<Value> {
        let of_row = |(row, endpoint): (&certificates::Row, &Hostile)| {
            let url = format!("https://{}.cases.dev:{}/", row.name, endpoint.addr().port());
            webhook(row.name, "ws", &url, json!({}))
        };
        TLS.iter().zip(&self.endpoints).map(of_row).collect()
    }

    /// The attempts of each webhook after one message, each of them failed or done.
    async fn attempts(&self, setup: Setup) -> Option<HashMap<String, Vec<Value>>> {
        let system = setup.start(&self.webhooks()).await?;
        system.publish(&[event("ws", "c", "1")]).await;
        Some(attempts(&system, TLS.len()).await)
    }
}

/// Each failure is the endpoint's own.
fn assert_classified(attempts: &HashMap<String, Vec<Value>>) {
    let mut wrong = Vec::new();
    for row in TLS {
        let attempt = &attempts[row.name][0];
        let got = (attempt["outcome"].as_str().unwrap_or_default(), attempt["counted"].as_bool());
        if got != (row.outcome, Some(row.outcome != "delivered")) {
            wrong.push(format!("{}: {got:?}, expected {}", row.name, row.outcome));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[tokio::test]
async fn what_an_egress_proxy_fails_at_is_ours_and_what_it_says_of_the_endpoint_is_not() {
    let taking = receiver(ok());
    let to = taking.addr();
    let established = b"HTTP/1.1 200 Connection established\r\n\r\n".to_vec();
    let tunnel = hostile(
        vec![
            Step::Head,
            Step::Send(established.clone()),
            Step::Read,
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ],
        None,
    );
    let answers = |status: &str| {
        vec![Step::Head, Step::Send(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes())]
    };
    let (refusing, gateway) = (hostile(answers("407 No"), None), hostile(answers("502 Gone"), None));
    let plain = hostile(
        vec![
            Step::Head,
            Step::Send(established),
            Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            Step::Hang,
        ],
        None,
    );
    let (closing, unheard) = (hostile(vec![Step::Head], None), Unheard::new());
    let (http, https) = (format!("http://{to}/"), format!("https://{to}/"));
    for (proxy, url, outcome, counted, delivered) in [
        (tunnel.addr(), &http, "delivered", false, true),
        (refusing.addr(), &http, "connect", false, false),
        (refusing.addr(), &https, "connect", false, false),
        (closing.addr(), &https, "connect", false, false),
        (unheard.addr, &https, "connect", false, false),
        (gateway.addr(), &http, "connect", true, false),
        (gateway.addr(), &https, "connect", true, false),
        // A tunnel that stands is the endpoint's own affair.
        (plain.addr(), &https, "tls", true, false),
    ] {
        let setup = setup().env("BUNDLEHOOK_EGRESS_PROXY", &format!("http://me:pw@{proxy}"));
        let Some(system) = setup.start(&[webhook("wh", "ws", url, json!({}))]).await else { return };
        system.publish(&[event("ws", "c", "1")]).await;
        let attempt = attempts(&system, 1).await["wh"][0].clone();
        assert_eq!((&attempt["outcome"], &attempt["counted"]), (&json!(outcome), &json!(counted)), "{url}");
        assert_eq!(attempt["response"].is_object(), delivered);
    }
    assert_eq!(taking.requests().len(), 0, "nothing goes past the proxy");
}

/// A server whose queue of connections is full: whoever connects hears nothing.
struct Unheard {
    addr: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<std::net::TcpStream>,
}

impl Unheard {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        let listener = socket.listen(1).expect("a bound socket can listen");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let connect = || std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(500)).ok();
        Self { addr, _listener: listener, _waiting: std::iter::from_fn(connect).collect() }
    }
}

//! An authority and certificates that are made as the test runs, and how endpoints misbehave with TLS.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio_rustls::rustls::ServerConfig;

use crate::support::authority::tls_server;
use crate::support::{Authority, Step};

/// A server with a certificate for a name, changed as told.
fn server(
    authority: &Authority,
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> Arc<ServerConfig> {
    let mut params = CertificateParams::new(vec![format!("{name}.cases.dev")]).expect("it is a name");
    change(&mut params);
    let (certificate, key) = authority.sign(&params);
    tls_server(&certificate, &key)
}

/// A server that sends far more tickets after the handshake than a response may cost.
fn tickets(authority: &Authority, name: &str) -> Arc<ServerConfig> {
    let mut config = Arc::unwrap_or_clone(server(authority, name, |_| ()));
    config.send_tls13_tickets = 20_000;
    Arc::new(config)
}

/// A TLS record with a piece of the handshake.
fn handshake(piece: &[u8]) -> Vec<u8> {
    [&[22, 3, 3], &(piece.len() as u16).to_be_bytes()[..], piece].concat()
}

type Server = fn(&Authority, &str) -> Option<Arc<ServerConfig>>;

pub struct Row {
    pub name: &'static str,
    pub outcome: &'static str,
    pub server: Server,
    pub steps: fn() -> Vec<Step>,
}

fn answers() -> Vec<Step> {
    vec![Step::Read, Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())]
}

const fn row(name: &'static str, outcome: &'static str, server: Server, steps: fn() -> Vec<Step>) -> Row {
    Row { name, outcome, server, steps }
}

const PLAIN: Server = |_, _| None;

pub const TLS: &[Row] = &[
    row("trusted", "delivered", |authority, name| Some(server(authority, name, |_| ())), answers),
    row("wrong-name", "tls", |authority, _| Some(server(authority, "another", |_| ())), answers),
    row(
        "expired",
        "tls",
        |authority, name| {
            Some(server(authority, name, |params| params.not_after = date_time_ymd(2020, 1, 1)))
        },
        answers,
    ),
    row(
        "not-yet-valid",
        "tls",
        |authority, name| {
            Some(server(authority, name, |params| params.not_before = date_time_ymd(2090, 1, 1)))
        },
        answers,
    ),
    row("self-signed", "tls", |_, name| Some(self_signed(name)), answers),
    row("unknown-authority", "tls", |_, name| Some(server(&Authority::new(), name, |_| ())), answers),
    row("stalls", "timeout", PLAIN, || vec![Step::Hang]),
    row("closes", "tls", PLAIN, Vec::new),
    row("plain", "tls", PLAIN, || vec![Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Step::Hang]),
    row("garbage", "tls", PLAIN, || vec![Step::Send(vec![22, 3, 3, 0, 4, 2, 0, 0, 0]), Step::Hang]),
    row(
        "stalls-after-handshake",
        "timeout",
        |authority, name| Some(server(authority, name, |_| ())),
        || vec![Step::Read, Step::Hang],
    ),
    // A message of 64 KiB that comes in records of one byte.
    row("floods-crumbs", "tls", PLAIN, || {
        vec![Step::Send(handshake(&[2, 0, 0xff, 0xff])), Step::Flood(handshake(&[0]).repeat(1_000))]
    }),
    row("floods-certificate", "tls", PLAIN, || {
        vec![Step::Send(handshake(&[11, 0xff, 0xff, 0xff])), Step::Flood(handshake(&[0; 16 * 1024]))]
    }),
    row("floods-empty-records", "tls", PLAIN, || vec![Step::Flood(handshake(&[]).repeat(1_000))]),
    row("floods-cipher-changes", "tls", PLAIN, || vec![Step::Flood([20, 3, 3, 0, 1, 1].repeat(1_000))]),
    row("floods-warnings", "tls", PLAIN, || vec![Step::Flood([21, 3, 3, 0, 2, 1, 90].repeat(1_000))]),
    row(
        "floods-tickets",
        "protocol",
        |authority, name| Some(tickets(authority, name)),
        || vec![Step::Read, Step::Hang],
    ),
    row(
        "continues",
        "protocol",
        |authority, name| Some(server(authority, name, |_| ())),
        || vec![Step::Read, Step::Flood(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(600))],
    ),
];

fn self_signed(name: &str) -> Arc<ServerConfig> {
    let key = KeyPair::generate().expect("a key can be made");
    let params = CertificateParams::new(vec![format!("{name}.cases.dev")]).expect("it is a name");
    let certificate = params.self_signed(&key).expect("a key can sign its own certificate");
    tls_server(&certificate, &key)
}

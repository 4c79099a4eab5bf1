//! How endpoints misbehave without TLS, what comes of it, and why.

use crate::support::Step::{self, Drip, Flood, Hang, Read, Reset, Send};

pub struct Behaviour {
    pub name: &'static str,
    pub outcome: &'static str,
    pub status: Option<u64>,
    pub why: &'static str,
    pub steps: fn() -> Vec<Step>,
}

/// A row; its steps come after the reading of the request.
macro_rules! row {
    ($name:literal, $outcome:literal, $status:expr, $why:literal, [$($step:expr),* $(,)?]) => {
        Behaviour { name: $name, outcome: $outcome, status: $status, why: $why, steps: || vec![Read, $($step),*] }
    };
}

fn send(text: impl AsRef<[u8]>) -> Step {
    Send(text.as_ref().to_vec())
}

fn flood(text: impl AsRef<[u8]>) -> Step {
    Flood(text.as_ref().to_vec())
}

fn drip(text: &str) -> Step {
    Drip(text.as_bytes().to_vec())
}

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

pub const BEHAVIOURS: &[Behaviour] = &[
    row!(
        "well",
        "delivered",
        Some(200),
        "nothing is wrong",
        [send(format!("{OK}content-length: 0\r\n\r\n"))]
    ),
    Behaviour {
        name: "deaf",
        outcome: "timeout",
        status: None,
        why: "it takes the connection and never reads",
        steps: || vec![Step::Sleep],
    },
    Behaviour {
        name: "closes-at-once",
        outcome: "protocol",
        status: None,
        why: "it closes before it reads",
        steps: Vec::new,
    },
    Behaviour {
        name: "resets-at-once",
        outcome: "connect|protocol",
        status: None,
        why: "it resets before it reads, so before or after the connection counts as made",
        steps: || vec![Reset],
    },
    row!("hangs", "timeout", None, "no answer comes", [Hang]),
    row!("closes", "protocol", None, "it closes instead of answering", []),
    row!("resets", "protocol", None, "it resets instead of answering", [Reset]),
    row!("garbage", "protocol", None, "the answer is no HTTP", [send("\u{1}\u{2}\u{3}garbage\r\n\r\n")]),
    row!(
        "ssh",
        "protocol",
        None,
        "the answer is of another protocol",
        [send("SSH-2.0-OpenSSH_9.2\r\n"), Hang]
    ),
    row!("http-0.9", "protocol", None, "there is no head", [send("<html>hello</html>")]),
    row!(
        "http-2",
        "protocol",
        None,
        "nobody asked for HTTP/2",
        [send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Hang]
    ),
    row!("half-a-head", "protocol", None, "the head is not complete", [send(OK), send("content-le")]),
    row!("head-that-stops", "timeout", None, "the head is not complete in time", [send(OK), Hang]),
    row!(
        "head-that-drips",
        "timeout",
        None,
        "the head is not complete in time",
        [send(OK), drip("x: y\r\n")]
    ),
    row!(
        "endless-headers",
        "too_large",
        None,
        "the head ends nowhere",
        [
            send(OK),
            flood(
                "x-filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"
            )
        ]
    ),
    row!(
        "endless-header",
        "too_large",
        None,
        "a header ends nowhere",
        [send(OK), send("x: "), flood("aaaaaaaaaaaaaaaa")]
    ),
    row!(
        "endless-reason",
        "too_large",
        None,
        "the first line ends nowhere",
        [send("HTTP/1.1 200 "), flood("OK ")]
    ),
    row!(
        "large-head",
        "too_large",
        None,
        "the head has more than 8 KiB",
        [send(format!("{OK}x: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(9 * 1024))), Hang]
    ),
    row!(
        "head-that-just-fits",
        "delivered",
        Some(200),
        "the head has 8,100 bytes",
        [send(format!("{OK}x: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(8_100 - 43)))]
    ),
    row!(
        "many-headers",
        "too_large",
        None,
        "the head has more than 100 headers",
        [send(format!("{OK}{}\r\n", "a: b\r\n".repeat(300))), Hang]
    ),
    row!("continues", "protocol", None, "100 Continue without end", [flood("HTTP/1.1 100 Continue\r\n\r\n")]),
    row!(
        "hints",
        "protocol",
        None,
        "103 Early Hints without end",
        [flood("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")]
    ),
    row!(
        "continues-once",
        "delivered",
        Some(200),
        "one 100 Continue is allowed",
        [send("HTTP/1.1 100 Continue\r\n\r\n"), send(format!("{OK}content-length: 0\r\n\r\n"))]
    ),
    row!(
        "continues-slowly",
        "timeout",
        None,
        "no final answer in time",
        [drip("HTTP/1.1 100 Continue\r\n\r\n")]
    ),
    row!(
        "switches",
        "protocol",
        None,
        "nobody asked for another protocol",
        [send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"), Hang]
    ),
    row!(
        "body-until-never",
        "delivered",
        Some(200),
        "the head decides",
        [send(format!("{OK}\r\nhello")), Hang]
    ),
    row!(
        "body-too-short",
        "delivered",
        Some(200),
        "the head decides",
        [send(format!("{OK}content-length: 100\r\n\r\nhello"))]
    ),
    row!(
        "body-that-drips",
        "delivered",
        Some(200),
        "the head decides",
        [send(format!("{OK}content-length: 100000\r\n\r\n")), drip("x")]
    ),
    row!(
        "endless-body",
        "delivered",
        Some(200),
        "the head decides; 64 KiB are kept",
        [send(format!("{OK}\r\n")), Flood(vec![b'x'; 16 * 1024])]
    ),
    row!(
        "endless-extension",
        "delivered",
        Some(200),
        "the head decides",
        [send(CHUNKED), send("5;x="), Flood(vec![b'x'; 16 * 1024])]
    ),
    row!("small-chunks", "delivered", Some(200), "the head decides", [send(CHUNKED), flood("1\r\nx\r\n")]),
    row!(
        "endless-trailers",
        "delivered",
        Some(200),
        "the head decides",
        [send(CHUNKED), send("0\r\n"), flood("x: y\r\n")]
    ),
    row!("bad-chunk", "delivered", Some(200), "the head decides", [send(CHUNKED), send("zz\r\n")]),
    row!(
        "length-and-chunks",
        "delivered",
        Some(200),
        "the head decides; the body is not read",
        [
            send(
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 500 No\r\n\r\n"
            ),
            Hang
        ]
    ),
    row!(
        "two-lengths",
        "protocol",
        None,
        "the head contradicts itself",
        [send(format!("{OK}content-length: 5\r\ncontent-length: 6\r\n\r\nhello")), Hang]
    ),
    row!(
        "negative-length",
        "protocol",
        None,
        "there is no such length",
        [send(format!("{OK}content-length: -5\r\n\r\n")), Hang]
    ),
    row!(
        "huge-length",
        "protocol",
        None,
        "there is no such length",
        [send(format!("{OK}content-length: 99999999999999999999999\r\n\r\n")), Hang]
    ),
    row!(
        "bomb",
        "delivered",
        Some(200),
        "nothing is decompressed",
        [send(format!("{OK}content-encoding: gzip\r\ncontent-length: 10\r\n\r\n\u{1f}{}", "a".repeat(9)))]
    ),
    row!(
        "redirect-inside",
        "redirect",
        Some(302),
        "redirects are not followed",
        [send("HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n")]
    ),
    row!(
        "redirect-loop",
        "redirect",
        Some(308),
        "redirects are not followed",
        [send("HTTP/1.1 308 Permanent Redirect\r\nlocation: /\r\ncontent-length: 0\r\n\r\n")]
    ),
    row!(
        "odd-status",
        "status",
        Some(999),
        "a status that nobody knows is no success",
        [send("HTTP/1.1 999 What\r\ncontent-length: 0\r\n\r\n")]
    ),
    row!(
        "no-status",
        "protocol",
        None,
        "there is no such status",
        [send("HTTP/1.1 099 What\r\ncontent-length: 0\r\n\r\n")]
    ),
    row!(
        "nul-in-header",
        "protocol",
        None,
        "a header may not hold it",
        [send(format!("{OK}x: a\u{0}b\r\ncontent-length: 0\r\n\r\n"))]
    ),
    row!(
        "folded-header",
        "protocol",
        None,
        "headers are not folded any more",
        [send(format!("{OK}x: a\r\n b\r\ncontent-length: 0\r\n\r\n"))]
    ),
    row!(
        "endless-error",
        "status",
        Some(500),
        "the head decides",
        [send("HTTP/1.1 500 No\r\n\r\n"), Flood(vec![b'x'; 16 * 1024])]
    ),
    row!(
        "retry-after-for-ever",
        "status",
        Some(503),
        "8 h at most are waited",
        [send("HTTP/1.1 503 No\r\nretry-after: 99999999999999999999\r\ncontent-length: 0\r\n\r\n")]
    ),
];

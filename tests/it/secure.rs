//! Connections that are encrypted, and servers that ask who we are.

mod kafka;
mod redis;
mod reload;

use serde_json::{Value, json};

use crate::support::{Receiver, event, message_ids, webhook};

/// Of every user.
const PASSWORD: &str = "correct-horse";
const MESSAGES: usize = 50;

/// One webhook that gets each message at once, and one that gets bundles.
fn webhooks(endpoint: &Receiver) -> [Value; 2] {
    [
        webhook("once", "ws", &endpoint.url("/once"), json!({})),
        webhook("hour", "ws", &endpoint.url("/hour"), json!({"granularity": "1h"})),
    ]
}

fn events() -> Vec<Value> {
    (0..MESSAGES).map(|n| event("ws", &format!("c{}", n % 5), &format!("{n:02}"))).collect()
}

/// Both webhooks got all of them once.
#[track_caller]
fn assert_all_came(endpoint: &Receiver) {
    for path in ["/once", "/hour"] {
        let requests = endpoint.requests();
        let mut ids: Vec<String> =
            requests.iter().filter(|request| request.path == path).flat_map(message_ids).collect();
        ids.sort();
        let all: Vec<String> = (0..MESSAGES).map(|n| format!("{n:02}")).collect();
        assert_eq!(ids, all, "{path}");
    }
}

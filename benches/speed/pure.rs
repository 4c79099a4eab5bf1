//! What the program's pure steps are given where a benchmark calls them.

use bundlehook::{
    model::{
        bundle::Source,
        history::{Directory, Place},
        time::Millis,
    },
    wire::settings,
};
use serde_json::Value;

/// A directory of webhooks with these settings, in force since 1970.
pub fn directory(webhooks: &[Value]) -> Directory {
    let mut directory = Directory::default();
    for (offset, webhook) in (0..).zip(webhooks) {
        let webhook = settings::decode(webhook.to_string().as_bytes()).expect("the settings are valid");
        let place = Place { at: Millis(0), offset };
        directory.change(place, &webhook.webhook_id.clone(), Some(webhook));
    }
    directory
}

/// A partition of a topic with an id as long as those of Kafka's.
pub fn source() -> Source {
    Source { topic_id: "A".repeat(22), partition: 0 }
}

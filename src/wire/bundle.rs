//! Headers of records of `bundles` (schemas/bundle-headers.json). The value is the body, byte for byte.

use std::{collections::HashMap, str::FromStr};

use uuid::Uuid;

use crate::model::{
    bundle::{BundleHead, Origin, Request, RequestKind, Source},
    ids::{BundleId, ChatId, WebhookId, WorkspaceId},
    position::Position,
    time::{Millis, parse_timestamp},
};

/// Version of the headers.
const VERSION: &str = "1";

/// Headers of a Kafka record: names and texts.
pub type Headers = Vec<(&'static str, String)>;

/// Writes the headers of a bundle.
#[must_use]
pub fn encode(head: &BundleHead) -> Headers {
    let mut headers = vec![
        ("bundlehook-version", VERSION.to_owned()),
        ("bundle-id", head.bundle_id.to_string()),
        ("webhook-id", head.webhook_id.to_string()),
        ("workspace-id", head.workspace_id.to_string()),
        ("chat-id", head.chat_id.to_string()),
        ("granularity", head.granularity.to_string()),
        ("part", head.part.to_string()),
        ("messages", head.messages.to_string()),
        ("arrived-at", head.arrived_at.0.to_string()),
        ("kind", head.kind().to_owned()),
    ];
    match &head.origin {
        Origin::Messages { position, source, source_offset } => headers.extend([
            ("stream", position.stream().to_owned()),
            ("position", position.to_string()),
            ("source-topic-id", source.topic_id.clone()),
            ("source-partition", source.partition.to_string()),
            ("source-offset", source_offset.to_string()),
        ]),
        Origin::Request(request) => {
            headers.extend([("request-id", request.id.to_string()), ("requested-by", request.by.clone())]);
        }
    }
    if let Some(start) = head.window_start {
        headers.push(("window-start", window_start(start)));
    }
    headers
}

/// A window's start as text: RFC 3339 in UTC, with milliseconds only where an hour is so short that it has some.
#[must_use]
pub fn window_start(start: Millis) -> String {
    start.to_utc().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// Headers that are no bundle's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A header is not there.
    #[error("header `{0}` is missing")]
    Missing(&'static str),
    /// A header can't be read.
    #[error("header `{name}` is `{value}`, expected {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Reads the headers of a bundle.
///
/// # Errors
/// [`BundleError`] that names the header.
pub fn decode<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<BundleHead, BundleError> {
    let headers =
        Reader(headers.filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?))).collect());
    let version = headers.text("bundlehook-version")?;
    if version != VERSION {
        return Err(invalid("bundlehook-version", version, "1, the only version that this release knows"));
    }
    let window_start = headers.0.get("window-start").map(|text| {
        parse_timestamp(text).map(Millis::from).map_err(|_| invalid("window-start", text, "an RFC 3339 time"))
    });
    Ok(BundleHead {
        bundle_id: BundleId(headers.parse::<Uuid>("bundle-id", "a UUID")?),
        webhook_id: headers.id("webhook-id", WebhookId::parse)?,
        workspace_id: headers.id("workspace-id", WorkspaceId::parse)?,
        chat_id: headers.id("chat-id", ChatId::parse)?,
        granularity: headers.parse("granularity", "a granularity")?,
        window_start: window_start.transpose()?,
        part: headers.parse("part", "a number")?,
        origin: headers.origin()?,
        messages: headers.parse("messages", "a number")?,
        arrived_at: Millis(headers.parse("arrived-at", "milliseconds")?),
    })
}

struct Reader<'a>(HashMap<&'a str, &'a str>);

impl Reader<'_> {
    fn origin(&self) -> Result<Origin, BundleError> {
        let kind = match self.text("kind")? {
            "bundle" => return self.messages(),
            "test" => RequestKind::Test,
            "resend" => RequestKind::Resend,
            other => return Err(invalid("kind", other, "`bundle`, `test` or `resend`")),
        };
        let (id, by) = (self.parse("request-id", "a UUID")?, self.text("requested-by")?.to_owned());
        Ok(Origin::Request(Request { kind, id, by }))
    }

    fn messages(&self) -> Result<Origin, BundleError> {
        let position = self.text("position")?;
        Ok(Origin::Messages {
            position: Position::parse(self.text("stream")?, position)
                .map_err(|_| invalid("position", position, "a position in its stream"))?,
            source: Source {
                topic_id: self.text("source-topic-id")?.to_owned(),
                partition: self.parse("source-partition", "a number")?,
            },
            source_offset: self.parse("source-offset", "a number")?,
        })
    }

    fn text(&self, name: &'static str) -> Result<&str, BundleError> {
        self.0.get(name).copied().ok_or(BundleError::Missing(name))
    }

    fn parse<T: FromStr>(&self, name: &'static str, expected: &'static str) -> Result<T, BundleError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| invalid(name, text, expected))
    }

    fn id<T, E>(&self, name: &'static str, parse: impl Fn(&str) -> Result<T, E>) -> Result<T, BundleError> {
        let text = self.text(name)?;
        parse(text).map_err(|_| invalid(name, text, "1 to 128 bytes"))
    }
}

fn invalid(name: &'static str, value: &str, expected: &'static str) -> BundleError {
    BundleError::Invalid { name, value: value.to_owned(), expected }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::window::Granularity;

    pub(crate) fn head() -> BundleHead {
        BundleHead {
            bundle_id: BundleId(Uuid::from_u128(9)),
            webhook_id: WebhookId::parse("wh-1").unwrap(),
            workspace_id: WorkspaceId::parse("ws-acme").unwrap(),
            chat_id: ChatId::parse("10010001").unwrap(),
            granularity: Granularity::SixHours,
            window_start: Some(Millis(1_614_182_400_000)),
            part: 2,
            origin: Origin::Messages {
                position: Position::parse("parts", "1614182400000/77/6h/wh-1").unwrap(),
                source: Source { topic_id: "AAAA".to_owned(), partition: 3 },
                source_offset: 41,
            },
            messages: 1000,
            arrived_at: Millis(1_614_182_500_000),
        }
    }

    pub(crate) fn requested(kind: RequestKind) -> BundleHead {
        let request = Request { kind, id: Uuid::from_u128(5), by: "amnon@acme.example".to_owned() };
        BundleHead { origin: Origin::Request(request), ..head() }
    }

    fn read(headers: &Headers) -> Result<BundleHead, BundleError> {
        decode(headers.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    #[test]
    fn headers_read_back() {
        assert_eq!(read(&encode(&head())), Ok(head()));
        let at_once = BundleHead { window_start: None, granularity: Granularity::None, ..head() };
        assert_eq!(read(&encode(&at_once)), Ok(at_once));
        for kind in [RequestKind::Test, RequestKind::Resend] {
            assert_eq!(read(&encode(&requested(kind))), Ok(requested(kind)));
        }
    }

    #[test]
    fn each_request_to_send_a_bundle_again_is_a_delivery_of_its_own() {
        let again = requested(RequestKind::Resend);
        assert_eq!(head().delivery_id(), head().bundle_id);
        assert_ne!(again.delivery_id(), head().delivery_id());
        assert_eq!(again.delivery_id(), again.clone().delivery_id());
    }

    #[test]
    fn a_window_of_a_short_hour_keeps_its_milliseconds() {
        assert_eq!(window_start(Millis(1_614_182_400_250)), "2021-02-24T16:00:00.250Z");
        assert_eq!(window_start(Millis(1_614_182_400_000)), "2021-02-24T16:00:00Z");
    }

    #[test]
    fn a_missing_or_strange_header_is_named() {
        let mut headers = encode(&head());
        headers[0].1 = "2".to_owned();
        assert!(read(&headers).unwrap_err().to_string().contains("`bundlehook-version` is `2`"));
        headers.remove(0);
        assert_eq!(read(&headers), Err(BundleError::Missing("bundlehook-version")));
    }
}

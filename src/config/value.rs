//! Parsers of single values. Their errors say what is expected.

use std::{
    collections::BTreeMap,
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use lettre::message::Mailbox;
use rdkafka::{ClientConfig, error::KafkaError};
use tracing_subscriber::EnvFilter;
use url::Url;
use uuid::Uuid;

use super::inspection::LetterPlace;
use crate::model::{
    address::{AllowedAddress, PortRule},
    ids::{BundleId, IdError, WebhookId, WorkspaceId},
    retry::RetrySchedule,
    time::{Millis, parse_timestamp},
};

/// A span of time such as `10s` or `1h 30m`; not zero.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(span) if !span.is_zero() => Ok(span),
        _ => Err("expected a duration above zero, such as `500ms`, `10s` or `1h`".to_owned()),
    }
}

/// A span of time, or `0` for no limit.
pub fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration such as `10s` or `7d`, or `0`".to_owned())
}

/// The length of an hour: whole milliseconds, so that every window bound is one.
pub fn hour(text: &str) -> Result<Duration, String> {
    let is_whole = |hour: &Duration| hour.subsec_nanos().is_multiple_of(1_000_000);
    let in_range = |hour: &Duration| (Duration::from_millis(100)..=Duration::from_hours(1)).contains(hour);
    let hour = humantime::parse_duration(text).ok().filter(|hour| is_whole(hour) && in_range(hour));
    hour.ok_or_else(|| "expected a duration of whole milliseconds from `100ms` to `1h`".to_owned())
}

/// Pauses, separated by commas.
pub fn retry_schedule(text: &str) -> Result<RetrySchedule, String> {
    let expected = |_| "expected pauses separated by commas, such as `5s,30s,2m`".to_owned();
    let pauses: Result<Vec<_>, _> = text.split(',').map(|pause| duration(pause.trim())).collect();
    RetrySchedule::new(pauses.map_err(expected)?).map_err(|error| error.to_string())
}

/// Properties of librdkafka, `name=value` separated by commas or line ends.
pub fn properties(text: &str) -> Result<BTreeMap<String, String>, String> {
    let property = |pair: &str| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty())?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    let pairs = text.split([',', '\n']).filter(|pair| !pair.trim().is_empty());
    let properties: Option<BTreeMap<_, _>> = pairs.map(property).collect();
    let properties = properties.ok_or_else(|| {
        "expected librdkafka properties like `security.protocol=ssl,ssl.ca.location=/etc/ca.pem`".to_owned()
    })?;
    known_to_librdkafka(&properties)?;
    Ok(properties)
}

/// Asks librdkafka itself. Its texts name a value only where it is none of free text, so never a password.
fn known_to_librdkafka(properties: &BTreeMap<String, String>) -> Result<(), String> {
    let config: ClientConfig = properties.clone().into_iter().collect();
    match config.create_native_config() {
        Err(KafkaError::ClientConfig(_, problem, name, _)) => {
            Err(format!("expected librdkafka properties, but of `{name}` librdkafka says: {problem}"))
        }
        _ => Ok(()),
    }
}

/// A whole number within a range.
pub fn number<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a whole number from {} to {}", range.start(), range.end()))
    }
}

/// How many replicas a topic gets.
pub fn replication_factor(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| *number == -1 || (1..=100).contains(number));
    number.ok_or_else(|| "expected a whole number from 1 to 100, or -1 for the broker's default".to_owned())
}

/// On or off, for a flag that stands in the environment.
pub fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "expected `true` or `false`".to_owned())
}

/// An address to listen on.
pub fn socket_addr(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an IP address and a port, such as `127.0.0.1:9000` or `[::1]:0`".to_owned())
}

/// What to log.
pub fn log_filter(text: &str) -> Result<String, String> {
    let parsed = EnvFilter::builder().parse(text);
    let expected = "expected a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or directives like \
         `info,bundlehook=debug`";
    parsed.map(|_| text.to_owned()).map_err(|_| expected.to_owned())
}

/// Addresses that may be dialled, separated by commas.
pub fn allowed_address(text: &str) -> Result<AllowedAddress, String> {
    text.trim().parse().map_err(|error: crate::model::address::AllowedAddressError| error.to_string())
}

/// Id of a webhook.
pub fn webhook_id(text: &str) -> Result<WebhookId, IdError> {
    WebhookId::parse(text)
}

/// Id of a workspace.
pub fn workspace_id(text: &str) -> Result<WorkspaceId, IdError> {
    WorkspaceId::parse(text)
}

/// A UUID.
pub fn uuid(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "expected a UUID like `9b7a3f52-0a6b-4a39-8a0e-1f2e3d4c5b6a`".to_owned())
}

/// The `webhook-id` of a delivery.
pub fn bundle_id(text: &str) -> Result<BundleId, String> {
    uuid(text).map(BundleId)
}

/// A point in time.
pub fn time(text: &str) -> Result<Millis, String> {
    parse_timestamp(text).map(Millis::from).map_err(|error| error.to_string())
}

/// A network, or an address for one of its own.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed.map_err(|_| "expected an address or CIDR, like `203.0.113.7` or `2001:db8::/32`".to_owned())
}

/// Ports and ranges.
pub fn ports(text: &str) -> Result<PortRule, String> {
    text.parse().map_err(|error: crate::model::address::PortRuleError| error.to_string())
}

/// The address of a resolver; port 53 unless it says another.
pub fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let parsed = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::from((ip, 53))));
    parsed.map_err(|_| {
        "expected an IP address with an optional port, such as `10.0.0.2` or `[::1]:5353`".to_owned()
    })
}

/// The URL of an egress proxy.
pub fn proxy_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http" && url.has_host());
    url.ok_or_else(|| {
        "expected a URL like `http://proxy:3128` or `http://user:password@proxy:3128`".to_owned()
    })
}

/// A sender or recipient of e-mails.
pub fn mailbox(text: &str) -> Result<Mailbox, String> {
    let expected = || "expected an e-mail address, or `Name <address>`".to_owned();
    text.parse().map_err(|_| expected())
}

/// The URL of a page.
pub fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| "expected a URL like `https://console.example.com`".to_owned())
}

/// The origin of a page.
pub fn origin(text: &str) -> Result<String, String> {
    let url = web_url(text.trim()).ok().filter(|url| url.path() == "/" && url.query().is_none());
    let origin = url.map(|url| url.origin().ascii_serialization());
    origin.ok_or_else(|| "expected an origin like `https://app.example.com`".to_owned())
}

/// Brokers, `host:port` separated by commas.
pub fn brokers(text: &str) -> Result<String, String> {
    let sound = |broker: &str| {
        let (host, port) = broker.trim().rsplit_once(':')?;
        (!host.is_empty() && port.parse::<u16>().is_ok()).then_some(())
    };
    let all: Option<()> = text.split(',').map(sound).collect();
    all.map(|()| text.to_owned())
        .ok_or_else(|| "expected `host:port`, several separated by commas".to_owned())
}

/// A prefix that gives valid names of topics.
pub fn topic_prefix(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.len() <= 200 && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("expected at most 200 letters, digits, `.`, `_` or `-`".to_owned())
    }
}

/// A point in time.
pub fn instant(text: &str) -> Result<Millis, String> {
    let parsed = parse_timestamp(text).map(Millis::from);
    parsed.map_err(|_| "expected a time such as `2026-01-31T08:00:00Z`".to_owned())
}

/// The place of a dead letter, `partition/offset`, or of its source, `topic/partition/offset`.
pub fn letter_place(text: &str) -> Result<LetterPlace, String> {
    let mut fields = text.rsplitn(3, '/');
    let mut place = || {
        let offset = fields.next()?.parse().ok().filter(|offset| *offset >= 0)?;
        let partition = fields.next()?.parse().ok().filter(|partition| *partition >= 0)?;
        Some(LetterPlace { source: fields.next().map(str::to_owned), partition, offset })
    };
    place().ok_or_else(|| "expected a place such as `3/17` or `message-events/0/1041`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_are_read() {
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(properties("acks=1, client.id=d=e").unwrap()["client.id"], "d=e");
        assert!(retry_schedule("5s,30s,2m").is_ok());
        assert!(brokers("a:1,b:2").is_ok());
        assert_eq!(number(1..=5u8)("5"), Ok(5));
        assert_eq!(replication_factor("-1"), Ok(-1));
        assert_eq!(switch("true"), Ok(true));
        assert!(socket_addr("[::1]:0").is_ok());
        assert!(log_filter("info,bundlehook=debug").is_ok());
        assert_eq!(instant("1970-01-01T00:00:01Z"), Ok(Millis(1_000)));
        assert_eq!(letter_place("3/17"), Ok(LetterPlace { source: None, partition: 3, offset: 17 }));
        assert_eq!(letter_place("a/3/17").map(|place| place.source), Ok(Some("a".to_owned())));
    }

    #[test]
    fn a_property_that_librdkafka_does_not_know_is_named() {
        let error = properties("sasl.password=s3cret,linger=5").unwrap_err();
        assert!(error.contains("`linger`") && !error.contains("s3cret"), "{error}");
        assert!(properties("linger.ms=soon").unwrap_err().contains("`linger.ms`"));
    }

    #[test]
    fn bad_values_say_what_is_expected() {
        for error in [
            duration("0s").map(drop),
            duration("ten").map(drop),
            hour("2h").map(drop),
            hour("1ms").map(drop),
            retry_schedule("").map(drop),
            retry_schedule("5s,,2m").map(drop),
            properties("a").map(drop),
            allowed_address("x").map(drop),
            network("10.0.0.0/40").map(drop),
            ports("443,x").map(drop),
            dns_server("resolver.example").map(drop),
            proxy_url("https://proxy:3128").map(drop),
            mailbox("nobody").map(drop),
            origin("https://app.example.com/path").map(drop),
            web_url("console.example.com").map(drop),
            brokers("host").map(drop),
            topic_prefix("a/b").map(drop),
            number(1..=5u8)("6").map(drop),
            number(1..=5u8)("x").map(drop),
            replication_factor("0").map(drop),
            switch("1").map(drop),
            socket_addr("localhost:1").map(drop),
            log_filter("bundlehook=loud").map(drop),
            instant("yesterday").map(drop),
            letter_place("17").map(drop),
            letter_place("-1/17").map(drop),
        ] {
            assert!(error.unwrap_err().starts_with("expected "));
        }
    }
}

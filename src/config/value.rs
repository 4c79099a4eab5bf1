//! Parsers of single values. Their errors say what is expected.

use std::{collections::BTreeMap, time::Duration};

use url::Url;

use crate::model::{address::AllowedAddress, retry::RetrySchedule};

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
    let hour = duration(text)?;
    let whole = hour.subsec_nanos().is_multiple_of(1_000_000);
    let in_range = (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&hour);
    if whole && in_range {
        Ok(hour)
    } else {
        Err("expected a duration of whole milliseconds from `100ms` to `1h`".to_owned())
    }
}

/// Pauses, separated by commas.
pub fn retry_schedule(text: &str) -> Result<RetrySchedule, String> {
    let expected = |_| "expected pauses separated by commas, such as `5s,30s,2m`".to_owned();
    let pauses: Result<Vec<_>, _> = text.split(',').map(|pause| duration(pause.trim())).collect();
    RetrySchedule::new(pauses.map_err(expected)?).map_err(|error| error.to_string())
}

/// Properties of librdkafka, `name=value` separated by commas.
pub fn properties(text: &str) -> Result<BTreeMap<String, String>, String> {
    let property = |pair: &str| {
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty())?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
    let properties: Option<_> = pairs.map(property).collect();
    properties.ok_or_else(|| {
        "expected librdkafka properties like `security.protocol=ssl,ssl.ca.location=/etc/ca.pem`".to_owned()
    })
}

/// Addresses that may be dialled, separated by commas.
pub fn allowed_address(text: &str) -> Result<AllowedAddress, String> {
    text.trim()
        .parse()
        .map_err(|error: crate::model::address::AllowedAddressError| error.to_string())
}

/// The URL of a Redis server.
pub fn redis_url(text: &str) -> Result<Url, String> {
    let schemes = ["redis", "rediss", "unix", "redis+unix"];
    Url::parse(text)
        .ok()
        .filter(|url| schemes.contains(&url.scheme()))
        .ok_or_else(|| {
            "expected a URL like `redis://host:6379/0`, `rediss://user:password@host` or `redis+unix:///path`"
                .to_owned()
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_values_are_read() {
        assert_eq!(duration_or_zero("0"), Ok(Duration::ZERO));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(properties("a=b, c=d=e").unwrap()["c"], "d=e");
        assert!(retry_schedule("5s,30s,2m").is_ok());
        assert!(redis_url("redis+unix:///tmp/x.sock").is_ok());
        assert!(brokers("a:1,b:2").is_ok());
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
            redis_url("http://x").map(drop),
            brokers("host").map(drop),
            topic_prefix("a/b").map(drop),
        ] {
            assert!(error.unwrap_err().starts_with("expected "));
        }
    }
}

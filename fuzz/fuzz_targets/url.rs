//! URLs of strangers: what is accepted is a public address or a name that DNS has to resolve, and the serialised form means
//! the same.
#![no_main]

use std::net::IpAddr;

use bundlehook::model::{
    address::{AddressPolicy, is_public},
    endpoint::{is_special_name, parse_endpoint},
};
use libfuzzer_sys::fuzz_target;
use url::Host;

fuzz_target!(|text: &str| {
    let Ok(url) = parse_endpoint(text) else { return };
    let again = parse_endpoint(url.as_str()).unwrap_or_else(|error| panic!("{text} became {url}: {error}"));
    assert_eq!(again, url);
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    let policy = AddressPolicy::default();
    let destination = policy.destination(&url);
    match url.host().expect("an endpoint has a host") {
        Host::Ipv4(ip) => assert!(destination.is_err() || is_public(IpAddr::V4(ip)), "{url}"),
        Host::Ipv6(ip) => assert!(destination.is_err() || is_public(IpAddr::V6(ip)), "{url}"),
        Host::Domain(name) => {
            assert!(destination.is_err() || !is_special_name(name), "{url}");
            assert!(name.parse::<IpAddr>().is_err(), "{url}");
        }
    }
});

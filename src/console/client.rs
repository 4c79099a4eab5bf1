//! Where a request comes from: the address that connected, or the one that a trusted proxy names.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, request::Parts},
};
use ipnet::IpNet;

use super::{Shared, problem::Problem};
use crate::config::{ForwardedHeader, ServeSettings};

/// The address of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(pub IpAddr);

/// Proxies whose word counts.
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: ForwardedHeader,
}

impl Proxies {
    pub fn new(settings: &ServeSettings) -> Self {
        Self { trusted: settings.trusted_proxies.clone(), header: settings.forwarded_header }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    /// Who asks, given who connected. Each trusted proxy has added whom it got the request from at the end; the first one
    /// from there that is no trusted proxy is the client. What stands before it may be made up.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> Client {
        let named = match self.header {
            ForwardedHeader::XForwardedFor => named(headers, "x-forwarded-for", address),
            ForwardedHeader::Forwarded => named(headers, "forwarded", forwarded_for),
        };
        let (mut client, mut named) = (peer.to_canonical(), named.into_iter().rev());
        while self.trusts(client) {
            match named.next() {
                Some(Some(before)) => client = before,
                // There is none, or it is hidden.
                _ => break,
            }
        }
        Client(client)
    }
}

/// The elements of a header, in order; none for one that names no address.
fn named(headers: &HeaderMap, name: &str, read: fn(&str) -> Option<IpAddr>) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|element| read(element.trim())).collect()
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse::<IpAddr>().ok().or_else(with_port).map(|address| address.to_canonical())
}

/// The `for` of an element of RFC 7239.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    values.next().and_then(|(_, value)| address(value.trim().trim_matches('"')))
}

impl FromRequestParts<Shared> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        let ConnectInfo(peer) =
            peer.ok_or_else(|| Problem::unauthorized("the caller's address is not known"))?;
        Ok(console.proxies.client(peer.ip(), &parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap()).into();
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        Proxies { trusted, header }.client(peer.parse().unwrap(), &headers).0.to_string()
    }

    #[test]
    fn the_client_is_whom_the_outermost_trusted_proxy_names() {
        let by = |peer, lines: &[(&'static str, &str)]| client(ForwardedHeader::XForwardedFor, peer, lines);
        let name = "x-forwarded-for";
        assert_eq!(by("10.0.0.1", &[(name, "192.0.2.7")]), "192.0.2.7");
        assert_eq!(by("::ffff:10.0.0.1", &[(name, "192.0.2.7:4711, 10.9.9.9")]), "192.0.2.7");
        assert_eq!(by("10.0.0.1", &[(name, "198.51.100.1"), (name, "192.0.2.7")]), "192.0.2.7", "made up");
        assert_eq!(by("2001:db8::1", &[(name, "[2001:db9::5]:80")]), "2001:db9::5");
        assert_eq!(by("192.0.2.1", &[(name, "192.0.2.7")]), "192.0.2.1", "nobody trusts this peer");
        assert_eq!(by("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(by("10.0.0.1", &[(name, "192.0.2.7, nonsense")]), "10.0.0.1");
        assert_eq!(
            by("10.0.0.1", &[("forwarded", "for=192.0.2.7")]),
            "10.0.0.1",
            "not the header that is set"
        );
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_set() {
        let by = |value| client(ForwardedHeader::Forwarded, "10.0.0.1", &[("forwarded", value)]);
        assert_eq!(by("for=198.51.100.1, proto=https;For=\"[2001:db9::5]:4711\""), "2001:db9::5");
        assert_eq!(by("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60");
        assert_eq!(by("for=_hidden"), "10.0.0.1");
    }
}

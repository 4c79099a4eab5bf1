//! Which addresses may be dialled: public ones, and those that the operator allows.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

/// IANA's IPv4 special-purpose registry, and multicast and reserved space.
const SPECIAL_V4: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];

/// The part of `2000::/3`, the only global unicast space, that IANA's IPv6 special-purpose registry takes out:
/// protocol assignments (Teredo, ORCHID …), documentation and 6to4.
const SPECIAL_V6: [&str; 5] = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"];

/// True if an address belongs to the public internet, in whatever disguise it comes.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !within(&SPECIAL_V4, address.into())
}

/// Mapped, compatible, translated and NAT64 addresses lie outside `2000::/3` and so are refused whole; ISATAP ones
/// carry `0:5efe` in their interface identifier.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let isatap = segments[5] == 0x5efe && segments[4] & !0x0200 == 0;
    global && !isatap && !within(&SPECIAL_V6, address.into())
}

fn within(networks: &[&str], address: IpAddr) -> bool {
    networks.iter().any(|network| network.parse::<IpNet>().is_ok_and(|network| network.contains(&address)))
}

/// Addresses that may be dialled although they are not public: a CIDR or an address, with an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedAddress {
    network: IpNet,
    port: Option<u16>,
}

impl AllowedAddress {
    fn allows(&self, address: SocketAddr) -> bool {
        self.network.contains(&address.ip()) && self.port.is_none_or(|port| port == address.port())
    }
}

/// A text that is no allowed address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected an address or CIDR with an optional port, like `10.1.0.0/16`, `127.0.0.1:9000` or `[fd00::/8]:443`"
)]
pub struct AllowedAddressError;

impl FromStr for AllowedAddress {
    type Err = AllowedAddressError;
    fn from_str(text: &str) -> Result<Self, AllowedAddressError> {
        let (network, port) = match text.strip_prefix('[').and_then(|rest| rest.rsplit_once(']')) {
            Some((network, "")) => (network, None),
            Some((network, port)) => (network, Some(port.strip_prefix(':').ok_or(AllowedAddressError)?)),
            None if text.matches(':').count() == 1 => text
                .split_once(':')
                .map(|(network, port)| (network, Some(port)))
                .ok_or(AllowedAddressError)?,
            None => (text, None),
        };
        let network = network.parse::<IpNet>().or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
        let port = port.map(str::parse::<u16>).transpose();
        Ok(Self {
            network: network.map_err(|_| AllowedAddressError)?,
            port: port.map_err(|_| AllowedAddressError)?,
        })
    }
}

impl fmt::Display for AllowedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "[{}]:{port}", self.network),
            None => self.network.fmt(f),
        }
    }
}

/// Decides which addresses may be dialled.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// What may be dialled although it is not public.
    pub allowed: Vec<AllowedAddress>,
}

impl AddressPolicy {
    /// True if the address may be dialled.
    #[must_use]
    pub fn permits(&self, address: SocketAddr) -> bool {
        is_public(address.ip()) || self.allowed.iter().any(|allowed| allowed.allows(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_purpose_addresses_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2001::1",
            "2a00:1450::5efe:7f00:1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn public_addresses_are_public() {
        for address in
            ["8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::200e"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_allowed_address_opens_its_network_and_port_only() {
        let policy = |text: &str| AddressPolicy { allowed: vec![text.parse().unwrap()] };
        assert!(policy("127.0.0.1:9000").permits("127.0.0.1:9000".parse().unwrap()));
        assert!(!policy("127.0.0.1:9000").permits("127.0.0.1:9001".parse().unwrap()));
        assert!(policy("10.0.0.0/8").permits("10.9.9.9:1".parse().unwrap()));
        assert!(policy("[fd00::/8]:443").permits("[fd00::1]:443".parse().unwrap()));
        assert!(policy("::1").permits("[::1]:5".parse().unwrap()));
    }

    #[test]
    fn a_malformed_allowance_is_refused() {
        for text in ["", "localhost", "10.0.0.0/33", "127.0.0.1:x", "127.0.0.1:99999", "[::1]9"] {
            assert_eq!(text.parse::<AllowedAddress>(), Err(AllowedAddressError), "{text}");
        }
    }
}

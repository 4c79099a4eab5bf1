//! Which addresses may be dialled: public ones, and those that the operator allows.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    sync::LazyLock,
};

use ipnet::IpNet;
use url::{Host, Url};

use super::endpoint::is_special_name;

/// IANA's IPv4 special-purpose registry, multicast and reserved space, and the one metadata service of a cloud that
/// stands at a public address.
const SPECIAL_V4: [&str; 18] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
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
    !is_special(address.into())
}

/// Mapped, compatible, translated and NAT64 addresses lie outside `2000::/3` and so are refused whole; ISATAP ones
/// carry `0:5efe` in their interface identifier.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let isatap = segments[5] == 0x5efe && segments[4] & !0x0200 == 0;
    global && !isatap && !is_special(address.into())
}

/// Both lists, read once.
static SPECIAL: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    let parse = |network: &&str| network.parse().expect("a test reads the lists");
    SPECIAL_V4.iter().chain(&SPECIAL_V6).map(parse).collect()
});

fn is_special(address: IpAddr) -> bool {
    SPECIAL.iter().any(|network| network.contains(&address))
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

/// Which ports may be dialled: a list of ports and ranges, later ones win; `!` takes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRule(Vec<(RangeInclusive<u16>, bool)>);

/// The web's own ports and the unprivileged ones, without those of databases, brokers, caches and control planes.
pub const DEFAULT_PORTS: &str = "80,443,1024-65535,!1433,!1521,!2049,!2181,!2375-2380,!3306,!3389,!4369,!5432,!5672,\
     !5900,!5984,!6379,!6443,!7000-7001,!8086,!8125,!8300-8302,!8500,!8600,!9042,!9092-9094,!9100,!9200,!9300,\
     !10250-10259,!11211,!15672,!26379,!27017-27019,!50070,!61616";

impl PortRule {
    /// True if the port may be dialled.
    #[must_use]
    pub fn permits(&self, port: u16) -> bool {
        self.0.iter().rev().find(|(range, _)| range.contains(&port)).is_some_and(|(_, permitted)| *permitted)
    }
}

impl Default for PortRule {
    fn default() -> Self {
        DEFAULT_PORTS.parse().expect("a test reads the default")
    }
}

/// A text that is no list of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected ports and ranges, separated by commas, with `!` before what is left out, like `443,8000-8999,!8500`"
)]
pub struct PortRuleError;

impl FromStr for PortRule {
    type Err = PortRuleError;
    fn from_str(text: &str) -> Result<Self, PortRuleError> {
        let entry = |entry: &str| {
            let (range, permitted) = match entry.trim().strip_prefix('!') {
                Some(range) => (range, false),
                None => (entry.trim(), true),
            };
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (from <= to && from > 0).then_some((from..=to, permitted))
        };
        let entries: Option<Vec<_>> = text.split(',').map(entry).collect();
        entries.map(Self).ok_or(PortRuleError)
    }
}

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To an address.
    Address(SocketAddr),
    /// To what the name resolves to, at this port.
    Name(String, u16),
}

/// Why a destination may not be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not public, or the port is not permitted.
    #[error("address `{0}` is not public, or its port is not permitted")]
    Address(SocketAddr),
    /// Of this host itself.
    #[error("address `{0}` is one of this host")]
    OwnAddress(SocketAddr),
    /// A name that never leads to the public internet.
    #[error("the name `{0}` is a single label or of special use")]
    Name(String),
    /// Not among the permitted ports.
    #[error("port {0} is not permitted")]
    Port(u16),
    /// No host at all.
    #[error("there is no host")]
    NoHost,
}

/// Decides which addresses may be dialled.
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    /// What may be dialled although it is not public or its port is not permitted.
    pub allowed: Vec<AllowedAddress>,
    /// What may not be dialled although it is public.
    pub denied: Vec<IpNet>,
    /// Ports that may be dialled at public addresses.
    pub ports: PortRule,
}

impl AddressPolicy {
    /// Where a URL leads, if that may be dialled as far as can be seen without resolving a name.
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn destination(&self, url: &Url) -> Result<Destination, Refusal> {
        let port = url.port_or_known_default().ok_or(Refusal::NoHost)?;
        let address = match url.host().ok_or(Refusal::NoHost)? {
            Host::Ipv4(address) => SocketAddr::from((address, port)),
            Host::Ipv6(address) => SocketAddr::from((address, port)),
            Host::Domain(name) if is_special_name(name) => return Err(Refusal::Name(name.to_owned())),
            Host::Domain(_) if !self.may_permit(port) => return Err(Refusal::Port(port)),
            Host::Domain(name) => return Ok(Destination::Name(name.to_owned(), port)),
        };
        self.vet(address, &[]).map(|()| Destination::Address(address))
    }

    /// Checks an address that is about to be dialled. `own` are those of this host.
    ///
    /// # Errors
    /// [`Refusal`] says why it may not be.
    pub fn vet(&self, address: SocketAddr, own: &[IpAddr]) -> Result<(), Refusal> {
        let ip = address.ip();
        if self.allowed.iter().any(|allowed| allowed.allows(address)) {
            Ok(())
        } else if own.contains(&ip) {
            Err(Refusal::OwnAddress(address))
        } else if is_public(ip)
            && self.ports.permits(address.port())
            && !self.denied.iter().any(|network| network.contains(&ip))
        {
            Ok(())
        } else {
            Err(Refusal::Address(address))
        }
    }

    /// False if no address at all may be dialled at a port.
    fn may_permit(&self, port: u16) -> bool {
        self.ports.permits(port)
            || self.allowed.iter().any(|allowed| allowed.port.is_none_or(|allowed| allowed == port))
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
            "168.63.129.16",
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

    fn vet(policy: &AddressPolicy, address: &str) -> Result<(), Refusal> {
        policy.vet(address.parse().unwrap(), &[])
    }

    #[test]
    fn an_allowed_address_opens_its_network_and_port_only() {
        let policy =
            |text: &str| AddressPolicy { allowed: vec![text.parse().unwrap()], ..AddressPolicy::default() };
        assert!(vet(&policy("127.0.0.1:9000"), "127.0.0.1:9000").is_ok());
        assert!(vet(&policy("127.0.0.1:9000"), "127.0.0.1:9001").is_err());
        assert!(vet(&policy("10.0.0.0/8"), "10.9.9.9:1").is_ok());
        assert!(vet(&policy("[fd00::/8]:443"), "[fd00::1]:443").is_ok());
        assert!(vet(&policy("::1"), "[::1]:5").is_ok());
    }

    #[test]
    fn a_public_address_needs_a_permitted_port_and_must_not_be_denied_or_our_own() {
        let mut policy = AddressPolicy::default();
        assert_eq!(vet(&policy, "8.8.8.8:443"), Ok(()));
        assert!(vet(&policy, "8.8.8.8:25").is_err());
        assert!(vet(&policy, "8.8.8.8:6379").is_err());
        let own = ["8.8.8.8".parse().unwrap()];
        let address = "8.8.8.8:443".parse().unwrap();
        assert_eq!(policy.vet(address, &own), Err(Refusal::OwnAddress(address)));
        policy.denied = vec!["8.8.8.0/24".parse().unwrap()];
        assert_eq!(vet(&policy, "8.8.8.8:443"), Err(Refusal::Address(address)));
    }

    #[test]
    fn a_url_is_refused_as_far_as_it_can_be_seen_without_resolving() {
        let policy = AddressPolicy { allowed: vec!["127.0.0.1:25".parse().unwrap()], ..Default::default() };
        let to = |url: &str| policy.destination(&Url::parse(url).unwrap());
        assert_eq!(to("https://h.example.com/"), Ok(Destination::Name("h.example.com".to_owned(), 443)));
        assert!(matches!(to("http://127.0.0.1:25/"), Ok(Destination::Address(_))));
        assert!(matches!(to("http://h.example.com:25/"), Ok(Destination::Name(_, 25))), "it may lead there");
        assert_eq!(to("http://h.example.com:22/"), Err(Refusal::Port(22)));
        assert_eq!(to("http://localhost./"), Err(Refusal::Name("localhost.".to_owned())));
        assert!(matches!(to("http://[::ffff:8.8.8.8]/"), Err(Refusal::Address(_))));
    }

    #[test]
    fn ports_are_permitted_by_the_last_entry_that_names_them() {
        let rule: PortRule = "443, 8000-8999,!8500,8500-8501".parse().unwrap();
        assert!(rule.permits(443) && rule.permits(8999) && rule.permits(8500));
        assert!(!rule.permits(80) && !rule.permits(9000));
        for text in ["", "x", "9-1", "0", "70000", "1-2-3"] {
            assert_eq!(text.parse::<PortRule>(), Err(PortRuleError), "{text}");
        }
        assert!(PortRule::default().permits(8443) && !PortRule::default().permits(22));
    }

    #[test]
    fn a_malformed_allowance_is_refused() {
        for text in ["", "localhost", "10.0.0.0/33", "127.0.0.1:x", "127.0.0.1:99999", "[::1]9"] {
            assert_eq!(text.parse::<AllowedAddress>(), Err(AllowedAddressError), "{text}");
        }
    }
}

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use ipnet::IpNet;
use url::Url;

use super::{Given, InFile, ReadOnce, value};
use crate::model::{
    address::{AddressPolicy, AllowedAddress, DEFAULT_PORTS, PortRule},
    retry::RetrySchedule,
};

/// How bundles are delivered.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Delivery")]
pub struct DeliverySettings {
    /// Addresses that may be dialled although they are not public: CIDRs with an optional port, separated by
    /// commas.
    #[arg(
        long,
        env = "BUNDLEHOOK_ALLOW_ADDRESSES",
        value_delimiter = ',',
        value_parser = value::allowed_address,
        value_name = "CIDR[:PORT]"
    )]
    pub allow_addresses: Vec<AllowedAddress>,
    /// Networks that may not be dialled although they are public, such as the deployment's own: CIDRs, separated by
    /// commas.
    #[arg(
        long,
        env = "BUNDLEHOOK_DENY_ADDRESSES",
        value_delimiter = ',',
        value_parser = value::network,
        value_name = "CIDR"
    )]
    pub deny_addresses: Vec<IpNet>,
    /// Ports that may be dialled at public addresses: ports and ranges, `!` takes out, the last one that names a port
    /// wins.
    #[arg(long, env = "BUNDLEHOOK_ALLOW_PORTS", default_value = DEFAULT_PORTS, value_parser = value::ports)]
    pub allow_ports: PortRule,
    /// Resolvers to ask for the names of endpoints, separated by commas; those of the system unless set.
    #[arg(
        long,
        env = "BUNDLEHOOK_DNS_SERVERS",
        value_delimiter = ',',
        value_parser = value::dns_server,
        value_name = "IP[:PORT]"
    )]
    pub dns_servers: Vec<SocketAddr>,
    /// A PEM file of certificate authorities to trust beside those that browsers trust. Where it changes, the role begins
    /// anew.
    #[arg(long, env = "BUNDLEHOOK_CA_BUNDLE", value_name = "FILE")]
    pub ca_bundle: Option<PathBuf>,
    /// An egress proxy to reach endpoints through, by CONNECT to the vetted address. Its own address is not vetted.
    #[arg(
        long,
        env = "BUNDLEHOOK_EGRESS_PROXY",
        hide_env_values = true,
        value_parser = ProxyUrl::from_str,
        value_name = "URL"
    )]
    egress_proxy: Option<ProxyUrl>,
    /// A file with that URL, to keep its password out of variables. Where it changes, the role begins anew.
    #[arg(long, env = "BUNDLEHOOK_EGRESS_PROXY_FILE", value_name = "FILE", conflicts_with = "egress_proxy")]
    egress_proxy_file: Option<InFile<ProxyUrl>>,
    /// A file with the keys that open sealed secrets, a line `ID:BASE64` each, 32 bytes. Where it changes, the role begins
    /// anew.
    #[arg(long, env = "BUNDLEHOOK_SEALING_KEYS", value_name = "FILE")]
    pub sealing_keys: Option<PathBuf>,
    /// Pauses after the first, second … consecutive failure; the last one repeats.
    #[arg(
        long,
        env = "BUNDLEHOOK_RETRY_SCHEDULE",
        default_value = "5s,30s,2m,5m,10m,30m,1h,2h,4h,8h",
        value_parser = value::retry_schedule
    )]
    pub retry_schedule: RetrySchedule,
    /// Deadline over connecting, the request and the response.
    #[arg(long, env = "BUNDLEHOOK_REQUEST_TIMEOUT", default_value = "10s", value_parser = value::duration)]
    pub request_timeout: Duration,
    /// Requests of one webhook in flight at once in this process.
    #[arg(
        long,
        env = "BUNDLEHOOK_LANE_REQUESTS",
        default_value_t = 8,
        value_parser = value::number::<u16>(1..=1000)
    )]
    pub lane_requests: u16,
    /// Most requests of one webhook in flight at once in this process, while it has more to send and the endpoint
    /// keeps its pace.
    #[arg(
        long,
        env = "BUNDLEHOOK_LANE_REQUESTS_CEILING",
        default_value_t = 32,
        value_parser = value::number::<u16>(1..=1000)
    )]
    pub lane_requests_ceiling: u16,
    /// Memory for bundles that wait, in MiB; what does not fit is parked.
    #[arg(
        long,
        env = "BUNDLEHOOK_WAITING_MEMORY",
        value_name = "MIB",
        default_value_t = 64,
        value_parser = value::number::<u32>(1..=65_536)
    )]
    pub waiting_memory: u32,
    /// Bundles of a partition that are read past the oldest that is neither settled nor parked.
    #[arg(
        long,
        env = "BUNDLEHOOK_READ_AHEAD",
        default_value_t = 20_000,
        value_parser = value::number::<u32>(100..=1_000_000)
    )]
    pub read_ahead: u32,
}

/// The URL of an egress proxy.
#[derive(Debug, Clone)]
pub struct ProxyUrl(Url);

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        value::proxy_url(text).map(Self)
    }
}

impl DeliverySettings {
    /// Which addresses may be dialled.
    #[must_use]
    pub fn addresses(&self) -> AddressPolicy {
        AddressPolicy {
            allowed: self.allow_addresses.clone(),
            denied: self.deny_addresses.clone(),
            ports: self.allow_ports.clone(),
        }
    }

    /// The egress proxy, if there is one.
    #[must_use]
    pub fn egress_proxy(&self) -> Option<Url> {
        let given = Given::either(self.egress_proxy.clone(), self.egress_proxy_file.clone());
        given.map(|given| given.first().0.clone())
    }

    /// Adds the authorities, the egress proxy's file and the sealing keys.
    pub fn add_read_once(&self, files: &mut ReadOnce) {
        if let Some(file) = &self.egress_proxy_file {
            files.add_read(file);
        }
        [&self.ca_bundle, &self.sealing_keys].into_iter().flatten().for_each(|path| files.add(path));
    }

    /// How long a request in flight may take when the process stops: the request's deadline plus 5 s.
    #[must_use]
    pub fn drain(&self) -> Duration {
        self.request_timeout + Duration::from_secs(5)
    }
}

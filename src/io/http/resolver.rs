//! Names to addresses, absolute names only, by DNS alone. Tells a name that does not resolve from resolvers of ours
//! that fail.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverOpts},
    proto::rr::Name,
    system_conf::read_system_conf,
};

use super::name_server::{Miss, NameServer};

/// An answer is kept for at most so long, whatever its zone says.
const KEPT: Duration = Duration::from_secs(30);
/// That there is no answer is kept for at most so long.
const ABSENCE_KEPT: Duration = Duration::from_secs(5);

/// Why a name has no addresses.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has no address.
    #[error("the name `{0}` has no address")]
    Absent(String),
    /// The servers of its zone do not answer, or wrongly.
    #[error("the name `{name}` could not be resolved: {problem}")]
    Zone { name: String, problem: String },
    /// Our own resolvers fail, whatever they are asked, or refuse to say.
    #[error("the resolvers of this deployment fail: {0}")]
    Resolvers(String),
}

/// Asks the resolvers of the deployment.
pub struct Resolver(Vec<NameServer>);

impl Resolver {
    /// A resolver that asks these servers, or those of the system if there are none. `deadline` is that of a whole
    /// request, of which it takes at most three quarters.
    ///
    /// # Errors
    /// If the system's configuration can't be read.
    pub fn new(servers: &[SocketAddr], deadline: Duration) -> io::Result<Self> {
        let (configs, mut options) = if servers.is_empty() {
            let (config, options) = read_system_conf().map_err(io::Error::other)?;
            (config.name_servers, options)
        } else {
            (servers.iter().map(config_of).collect(), ResolverOpts::default())
        };
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = deadline / 8;
        options.attempts = 1;
        options.positive_max_ttl = Some(KEPT);
        options.negative_max_ttl = Some(ABSENCE_KEPT);
        let server = |config| NameServer::new(config, &options, deadline);
        Ok(Self(configs.into_iter().map(server).collect::<io::Result<_>>()?))
    }

    /// All addresses of a name, those of IPv4 first. All servers are asked at once, and the first that knows decides.
    ///
    /// # Errors
    /// [`ResolveError`] says whose fault it is.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let zone = |problem| ResolveError::Zone { name: name.to_owned(), problem };
        let absolute = absolute(name).map_err(|problem| zone(problem.to_string()))?;
        let mut answers: FuturesUnordered<_> =
            self.0.iter().map(|server| server.resolve(&absolute)).collect();
        let mut failure = ResolveError::Resolvers("there are none".to_owned());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(addresses) => return Ok(addresses),
                Err(Miss::Absent) => return Err(ResolveError::Absent(name.to_owned())),
                Err(Miss::Zone(problem)) => failure = zone(problem),
                // What a server that works says of the zone counts for more than one that fails.
                Err(Miss::Server(_)) if matches!(failure, ResolveError::Zone { .. }) => {}
                Err(Miss::Server(problem)) => failure = ResolveError::Resolvers(problem),
            }
        }
        Err(failure)
    }
}

fn absolute(name: &str) -> Result<Name, impl std::error::Error> {
    Name::from_ascii(name).map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

fn config_of(server: &SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = server.port();
    }
    NameServerConfig::new(server.ip(), true, connections)
}

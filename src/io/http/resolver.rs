//! Names to addresses, absolute names only, by DNS alone. Tells a name that does not resolve from a resolver of ours
//! that does not answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData, RecordType},
    system_conf::read_system_conf,
};

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
    /// Our own resolvers do not answer, whatever they are asked.
    #[error("the resolvers of this deployment do not answer: {0}")]
    Resolvers(String),
}

/// Asks the resolvers of the deployment.
pub struct Resolver {
    names: TokioResolver,
    /// Keeps nothing: it tells whether the resolvers work now.
    control: TokioResolver,
    deadline: Duration,
}

/// Why there is no answer to one question.
enum Miss {
    Absent,
    Unanswered(String),
}

impl Resolver {
    /// A resolver that asks these servers, or those of the system if there are none. `deadline` is that of a whole
    /// request, of which it takes at most three quarters.
    ///
    /// # Errors
    /// If the system's configuration can't be read.
    pub fn new(servers: &[SocketAddr], deadline: Duration) -> io::Result<Self> {
        let (config, mut options) = match servers {
            [] => read_system_conf().map_err(io::Error::other)?,
            servers => (config_of(servers), ResolverOpts::default()),
        };
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = deadline / 8;
        options.attempts = 1;
        options.positive_max_ttl = Some(KEPT);
        options.negative_max_ttl = Some(ABSENCE_KEPT);
        let build = |options: ResolverOpts| {
            let provider = TokioRuntimeProvider::default();
            let builder = TokioResolver::builder_with_config(config.clone(), provider).with_options(options);
            builder.build().map_err(io::Error::other)
        };
        let mut control = options.clone();
        control.cache_size = 0;
        Ok(Self { names: build(options)?, control: build(control)?, deadline })
    }

    /// All addresses of a name, those of IPv4 first.
    ///
    /// # Errors
    /// [`ResolveError`] says whose fault it is.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let absolute = absolute(name)
            .map_err(|problem| ResolveError::Zone { name: name.to_owned(), problem: problem.to_string() })?;
        let (v4, v6) = tokio::join!(
            self.ask(absolute.clone(), RecordType::A),
            self.ask(absolute.clone(), RecordType::AAAA)
        );
        let problem = match (v4, v6) {
            (Ok(mut v4), Ok(v6)) => {
                v4.extend(v6);
                return Ok(v4);
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => return Ok(found),
            (Err(Miss::Absent), Err(Miss::Absent)) => return Err(ResolveError::Absent(name.to_owned())),
            (Err(Miss::Unanswered(problem)), _) | (_, Err(Miss::Unanswered(problem))) => problem,
        };
        if self.works().await {
            Err(ResolveError::Zone { name: name.to_owned(), problem })
        } else {
            Err(ResolveError::Resolvers(problem))
        }
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Result<Vec<IpAddr>, Miss> {
        let lookup = tokio::time::timeout(self.deadline / 2, self.names.lookup(name, kind)).await;
        let unanswered = |error: &dyn ToString| Miss::Unanswered(error.to_string());
        let found = match lookup {
            Err(_) => return Err(Miss::Unanswered("no answer in time".to_owned())),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => return Err(Miss::Absent),
            Ok(Err(error)) => return Err(unanswered(&error)),
            Ok(Ok(lookup)) => addresses(&lookup),
        };
        if found.is_empty() { Err(Miss::Absent) } else { Ok(found) }
    }

    /// True if the resolvers know the root of all names. If they don't, they know nothing.
    async fn works(&self) -> bool {
        let root = self.control.lookup(Name::root(), RecordType::NS);
        tokio::time::timeout(self.deadline / 4, root).await.is_ok_and(|answer| answer.is_ok())
    }
}

fn absolute(name: &str) -> Result<Name, impl std::error::Error> {
    Name::from_ascii(name).map(|mut name| {
        name.set_fqdn(true);
        name
    })
}

fn config_of(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |server: &SocketAddr| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    lookup.answers().iter().filter_map(|record| address(&record.data)).collect()
}

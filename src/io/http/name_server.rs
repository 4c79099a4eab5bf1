//! One resolver of the deployment: what it says of a name, and whether it works.

use std::{io, net::IpAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};

/// Asked about one server, so that one that fails does not hide what others say.
pub(super) struct NameServer {
    names: TokioResolver,
    /// Keeps nothing: it tells whether the server works now.
    control: TokioResolver,
    deadline: Duration,
}

/// Why a server says no address.
pub(super) enum Miss {
    /// The name does not exist, or has no address.
    Absent,
    /// The server works, but the servers of the name's zone don't.
    Zone(String),
    /// The server itself fails, or refuses to say.
    Server(String),
}

/// Why there is no answer to one question.
enum Unanswered {
    Absent,
    /// The server says that it will not or can't answer such a question, whatever the zone's servers say.
    Refused(String),
    /// It failed to find out, or said nothing that is an answer.
    Failed(String),
}

impl NameServer {
    /// A server by its configuration. `deadline` is that of a whole request.
    ///
    /// # Errors
    /// If the configuration can't be used.
    pub fn new(config: NameServerConfig, options: &ResolverOpts, deadline: Duration) -> io::Result<Self> {
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![config]);
        let build = |options: ResolverOpts| {
            let provider = TokioRuntimeProvider::default();
            let builder = TokioResolver::builder_with_config(config.clone(), provider).with_options(options);
            builder.build().map_err(io::Error::other)
        };
        let mut control = options.clone();
        control.cache_size = 0;
        Ok(Self { names: build(options.clone())?, control: build(control)?, deadline })
    }

    /// All addresses of an absolute name, those of IPv4 first.
    ///
    /// # Errors
    /// [`Miss`] says whose fault it is.
    pub async fn resolve(&self, name: &Name) -> Result<Vec<IpAddr>, Miss> {
        let (v4, v6) =
            tokio::join!(self.ask(name.clone(), RecordType::A), self.ask(name.clone(), RecordType::AAAA));
        let problem = match (v4, v6) {
            (Ok(mut v4), Ok(v6)) => {
                v4.extend(v6);
                return Ok(v4);
            }
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => return Ok(found),
            (Err(Unanswered::Absent), Err(Unanswered::Absent)) => return Err(Miss::Absent),
            (Err(Unanswered::Refused(problem)), _) | (_, Err(Unanswered::Refused(problem))) => {
                return Err(Miss::Server(problem));
            }
            (Err(Unanswered::Failed(problem)), _) | (_, Err(Unanswered::Failed(problem))) => problem,
        };
        Err(if self.answers_beside(name).await { Miss::Zone(problem) } else { Miss::Server(problem) })
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Result<Vec<IpAddr>, Unanswered> {
        let lookup = tokio::time::timeout(self.deadline / 2, self.names.lookup(name, kind)).await;
        let found = match lookup {
            Err(_) => return Err(Unanswered::Failed("no answer in time".to_owned())),
            Ok(Err(error)) => return Err(unanswered(&error)),
            Ok(Ok(lookup)) => addresses(&lookup),
        };
        if found.is_empty() { Err(Unanswered::Absent) } else { Ok(found) }
    }

    /// True if the server answers, at this moment, for another name under the same top-level domain. Nobody has asked
    /// for that name before, so it can't answer from what it keeps: it shows that the server works and reaches the
    /// servers above the zone.
    async fn answers_beside(&self, name: &Name) -> bool {
        let label = format!("bundlehook-check-{:016x}", rand::random::<u64>());
        let Ok(beside) = name.trim_to(1).prepend_label(label) else { return false };
        let lookup = self.control.lookup(beside, RecordType::A);
        match tokio::time::timeout(self.deadline / 4, lookup).await {
            Err(_) => false,
            Ok(Ok(_)) => true,
            Ok(Err(error)) => matches!(unanswered(&error), Unanswered::Absent),
        }
    }
}

fn unanswered(error: &NetError) -> Unanswered {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => Unanswered::Absent,
        NetError::Dns(DnsError::ResponseCode(code)) if *code != ResponseCode::ServFail => {
            Unanswered::Refused(error.to_string())
        }
        error => Unanswered::Failed(error.to_string()),
    }
}

fn addresses(lookup: &Lookup) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    lookup.answers().iter().filter_map(|record| address(&record.data)).collect()
}

//! The connection to the one server that takes writes: always the same, or the one that sentinels name.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    RedisError, TlsMode,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::sync::Mutex;
use url::Url;

use super::tls;
use crate::config::{Given, RedisServers, RedisTls};

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// Connects anew, asking the sentinels anew, after each failure that another server may not have.
///
/// The crate's own manager keeps a connection that is silent, or that leads to a master that was demoted, and asks no
/// sentinels.
pub(super) struct Master {
    finder: Mutex<Finder>,
    timeout: Duration,
    tls: RedisTls,
    /// Connections with a number up to this are not to be used any more.
    left: AtomicU64,
}

struct Finder {
    /// Looked at for each connection: what it says may have changed, such as the password.
    servers: Given<RedisServers>,
    /// By which of these the source was made.
    known: RedisServers,
    source: Source,
    /// Number of the last connection; 0: there was none yet.
    number: u64,
    connection: Option<MultiplexedConnection>,
    /// The last attempt to connect, if it failed.
    failed: Option<(Instant, RedisError)>,
}

enum Source {
    Address(Url),
    Sentinels(Box<Sentinels>),
}

struct Sentinels {
    urls: Vec<Url>,
    /// The name under which they know the master.
    service: String,
    /// How to log in to it.
    login: Url,
    /// Knows them from the last time; none if there was trouble since.
    client: Option<SentinelClient>,
}

impl Master {
    /// One server, or the master that sentinels name. Connects at the first call.
    ///
    /// # Errors
    /// If these are the servers of a Cluster.
    pub fn new(servers: &Given<RedisServers>, timeout: Duration, tls: &RedisTls) -> Result<Self, RedisError> {
        let known = servers.first().clone();
        let source = Source::of(&known)?;
        let finder =
            Finder { servers: servers.clone(), known, source, number: 0, connection: None, failed: None };
        Ok(Self { finder: Mutex::new(finder), timeout, tls: tls.clone(), left: AtomicU64::new(0) })
    }

    /// The connection, with its number. Those who wait for the same attempt share its failure.
    ///
    /// # Errors
    /// If there is no connection at present.
    pub async fn connection(&self) -> Result<(u64, MultiplexedConnection), RedisError> {
        let mut finder = self.finder.lock().await;
        if let Some(connection) = &finder.connection
            && finder.number > self.left.load(Ordering::Acquire)
        {
            return Ok((finder.number, connection.clone()));
        }
        if let Some((at, error)) = &finder.failed
            && at.elapsed() < PAUSE
        {
            return Err(error.clone());
        }
        finder.connection = None;
        let found = finder.connect(self.timeout, &self.tls).await;
        finder.failed = found.as_ref().err().map(|error| (Instant::now(), error.clone()));
        let connection = found?;
        finder.number += 1;
        finder.connection = Some(connection.clone());
        Ok((finder.number, connection))
    }

    /// Gives up a connection, for the calls to come.
    pub fn leave(&self, number: u64) {
        self.left.fetch_max(number, Ordering::AcqRel);
    }
}

impl Finder {
    async fn connect(
        &mut self,
        timeout: Duration,
        tls: &RedisTls,
    ) -> Result<MultiplexedConnection, RedisError> {
        let servers = self.servers.now().map_err(|problem| wrong("the URL can't be read anew", problem))?;
        if servers != self.known {
            self.source = Source::of(&servers)?;
            self.known = servers;
        }
        self.source.connect(timeout, tls).await
    }
}

fn wrong(what: &'static str, detail: String) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, what, detail))
}

impl Source {
    fn of(servers: &RedisServers) -> Result<Self, RedisError> {
        Ok(match servers.clone() {
            RedisServers::Single(url) => Self::Address(url),
            RedisServers::Sentinel { sentinels: urls, service, login } => {
                Self::Sentinels(Box::new(Sentinels { urls, service, login, client: None }))
            }
            RedisServers::Cluster(_) => {
                let expected = "expected one server, or sentinels, as at the start".to_owned();
                return Err(wrong("the URL names a Cluster now", expected));
            }
        })
    }

    async fn connect(
        &mut self,
        timeout: Duration,
        tls: &RedisTls,
    ) -> Result<MultiplexedConnection, RedisError> {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        match self {
            Self::Address(url) => {
                let client = if tls::is_used(url) {
                    Client::build_with_tls(url.clone(), tls::certificates(tls)?)?
                } else {
                    Client::open(url.clone())?
                };
                client.get_multiplexed_async_connection_with_config(&limits).await
            }
            Self::Sentinels(sentinels) => sentinels.connect(&limits, tls).await,
        }
    }
}

impl Sentinels {
    async fn connect(
        &mut self,
        limits: &AsyncConnectionConfig,
        tls: &RedisTls,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.build(tls)?,
        };
        let connection = client.get_async_connection_with_config(limits).await?;
        self.client = Some(client);
        Ok(connection)
    }

    /// A client that asks them for the master. All have the same login.
    fn build(&self, tls: &RedisTls) -> Result<SentinelClient, RedisError> {
        let Self { urls, service, login, .. } = self;
        let infos = urls.iter().map(|url| url.clone().into_connection_info());
        let infos: Vec<ConnectionInfo> = infos.collect::<Result<_, _>>()?;
        let addresses: Vec<ConnectionAddr> = infos.iter().map(|info| info.addr().clone()).collect();
        let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?;
        if let Some(settings) = infos.first().map(ConnectionInfo::redis_settings) {
            if let Some(username) = settings.username() {
                builder = builder.set_client_to_sentinel_username(username);
            }
            if let Some(password) = settings.password() {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        let info = login.clone().into_connection_info()?;
        let settings = info.redis_settings();
        builder = builder.set_client_to_redis_db(settings.db());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if tls::is_used(login) {
            let certificates = tls::certificates(tls)?;
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_certificates(certificates);
        }
        builder.build()
    }
}

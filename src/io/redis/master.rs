//! The connection to the one server that takes writes: always the same, or the one that sentinels name.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError, TlsMode,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use tokio::sync::Mutex;
use url::Url;

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(200);

/// Connects anew, asking the sentinels anew, after each failure that another server may not have.
///
/// The crate's own manager keeps a connection that is silent, or that leads to a master that was demoted, and asks no
/// sentinels.
pub(super) struct Master {
    finder: Mutex<Finder>,
    timeout: Duration,
    /// Connections with a number up to this are not to be used any more.
    left: AtomicU64,
}

struct Finder {
    source: Source,
    /// Number of the last connection; 0: there was none yet.
    number: u64,
    connection: Option<MultiplexedConnection>,
    /// The last attempt to connect, if it failed.
    failed: Option<(Instant, RedisError)>,
}

enum Source {
    Address(Client),
    Sentinels(SentinelClient),
}

impl Master {
    /// The server at an address. Connects at the first call.
    ///
    /// # Errors
    /// If the URL can't be used.
    pub fn at(url: &Url, timeout: Duration) -> Result<Self, RedisError> {
        Ok(Self::new(Source::Address(Client::open(url.clone())?), timeout))
    }

    /// The server that sentinels know as the master under a name. `login` says how to log in to it.
    ///
    /// # Errors
    /// If a URL can't be used.
    pub fn named(
        sentinels: Vec<Url>,
        service: &str,
        login: &Url,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let info = login.clone().into_connection_info()?;
        let mut node =
            SentinelNodeConnectionInfo::default().set_redis_connection_info(info.redis_settings().clone());
        if login.scheme() == "rediss" {
            node = node.set_tls_mode(TlsMode::Secure);
        }
        let client = SentinelClient::build(sentinels, service, Some(node), SentinelServerType::Master)?;
        Ok(Self::new(Source::Sentinels(client), timeout))
    }

    fn new(source: Source, timeout: Duration) -> Self {
        let finder = Finder { source, number: 0, connection: None, failed: None };
        Self { finder: Mutex::new(finder), timeout, left: AtomicU64::new(0) }
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
        let found = finder.source.connect(self.timeout).await;
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

impl Source {
    async fn connect(&mut self, timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        match self {
            Self::Address(client) => client.get_multiplexed_async_connection_with_config(&limits).await,
            Self::Sentinels(client) => client.get_async_connection_with_config(&limits).await,
        }
    }
}

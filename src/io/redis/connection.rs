//! The connection to Redis, and what its errors mean for the caller.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use prometheus::{HistogramTimer, HistogramVec};
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisFuture, Script, ScriptInvocation,
    ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
};
use tracing::{info, warn};

use super::{master::Master, tls};
use crate::config::{RedisServers, RedisSettings};

/// Trouble of one kind is told again after so long.
const TOLD_FOR: Duration = Duration::from_secs(10);
/// Trouble is over when nothing failed for so long.
const CALM: Duration = Duration::from_secs(1);
/// Pause before servers that can't be reached at the start are tried again.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Why an operation on Redis has no result.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Redis is away, loading, full, or slow; it may have carried the operation out. Try again.
    #[error("redis can't serve now: {0}")]
    Busy(RedisError),
    /// Somebody else has claimed the state.
    #[error("the state was claimed by another process")]
    Fenced,
    /// The state is gone, or older than what this process has seen.
    #[error("the state in redis is gone or went backwards")]
    Lost,
    /// Redis refuses what it should not, or answers what it can't.
    #[error("redis refused the operation: {0}")]
    Bug(RedisError),
    /// What is stored can't be read.
    #[error("the state in redis is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// True if it passes by itself, so that the same call is made again.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy(_))
    }

    /// True if Redis has no memory for it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Busy(error) if error.code() == Some("OOM"))
    }
}

impl From<RedisError> for StoreError {
    fn from(error: RedisError) -> Self {
        match (error.code(), error.kind()) {
            (Some("FENCED"), _) => Self::Fenced,
            (Some("LOST"), _) => Self::Lost,
            (Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS" | "UNKILLABLE"), _) => Self::Busy(error),
            (_, ErrorKind::Server(kind)) => match kind {
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::ReadOnly
                // It was loaded at another server than the one that runs it: there was a failover in between.
                | ServerErrorKind::NoScript => Self::Busy(error),
                _ => Self::Bug(error),
            },
            _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                Self::Busy(error)
            }
            (_, ErrorKind::UnexpectedReturnType) => Self::Damaged(error.to_string()),
            // Also an answer that breaks off in the middle, as the server died.
            _ => Self::Busy(error),
        }
    }
}

/// Redis, however many servers it has. Heals by itself and is shared by all tasks of a process.
///
/// All keys of a script must be in one slot. A script may be carried out twice, also much later: after a time-out, or
/// where a Cluster redirects it.
#[derive(Clone)]
pub struct Redis {
    servers: Servers,
    trouble: Arc<Mutex<Trouble>>,
    /// Takes in how long operations last, by name.
    durations: Arc<OnceLock<HistogramVec>>,
}

/// What was told of Redis last: it may concern each of many calls.
#[derive(Default)]
struct Trouble {
    /// When, and of what kind.
    told: Option<(Instant, (ErrorKind, Option<String>))>,
    /// The last failure.
    at: Option<Instant>,
}

impl Trouble {
    fn failed(&mut self, error: &RedisError) {
        let now = Instant::now();
        self.at = Some(now);
        let kind = (error.kind(), error.code().map(str::to_owned));
        if !self.told.as_ref().is_some_and(|(at, told)| *told == kind && now.duration_since(*at) < TOLD_FOR) {
            self.told = Some((now, kind));
            warn!(%error, "redis can't serve; what needs it waits");
        }
    }

    fn served(&mut self) {
        if self.at.is_some_and(|at| at.elapsed() >= CALM) {
            (self.at, self.told) = (None, None);
            info!("redis serves again");
        }
    }
}

/// Why there is no connection yet. A server that expects TLS closes one of plain text without a word.
fn told(error: &RedisError, servers: &RedisServers) -> String {
    let urls = match servers {
        RedisServers::Single(url) => std::slice::from_ref(url),
        RedisServers::Sentinel { sentinels: urls, .. } | RedisServers::Cluster(urls) => urls,
    };
    if error.is_io_error() && !error.is_connection_refusal() && !urls.iter().any(tls::is_used) {
        format!("{error}; if the server expects TLS, BUNDLEHOOK_REDIS_URL must begin with `rediss`")
    } else {
        error.to_string()
    }
}

#[derive(Clone)]
enum Servers {
    Master(Arc<Master>),
    Cluster(ClusterConnection),
}

impl Redis {
    /// Connects; waits for the first connection as long as it takes.
    ///
    /// # Errors
    /// If the settings can't be used.
    pub async fn connect(settings: &RedisSettings) -> Result<Self, RedisError> {
        Self::keep_trying(settings, |cause| warn!(error = %cause, "redis can't be reached yet")).await
    }

    /// Connects within a time, or says why the last try failed: unlike a role, a tool does not wait for ever.
    ///
    /// # Errors
    /// The cause, or that there was no answer.
    pub async fn reach(settings: &RedisSettings, patience: Duration) -> Result<Self, String> {
        let mut cause = format!("no answer within {}", humantime::format_duration(patience));
        let trying = Self::keep_trying(settings, |failure| cause = failure);
        match tokio::time::timeout(patience, trying).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(cause),
        }
    }

    /// Connections of their own to the same servers, for tasks of another runtime. They are told of and measured together
    /// with these.
    ///
    /// # Errors
    /// As [`Redis::connect`].
    pub async fn another(&self, settings: &RedisSettings) -> Result<Self, RedisError> {
        let Self { servers, .. } = Self::connect(settings).await?;
        Ok(Self { servers, ..self.clone() })
    }

    async fn keep_trying(
        settings: &RedisSettings,
        mut failed: impl FnMut(String),
    ) -> Result<Self, RedisError> {
        loop {
            match Servers::connect(settings).await {
                Ok(servers) => {
                    return Ok(Self { servers, trouble: Arc::default(), durations: Arc::default() });
                }
                Err(error) if error.kind() == ErrorKind::InvalidClientConfig => return Err(error),
                Err(error) => failed(told(&error, settings.servers().first())),
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// From now on every operation is measured, by its name; also those of clones.
    pub fn measure(&self, durations: HistogramVec) {
        // Whoever was first takes them in.
        let _ = self.durations.set(durations);
    }

    /// Runs a script, loading it first where the server does not know it. `operation` names it in metrics.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn invoke<T: FromRedisValue>(
        &self,
        operation: &str,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        let _timer = self.timer(operation);
        let mut connection = self.connection().await?;
        let answer = invocation.invoke_async(&mut connection).await;
        self.judge(&connection, answer)
    }

    /// Runs a call of a script that is written out (`EVALSHA`), loading the script first where the server does not know
    /// it. `operation` names it in metrics.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn evaluate<T: FromRedisValue>(
        &self,
        operation: &str,
        script: &Script,
        call: &Cmd,
    ) -> Result<T, StoreError> {
        let _timer = self.timer(operation);
        let mut connection = self.connection().await?;
        let mut answer = call.query_async(&mut connection).await;
        if matches!(&answer, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            answer = match script.load_async(&mut connection).await {
                Ok(_) => call.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        self.judge(&connection, answer)
    }

    /// Runs a pipeline, whose keys are in one slot. `operation` names it in metrics.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        operation: &str,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        let _timer = self.timer(operation);
        let mut connection = self.connection().await?;
        let answer = pipeline.query_async(&mut connection).await;
        self.judge(&connection, answer)
    }

    /// Runs a command. `operation` names it in metrics.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn command<T: FromRedisValue>(&self, operation: &str, command: &Cmd) -> Result<T, StoreError> {
        let _timer = self.timer(operation);
        let mut connection = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        self.judge(&connection, answer)
    }

    /// Measures from now until it is dropped.
    fn timer(&self, operation: &str) -> Option<HistogramTimer> {
        Some(self.durations.get()?.with_label_values(&[operation]).start_timer())
    }

    async fn connection(&self) -> Result<Connection, StoreError> {
        match &self.servers {
            Servers::Master(master) => {
                let found = master.connection().await;
                let (number, connection) = found.map_err(|error| self.tell(StoreError::Busy(error)))?;
                Ok(Connection::Master(number, connection))
            }
            Servers::Cluster(connection) => Ok(Connection::Cluster(connection.clone())),
        }
    }

    /// Sees to it that the next call does not meet what this one met.
    fn judge<T: FromRedisValue>(
        &self,
        used: &Connection,
        answer: Result<Value, RedisError>,
    ) -> Result<T, StoreError> {
        match answer {
            Ok(answer) => {
                self.trouble.lock().unwrap_or_else(PoisonError::into_inner).served();
                read(answer)
            }
            Err(error) => {
                if let (Servers::Master(master), Connection::Master(number, _)) = (&self.servers, used)
                    && is_another_server_wanted(&error)
                {
                    master.leave(*number);
                }
                Err(self.tell(error.into()))
            }
        }
    }

    fn tell(&self, error: StoreError) -> StoreError {
        if let StoreError::Busy(error) = &error {
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).failed(error);
        }
        error
    }
}

/// What a whole answer means.
fn read<T: FromRedisValue>(answer: Value) -> Result<T, StoreError> {
    redis::from_redis_value(answer).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// True if the connection is gone, or silent, or leads to what is no master: behind the same address, or at another one
/// by now, there may be a server that serves.
fn is_another_server_wanted(error: &RedisError) -> bool {
    let demoted = [ServerErrorKind::ReadOnly, ServerErrorKind::MasterDown].map(ErrorKind::Server);
    error.is_io_error() || error.is_unrecoverable_error() || demoted.contains(&error.kind())
}

impl Servers {
    async fn connect(settings: &RedisSettings) -> Result<Self, RedisError> {
        let (servers, timeout, tls) = (settings.servers(), settings.timeout, &settings.tls);
        if let RedisServers::Cluster(nodes) = servers.first() {
            let mut builder = ClusterClientBuilder::new(nodes.clone())
                .connection_timeout(timeout)
                .response_timeout(timeout);
            if nodes.iter().any(tls::is_used) {
                builder = builder.certs(tls::certificates(tls)?);
            }
            return builder.build()?.get_async_connection().await.map(Self::Cluster);
        }
        let master = Master::new(&servers, timeout, tls)?;
        master.connection().await?;
        Ok(Self::Master(Arc::new(master)))
    }
}

/// What one call uses.
enum Connection {
    /// With its number.
    Master(u64, MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Master(_, connection) => connection.req_packed_command(command),
            Self::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Master(_, connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Master(_, connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_breaks_off_is_no_damage_but_one_of_another_type_is() {
        let broken_off = redis::parse_redis_value(b"*2\r\n:1\r\n").expect_err("half of it is missing");
        assert!(StoreError::from(broken_off).is_busy());
        assert!(matches!(read::<i64>(Value::Array(Vec::new())), Err(StoreError::Damaged(_))));
        assert_eq!(read::<i64>(Value::Int(1)).ok(), Some(1));
    }
}

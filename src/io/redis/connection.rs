//! The connection to Redis, and what its errors mean for the caller.

use redis::{
    ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tracing::warn;

use crate::config::RedisSettings;

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
                | ServerErrorKind::ReadOnly => Self::Busy(error),
                _ => Self::Bug(error),
            },
            _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
                Self::Busy(error)
            }
            (_, ErrorKind::Parse | ErrorKind::UnexpectedReturnType) => Self::Damaged(error.to_string()),
            _ => Self::Busy(error),
        }
    }
}

/// A connection that heals by itself and is shared by all tasks of a process.
#[derive(Clone)]
pub struct Redis {
    connection: ConnectionManager,
}

impl Redis {
    /// Connects; waits for the first connection as long as it takes.
    ///
    /// # Errors
    /// If the URL can't be used.
    pub async fn connect(settings: &RedisSettings) -> Result<Self, RedisError> {
        let client = redis::Client::open(settings.url.as_str())?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(settings.timeout))
            .set_connection_timeout(Some(settings.timeout))
            .set_max_delay(std::time::Duration::from_secs(2));
        loop {
            match client.get_connection_manager_with_config(config.clone()).await {
                Ok(connection) => return Ok(Self { connection }),
                Err(error) if error.kind() == ErrorKind::InvalidClientConfig => return Err(error),
                Err(error) => {
                    warn!(%error, "redis can't be reached yet");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
            }
        }
    }

    /// Runs a script, loading it first where the server does not know it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn invoke<T: FromRedisValue>(
        &self,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        Ok(invocation.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Runs a pipeline.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, StoreError> {
        Ok(pipeline.query_async(&mut self.connection.clone()).await?)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        Ok(command.query_async(&mut self.connection.clone()).await?)
    }
}

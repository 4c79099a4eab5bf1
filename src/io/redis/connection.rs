//! The connection to Redis, and what its errors mean for the caller.

use redis::{
    ErrorKind, FromRedisValue, RedisError, ScriptInvocation, ServerErrorKind, Value,
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
            // An answer that breaks off in the middle, as the server died.
            (_, ErrorKind::Parse) => Self::Busy(error),
            (_, ErrorKind::UnexpectedReturnType) => Self::Damaged(error.to_string()),
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
        read(invocation.invoke_async(&mut self.connection.clone()).await?)
    }

    /// Runs a pipeline.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &redis::Pipeline) -> Result<T, StoreError> {
        read(pipeline.query_async(&mut self.connection.clone()).await?)
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        read(command.query_async(&mut self.connection.clone()).await?)
    }
}

/// What a whole answer means.
fn read<T: FromRedisValue>(answer: Value) -> Result<T, StoreError> {
    redis::from_redis_value(answer).map_err(|error| StoreError::Damaged(error.to_string()))
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

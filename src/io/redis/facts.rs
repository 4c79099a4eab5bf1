//! What a Redis server says of itself.

use redis::InfoDict;

use super::{Redis, StoreError};
use crate::model::time::Millis;

/// Facts about a server that matter to us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerFacts {
    /// Its version, such as `7.0.15`.
    pub version: String,
    /// `master` or `slave`.
    pub role: String,
    /// What it does when its memory is full.
    pub eviction: String,
    /// Bytes in use.
    pub used_memory: u64,
    /// Most bytes that it may use; 0 is no limit.
    pub max_memory: u64,
    /// It writes an append-only file.
    pub appends: bool,
    /// When it writes snapshots; none if it does not tell.
    pub snapshots: Option<String>,
    /// Its last write to the disk failed.
    pub write_failed: bool,
    /// What its clock says.
    pub now: Millis,
}

/// Asks the server.
///
/// # Errors
/// [`StoreError`]
pub async fn facts(redis: &Redis) -> Result<ServerFacts, StoreError> {
    let info: InfoDict = redis.command("server.info", &redis::cmd("INFO")).await?;
    let text = |name: &str| info.get::<String>(name).unwrap_or_default();
    let number = |name: &str| text(name).parse().unwrap_or_default();
    // Where somebody else runs the server, it may not tell its configuration.
    let mut saves = redis::cmd("CONFIG");
    saves.arg("GET").arg("save");
    let saves: Result<Vec<String>, StoreError> = redis.command("server.config", &saves).await;
    let failed = |name: &str| info.get::<String>(name).is_some_and(|status| status != "ok");
    // Last, so that it is not old when it is compared.
    let (seconds, micros): (i64, i64) = redis.command("server.time", &redis::cmd("TIME")).await?;
    Ok(ServerFacts {
        version: text("redis_version"),
        role: text("role"),
        eviction: text("maxmemory_policy"),
        used_memory: number("used_memory"),
        max_memory: number("maxmemory"),
        appends: text("aof_enabled") == "1",
        snapshots: saves.ok().and_then(|answer| answer.into_iter().nth(1)),
        write_failed: failed("rdb_last_bgsave_status") || failed("aof_last_write_status"),
        now: Millis(seconds * 1_000 + micros / 1_000),
    })
}

//! What is read only as a process starts: once such a file has changed, the process stops as it does on SIGTERM, and begins
//! anew in the same place.

use std::{
    future, mem,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use prometheus::IntGauge;
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::Roles;
use crate::{
    config::{self, ReadOnce, RedisServers},
    io::{Redis, http, kafka::admin::Admin, sealing_keys},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Why files can't be used is told again after so long.
const TOLD_FOR: Duration = Duration::from_mins(10);

/// Looks at the files, and stops the process once they have changed and the roles could begin with what they hold now.
pub(super) struct Reload {
    /// As they were when the process started.
    pub(super) began: ReadOnce,
    /// The longest wait once that is clear.
    pub(super) within: Duration,
    /// 1 while they hold something else.
    pub(super) pending: IntGauge,
    /// Stops the roles.
    pub(super) stop: CancellationToken,
}

impl Reload {
    /// Returns once it has stopped the roles, or never: if there is nothing to look at, too.
    pub(super) async fn watch(self) {
        if self.within.is_zero() || self.began.is_empty() {
            return future::pending().await;
        }
        let mut last = self.began.clone();
        let mut told: Option<(ReadOnce, Instant)> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(&self.began).await;
            self.pending.set(i64::from(now != self.began));
            // Several files may be changed one after the other: they count once all stand still.
            let stands_still = mem::replace(&mut last, now.clone()) == now;
            if now == self.began || !stands_still {
                continue;
            }
            let files = self.began.differing(&now);
            match Box::pin(try_out()).await {
                Ok(()) => {
                    let wait = rand::rng().random_range(Duration::ZERO..=self.within);
                    info!(
                        files,
                        wait_ms = wait.as_millis() as u64,
                        "files have changed: beginning anew soon"
                    );
                    tokio::time::sleep(wait).await;
                    if look(&self.began).await == now {
                        info!("stopping to begin anew: what is in flight is finished first");
                        return self.stop.cancel();
                    }
                }
                Err(problem) => {
                    let known = |(of, at): &(ReadOnce, Instant)| *of == now && at.elapsed() < TOLD_FOR;
                    if !told.as_ref().is_some_and(known) {
                        let problem = format!("{problem:#}");
                        error!(files, problem, "changed files can't be used: going on with what they held");
                        told = Some((now, Instant::now()));
                    }
                }
            }
        }
    }
}

async fn look(files: &ReadOnce) -> ReadOnce {
    let files = files.clone();
    let unread = files.clone();
    tokio::task::spawn_blocking(move || files.now()).await.unwrap_or(unread)
}

/// Reads all settings of this process anew, and sees whether its roles could begin with them.
///
/// # Errors
/// What could not be used, without what it holds.
async fn try_out() -> anyhow::Result<()> {
    let cli = config::parse(std::env::args_os()).map_err(|exit| {
        let first = exit.text.lines().next().unwrap_or_default().to_owned();
        anyhow::Error::msg(first.trim_start_matches("error: ").to_owned())
    })?;
    let roles = Roles::of(cli.command).context("the command line names no role")?;
    roles.try_out().await
}

impl Roles {
    /// The files that these roles read only as they start.
    pub(super) fn read_once(&self) -> ReadOnce {
        let mut files = ReadOnce::default();
        self.kafka.add_read_once(&mut files);
        self.redis.add_read_once(&mut files);
        if let Some(delivery) = &self.deliver {
            delivery.add_read_once(&mut files);
        }
        if let Some(keys) = self.serve.as_ref().and_then(|serve| serve.sealing_keys.as_ref()) {
            files.add(keys);
        }
        files
    }

    /// Makes everything of those files that the roles would, and asks Kafka, and Redis where it is a Cluster.
    async fn try_out(&self) -> anyhow::Result<()> {
        let delivery = self.deliver.as_ref();
        http::check_ca_bundle(delivery.and_then(|delivery| delivery.ca_bundle.as_deref()))?;
        let keys = [
            delivery.and_then(|delivery| delivery.sealing_keys.as_deref()),
            self.serve.as_ref().and_then(|serve| serve.sealing_keys.as_deref()),
        ];
        keys.into_iter().flatten().try_for_each(|path| sealing_keys::read(path).map(drop))?;
        Admin::new(&self.kafka)?.cluster().await?;
        if matches!(self.redis.servers().first(), RedisServers::Cluster(_)) {
            let reached = Redis::reach(&self.redis, self.redis.timeout).await;
            reached.map_err(|problem| anyhow::anyhow!("redis can't be reached: {problem}"))?;
        }
        Ok(())
    }
}

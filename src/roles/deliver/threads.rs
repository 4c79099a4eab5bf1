//! The threads that lanes run on, apart from the reading, so that no endpoint can delay it. A lane stays on one of
//! them, with the connections that it uses: from one step of an attempt to the next no other thread needs to be woken.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    thread::available_parallelism,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    config::RedisSettings,
    io::{
        Redis,
        http::{HttpClient, HttpOptions},
        redis::{health::HealthStore, turns::Turns},
    },
    model::ids::WebhookId,
    roles::process::Process,
};

/// Most threads: each has a connection to a Redis that others use, too, and a node may have many cores.
const MOST: usize = 8;

/// Threads that each have a runtime. They end when this is dropped.
pub struct Threads {
    runtimes: Vec<Handle>,
    _stop: DropGuard,
}

impl Threads {
    /// One for every core, but at least two: an endpoint that keeps a thread busy, by floods of what is to be read and
    /// thrown away, must leave the others one.
    ///
    /// # Errors
    /// If the system has no thread, or no sockets, to give.
    pub fn start(process: &Process) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let count = available_parallelism().map_or(2, |cores| cores.get().clamp(2, MOST));
        let start = |number: usize| {
            let (runtime, stopped) = (Builder::new_current_thread().enable_all().build()?, stop.clone());
            let handle = runtime.handle().clone();
            let named = std::thread::Builder::new().name(format!("lanes-{number}"));
            let watch = process.watch_for_panic("thread of lanes");
            named.spawn(move || {
                let _watch = watch;
                runtime.block_on(stopped.cancelled());
            })?;
            Ok(handle)
        };
        let runtimes = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { runtimes, _stop: stop.drop_guard() })
    }

    /// Their runtimes.
    #[must_use]
    pub fn runtimes(&self) -> &[Handle] {
        &self.runtimes
    }
}

/// What lanes of a thread use, and tasks of other threads do not.
pub(super) struct LaneThread {
    pub runtime: Handle,
    pub client: HttpClient,
    pub health: HealthStore,
    pub turns: Turns,
}

impl LaneThread {
    /// Connects to Redis, and gets ready to send.
    pub async fn start(
        runtime: &Handle,
        redis: &Redis,
        settings: &RedisSettings,
        prefix: &str,
        options: HttpOptions,
    ) -> anyhow::Result<Self> {
        let (redis, settings) = (redis.clone(), settings.clone());
        let redis = runtime.spawn(async move { redis.another(&settings).await }).await??;
        Ok(Self {
            runtime: runtime.clone(),
            client: HttpClient::new(options)?,
            health: HealthStore::new(redis.clone(), prefix),
            turns: Turns::new(redis, prefix),
        })
    }
}

/// The number of the thread, of so many, that a webhook's lane runs on.
pub(super) fn thread_of(webhook: &WebhookId, threads: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    webhook.hash(&mut hasher);
    (hasher.finish() % threads as u64) as usize
}

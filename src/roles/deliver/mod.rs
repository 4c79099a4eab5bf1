//! The role `deliver`: `bundles` to the customers' URLs.

mod attempt;
mod bodies;
mod chats;
mod circuits;
mod drain;
mod flying;
mod keeping;
mod lane;
mod memory;
mod parker;
mod parking;
mod partition;
mod queued;
mod recorded;
mod restore;
mod settlements;
mod slots;
mod sources;
mod testing;
mod threads;
mod vetting;
mod views;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use self::threads::Threads;
use self::{
    lane::{Lane, Message},
    memory::Memory,
    parking::Parking,
    queued::Queued,
    testing::Tests,
    threads::{LaneThread, thread_of},
    views::Views,
};
use super::{backlog::Backlogs, checks, process::Process};
use crate::{
    config::{DeliverySettings, RedisSettings, StartFrom},
    io::{
        http::{HttpOptions, Proxy},
        kafka::{
            health_log::HealthLog,
            intake::{Intake, IntakeOptions},
        },
        sealing_keys,
    },
    model::{ids::WebhookId, parked::Reason},
    wire::sealing::Keys,
};

/// What the workers of all partitions and the lanes of all webhooks share.
struct Deliver {
    process: Process,
    backlogs: Backlogs,
    settings: DeliverySettings,
    /// Where to start without a committed offset, if the operator says.
    from: Option<StartFrom>,
    /// Open what is sealed in settings.
    keys: Keys,
    health_log: HealthLog,
    views: Views,
    /// Lanes run apart, so that no endpoint can delay the reading.
    threads: Vec<LaneThread>,
    /// Room for bundles that wait.
    memory: Memory,
    tests: Tests,
    /// What they are told, by webhook.
    lanes: Mutex<HashMap<WebhookId, mpsc::UnboundedSender<Message>>>,
}

/// Starts the role. It runs until the intake is stopped. Lanes run on the `threads`.
///
/// # Errors
/// If Kafka, Redis or TLS refuse what the role begins with.
pub async fn start(
    process: &Process,
    settings: DeliverySettings,
    from: Option<StartFrom>,
    threads: &Threads,
    redis: &RedisSettings,
    stop: &CancellationToken,
) -> anyhow::Result<Intake> {
    if !process.embedded {
        let topics = &process.topics;
        let own = [&*topics.bundles, &topics.waiting_deliveries, &topics.delivery_attempts];
        checks::topics(process, &own).await?;
    }
    let health_log = HealthLog::start(&process.kafka, &process.topics, process.embedded, stop.clone())?;
    process.watch_following(health_log.following(), stop);
    let ready = health_log.clone();
    process.probes.require(move || ready.ready());
    let intake = IntakeOptions {
        topic: process.topics.bundles.clone(),
        group: process.topics.group("deliver"),
        drain: settings.drain(),
        embedded: process.embedded,
    };
    let prefix = process.topics.prefix();
    let keys = settings.sealing_keys.as_deref().map(sealing_keys::read).transpose()?;
    let options = HttpOptions {
        policy: settings.addresses(),
        deadline: settings.request_timeout,
        dns_servers: settings.dns_servers.clone(),
        ca_bundle: settings.ca_bundle.clone(),
        proxy: settings.egress_proxy().as_ref().map(Proxy::from),
    };
    let mut lane_threads = Vec::new();
    for runtime in threads.runtimes() {
        let thread = LaneThread::start(runtime, &process.redis, redis, prefix, options.clone());
        lane_threads.push(thread.await?);
    }
    let deliver = Arc::new(Deliver {
        keys: keys.unwrap_or_default(),
        threads: lane_threads,
        health_log,
        views: Views::default(),
        memory: Memory::new(settings.waiting_memory),
        tests: Tests::default(),
        lanes: Mutex::default(),
        process: process.clone(),
        backlogs: Backlogs::start(process, "deliver", &process.topics.bundles)?,
        settings,
        from,
    });
    tokio::spawn(keeping::keep(process.clone()));
    tokio::spawn(circuits::count(process.clone(), deliver.health_log.clone()));
    let spawn = Box::new(move |feed| {
        let deliver = deliver.clone();
        Box::pin(async move { partition::work(deliver, feed).await }) as _
    });
    Ok(Intake::start(&process.kafka, &intake, spawn)?)
}

impl Deliver {
    /// What the lane of a webhook runs on.
    fn thread(&self, webhook: &WebhookId) -> &LaneThread {
        &self.threads[thread_of(webhook, self.threads.len())]
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<WebhookId, mpsc::UnboundedSender<Message>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a delivery to the lane of its webhook.
    fn offer(self: &Arc<Self>, queued: Queued) {
        let webhook = queued.delivery.head.webhook_id.clone();
        self.send(&webhook, Message::Offered(Box::new(queued)));
    }

    /// Why a webhook has more than may wait in memory.
    fn why_full(&self, webhook: &WebhookId) -> Reason {
        let current = self.process.tail.directory().current(webhook);
        let limited = current.is_some_and(|current| current.webhook.max_per_second.is_some());
        if limited { Reason::Rate } else { Reason::LaneFull }
    }

    /// Has all deliveries of a claim parked that a lane has in memory or in flight.
    fn unload(self: &Arc<Self>, webhook: &WebhookId, parking: &Parking) {
        self.send(webhook, Message::Unload(parking.clone()));
    }

    /// Tells the lane of a webhook that it has deliveries parked.
    fn tell(self: &Arc<Self>, webhook: &WebhookId, parking: &Parking) {
        self.send(webhook, Message::Parked(parking.clone()));
    }

    /// Sends to the lane of a webhook, which begins if there is none.
    fn send(self: &Arc<Self>, webhook: &WebhookId, message: Message) {
        let mut lanes = self.lanes();
        let message = match lanes.get(webhook) {
            Some(lane) => match lane.send(message) {
                Ok(()) => return,
                // Its task died; the panic was reported.
                Err(returned) => returned.0,
            },
            None => message,
        };
        let (sender, inbox) = mpsc::unbounded_channel();
        // Just created: its receiver is alive.
        let _ = sender.send(message);
        lanes.insert(webhook.clone(), sender);
        self.thread(webhook).runtime.spawn(Lane::new(self.clone(), webhook.clone(), inbox).run());
    }

    /// Ends a lane that has nothing to do, unless something was offered to it meanwhile.
    fn retire(&self, webhook: &WebhookId, inbox: &mpsc::UnboundedReceiver<Message>) -> bool {
        let mut lanes = self.lanes();
        let idle = inbox.is_empty();
        if idle {
            lanes.remove(webhook);
        }
        idle
    }
}

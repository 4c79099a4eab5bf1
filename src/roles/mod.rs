//! Composition: each role connects the steps of `flow` to Kafka, Redis and HTTP.

pub mod aggregate;
mod backlog;
mod checks;
pub mod deliver;
pub mod dev;
pub mod notify;
pub mod process;
pub mod rebuild;
mod reflecting;
mod serve;

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, bail};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{process::Process, serve::Serve};
use crate::{
    config::{
        AggregateCommand, AllCommand, DeliverCommand, DeliverySettings, Given, KafkaSettings, MailSettings,
        NotifyCommand, OpsSettings, RedisSettings, SealedSettings, ServeCommand, SmtpUrl, StartFrom,
        WindowSettings,
    },
    io::{kafka::intake::Intake, smtp::outbox::Outbox},
    ops::{metrics::Runtime, runtime_delay},
};

/// How long the last acknowledgements may take when the process stops.
const FLUSH: Duration = Duration::from_secs(10);
/// Threads for requests.
const REQUEST_THREADS: usize = 2;

/// The roles of a process and what they need.
pub struct Roles {
    pub kafka: KafkaSettings,
    pub redis: RedisSettings,
    pub ops: OpsSettings,
    /// The role `aggregate`, if it runs here.
    pub aggregate: Option<WindowSettings>,
    /// The role `deliver`, if it runs here.
    pub deliver: Option<DeliverySettings>,
    /// The role `notify`, if it runs here, and the server that it sends through; none: e-mails are only shown.
    pub notify: Option<(MailSettings, Option<Given<SmtpUrl>>)>,
    /// The role `serve`, if it runs here.
    pub serve: Option<Serve>,
    /// Where to start without a committed offset, if the operator says.
    pub from: Option<StartFrom>,
    /// Settings with secrets in the clear are refused.
    pub require_sealed: bool,
    /// On the embedded broker.
    pub embedded: bool,
}

impl From<AggregateCommand> for Roles {
    fn from(command: AggregateCommand) -> Self {
        let AggregateCommand { kafka, redis, windows, ops, start } = command;
        Self {
            kafka,
            redis,
            ops,
            aggregate: Some(windows),
            deliver: None,
            notify: None,
            serve: None,
            from: start.from,
            require_sealed: start.sealed.require_sealed,
            embedded: false,
        }
    }
}

impl From<DeliverCommand> for Roles {
    fn from(command: DeliverCommand) -> Self {
        let DeliverCommand { kafka, redis, delivery, ops, start } = command;
        Self {
            kafka,
            redis,
            ops,
            aggregate: None,
            deliver: Some(delivery),
            notify: None,
            serve: None,
            from: start.from,
            require_sealed: start.sealed.require_sealed,
            embedded: false,
        }
    }
}

impl From<NotifyCommand> for Roles {
    fn from(command: NotifyCommand) -> Self {
        let NotifyCommand { kafka, redis, smtp, mail, ops, start } = command;
        Self {
            kafka,
            redis,
            ops,
            aggregate: None,
            deliver: None,
            notify: Some((mail, Some(smtp.server()))),
            serve: None,
            from: start.from,
            require_sealed: start.sealed.require_sealed,
            embedded: false,
        }
    }
}

impl From<ServeCommand> for Roles {
    fn from(command: ServeCommand) -> Self {
        let ServeCommand { kafka, redis, serve, sealing, windows, ops, sealed } = command;
        let rule = windows.rule();
        Self {
            kafka,
            redis,
            ops,
            aggregate: None,
            deliver: None,
            notify: None,
            serve: Some(Serve { settings: serve, sealing_keys: sealing.sealing_keys, rule, secret: None }),
            from: None,
            require_sealed: sealed.require_sealed,
            embedded: false,
        }
    }
}

impl From<AllCommand> for Roles {
    fn from(command: AllCommand) -> Self {
        let AllCommand { kafka, redis, windows, delivery, serve, smtp, mail, ops, start } = command;
        Self {
            kafka,
            redis,
            ops,
            // Without somebody who could sign in there is nothing to serve.
            serve: Serve::if_wanted(serve, &delivery, &windows),
            aggregate: Some(windows),
            deliver: Some(delivery),
            // Without a server e-mails wait for a process that has one.
            notify: smtp.server().map(|server| (mail, Some(server))),
            from: start.from,
            require_sealed: start.sealed.require_sealed,
            embedded: false,
        }
    }
}

impl Roles {
    /// Runs until it is told to stop, then drains.
    ///
    /// # Errors
    /// If the process can't begin, or something went wrong that only a restart or an operator can mend.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        // Ends what serves the roles, after them.
        let end = CancellationToken::new();
        let _ended = end.clone().drop_guard();
        let redis = self.redis;
        let starting =
            Process::start(self.kafka, &redis, &self.ops, self.require_sealed, self.embedded, &end);
        let (process, unusable) = tokio::select! {
            started = starting => started?,
            () = stop.cancelled() => return Ok(()),
        };
        let requests = RequestRuntime::start()?;
        let delays = &process.metrics.runtime_delay;
        tokio::spawn(runtime_delay::measure(delays.of(Runtime::Main).clone()));
        requests.handle().spawn(runtime_delay::measure(delays.of(Runtime::Requests).clone()));
        let (mut intakes, outbox) = (Vec::new(), Outbox::default());
        if let Some(windows) = self.aggregate {
            let intake = tokio::select! {
                intake = aggregate::start(&process, windows, self.from, unusable) => intake?,
                () = stop.cancelled() => return Ok(()),
            };
            intakes.push(("aggregate", intake));
        }
        if let Some(settings) = self.deliver {
            let intake = tokio::select! {
                intake = deliver::start(&process, settings, self.from, requests.handle(), &stop) => intake?,
                () = stop.cancelled() => return Ok(()),
            };
            intakes.push(("deliver", intake));
        }
        if let Some((settings, server)) = self.notify {
            let intake = tokio::select! {
                intake = notify::start(&process, settings, server, &outbox, self.from) => intake?,
                () = stop.cancelled() => return Ok(()),
            };
            intakes.push(("notify", intake));
        }
        if let Some(settings) = self.serve {
            let sealed = SealedSettings { require_sealed: self.require_sealed };
            tokio::select! {
                served = serve::start(&process, &redis, sealed, settings, outbox, &stop, &end) => served?,
                () = stop.cancelled() => return Ok(()),
            }
        }
        for (name, intake) in &intakes {
            process.probes.watch_loop(name, intake.turns.clone());
        }
        info!("running");
        let failure = wait(&process, &intakes, &stop).await;
        for (name, intake) in intakes {
            intake.stop().await.with_context(|| format!("the consumer of {name} can't go on"))?;
        }
        if let Some(reason) = failure {
            bail!(reason);
        }
        process.publisher.flush(FLUSH).await.context("the last records were not acknowledged")?;
        info!("stopped");
        Ok(())
    }
}

/// Waits for the order to stop (none), or for what must end the process.
async fn wait(process: &Process, intakes: &[(&str, Intake)], stop: &CancellationToken) -> Option<String> {
    let mut check = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return None,
            reason = process.failed() => return Some(reason),
            _ = check.tick() => {
                for (name, intake) in intakes {
                    let counter = process.metrics.rebalances.with_label_values(&[name]);
                    counter.inc_by(intake.rebalances.load(Ordering::Relaxed).saturating_sub(counter.get()));
                }
                if let Some((name, _)) = intakes.iter().find(|(_, intake)| !intake.is_running()) {
                    warn!(role = name, "the consumer has ended");
                    return Some(format!("the consumer of {name} has ended"));
                }
            }
        }
    }
}

/// Requests run on threads of their own.
struct RequestRuntime(Option<tokio::runtime::Runtime>);

impl RequestRuntime {
    fn start() -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder
            .worker_threads(REQUEST_THREADS)
            .thread_name("requests")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.0.as_ref().map_or_else(tokio::runtime::Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for RequestRuntime {
    /// Dropping a runtime would block, which is not allowed here.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

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
mod reload;
mod serve;

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, bail};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{process::Process, reload::Reload, serve::Serve};
use crate::{
    config::{
        AggregateCommand, AllCommand, Command, DeliverCommand, DeliverySettings, Given, KafkaSettings,
        MailSettings, NotifyCommand, OpsSettings, ReadOnce, RedisSettings, SealedSettings, ServeCommand,
        SmtpUrl, StartFrom, WindowSettings,
    },
    io::{kafka::intake::Intake, smtp::outbox::Outbox},
    ops::{
        anew,
        metrics::{Metrics, Runtime},
        runtime_delay,
    },
};

/// How long the last acknowledgements may take when the process stops.
const FLUSH: Duration = Duration::from_secs(10);
/// How long requests to the console that are being answered may take when the process stops.
const ANSWERS: Duration = Duration::from_secs(15);

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
    /// The roles of a command; none if it is a tool, or `dev`, which has no settings of its own for Kafka and Redis.
    fn of(command: Command) -> Option<Self> {
        Some(match command {
            Command::Aggregate(command) => command.into(),
            Command::Deliver(command) => command.into(),
            Command::Notify(command) => command.into(),
            Command::Serve(command) => (*command).into(),
            Command::All(command) => (*command).into(),
            _ => return None,
        })
    }

    /// Runs until it is told to stop, then drains. Where files that are read only at the start have changed it drains, too,
    /// and the process begins anew.
    ///
    /// # Errors
    /// If the process can't begin, or something went wrong that only a restart or an operator can mend.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (metrics, told) = (Metrics::start()?, stop.child_token());
        let began = if self.embedded { ReadOnce::default() } else { self.read_once() };
        let reload = Reload {
            began,
            within: self.ops.reload_within,
            pending: metrics.reload_pending.clone(),
            stop: told.clone(),
        };
        let mut work = Box::pin(self.work(metrics, told));
        // Both in one task: if looking at the files panics, the process does not go on without it.
        tokio::select! {
            ended = &mut work => ended?,
            () = reload.watch() => work.await?,
        }
        // Who is told to stop while it stops to begin anew ends.
        if stop.is_cancelled() {
            return Ok(());
        }
        Err(anew::begin()).context("the process can't begin anew")
    }

    async fn work(self, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
        // Ends what serves the roles, after them.
        let end = CancellationToken::new();
        let _ended = end.clone().drop_guard();
        let redis = self.redis;
        let starting =
            Process::start(metrics, self.kafka, &redis, &self.ops, self.require_sealed, self.embedded, &end);
        let (process, unusable) = tokio::select! {
            started = starting => started?,
            () = stop.cancelled() => return Ok(()),
        };
        let delays = &process.metrics.runtime_delay;
        tokio::spawn(runtime_delay::measure(delays.of(Runtime::Main).clone()));
        // They outlive the intake.
        let threads;
        let (mut intakes, mut serving, outbox) = (Vec::new(), None, Outbox::default());
        if let Some(windows) = self.aggregate {
            let intake = tokio::select! {
                intake = aggregate::start(&process, windows, self.from, unusable) => intake?,
                () = stop.cancelled() => return Ok(()),
            };
            intakes.push(("aggregate", intake));
        }
        if let Some(settings) = self.deliver {
            threads = deliver::Threads::start(&process)?;
            for runtime in threads.runtimes() {
                runtime.spawn(runtime_delay::measure(delays.of(Runtime::Requests).clone()));
            }
            let intake = tokio::select! {
                intake = deliver::start(&process, settings, self.from, &threads, &redis, &stop) => intake?,
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
                started = serve::start(&process, &redis, sealed, settings, outbox, &stop, &end) => serving = Some(started?),
                () = stop.cancelled() => return Ok(()),
            }
        }
        for (name, intake) in &intakes {
            process.probes.watch_loop(name, intake.turns.clone());
        }
        info!("running");
        let failure = wait(&process, &intakes, &stop).await;
        let answered_by = Instant::now() + ANSWERS;
        for (name, intake) in intakes {
            intake.stop().await.with_context(|| format!("the consumer of {name} can't go on"))?;
        }
        if let Some(reason) = failure {
            bail!(reason);
        }
        if let Some(serving) = serving
            && tokio::time::timeout_at(answered_by, serving).await.is_err()
        {
            warn!("requests to the console are given up");
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

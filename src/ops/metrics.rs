//! Every metric, in one place. The doc comment of a field is its help text. No label ever carries a workspace, a
//! chat, a webhook or a URL: labels are bounded.

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Bounds of durations from a fast local answer to a request's deadline, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of delays of windows and backlogs, in seconds.
const LONG_SECONDS: &[f64] =
    &[0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
/// Bounds of counts of messages.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// Makes one kind of metric from its name, help and labels or bounds.
trait Make: Sized {
    type Shape;
    fn make(name: &str, help: &str, shape: Self::Shape) -> prometheus::Result<Self>;
}

macro_rules! make {
    ($kind:ty, $shape:ty, |$opts:ident, $given:ident| $new:expr) => {
        // The formatter puts braces around what the macro takes.
        #[allow(unused_braces)]
        impl Make for $kind {
            type Shape = $shape;
            fn make(name: &str, help: &str, $given: $shape) -> prometheus::Result<Self> {
                let $opts = Opts::new(name, help);
                $new
            }
        }
    };
}

make!(IntCounter, (), |opts, _shape| IntCounter::with_opts(opts));
make!(IntGauge, (), |opts, _shape| IntGauge::with_opts(opts));
make!(Gauge, (), |opts, _shape| Gauge::with_opts(opts));
make!(IntCounterVec, &'static [&'static str], |opts, labels| { IntCounterVec::new(opts, labels) });
make!(IntGaugeVec, &'static [&'static str], |opts, labels| { IntGaugeVec::new(opts, labels) });
make!(Histogram, &'static [f64], |opts, bounds| {
    Histogram::with_opts(HistogramOpts::from(opts).buckets(bounds.to_vec()))
});
make!(HistogramVec, (&'static [&'static str], &'static [f64]), |opts, shape| HistogramVec::new(
    HistogramOpts::from(opts).buckets(shape.1.to_vec()),
    shape.0
));

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal $shape:expr;)+) => {
        /// The metrics of a process, registered.
        #[derive(Clone)]
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        impl Metrics {
            /// Registers every metric.
            ///
            /// # Errors
            /// If a name or label is malformed or stands twice, which a test excludes.
            pub fn new() -> prometheus::Result<Self> {
                let registry = Registry::new();
                $(
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    let $field = <$kind as Make>::make(concat!("bundlehook_", $name), help, $shape)?;
                    registry.register(Box::new($field.clone()))?;
                )+
                Ok(Self { registry, $($field,)+ })
            }
        }
    };
}

metrics! {
    /// Version of the running program, always 1.
    build_info: IntGaugeVec = "build_info" &["version"];
    /// Unix time at which the process started, in seconds.
    start_time: Gauge = "start_time_seconds" ();

    /// Message events read from Kafka.
    events_read: IntCounter = "events_read_total" ();
    /// Message events that count for at least one webhook.
    events_accepted: IntCounter = "events_accepted_total" ();
    /// Message events that do not count, by reason.
    events_skipped: IntCounterVec = "events_skipped_total" &["reason"];
    /// Records that can't be processed, by reason.
    dead_letters: IntCounterVec = "dead_letters_total" &["reason"];
    /// Time from a message's arrival in Kafka to its place in a window or in the topic of bundles.
    apply_delay: Histogram = "apply_delay_seconds" LONG_SECONDS;
    /// Records that are in Kafka but not applied yet, over the partitions of this process.
    lag_records: IntGaugeVec = "lag_records" &["role", "partition"];
    /// Records that are still to be read again until what Redis lost is rebuilt.
    rebuild_remaining: IntGaugeVec = "rebuild_remaining_records" &["role", "partition"];
    /// Records read again to rebuild what Redis lost.
    rebuild_records: IntCounterVec = "rebuild_records_total" &["role"];
    /// Unix time of the last progress of a partition, in seconds.
    last_progress: IntGaugeVec = "last_progress_timestamp_seconds" &["role", "partition"];
    /// Partitions that this process owns.
    partitions_owned: IntGaugeVec = "partitions_owned" &["role"];
    /// Rebalances of the consumer group that concerned this process.
    rebalances: IntCounterVec = "rebalances_total" &["role"];
    /// Claims of partitions, by what became of the state: kept, rebuilt or new.
    claims: IntCounterVec = "claims_total" &["role", "state"];
    /// Offsets committed.
    commits: IntCounterVec = "commits_total" &["role"];
    /// Commits that were not taken, by cause.
    commit_failures: IntCounterVec = "commit_failures_total" &["role", "cause"];
    /// Records that were lost before they were read, as the log began after the committed offset.
    records_lost: IntCounterVec = "records_lost_total" &["role"];

    /// Windows closed, by granularity.
    windows_closed: IntCounterVec = "windows_closed_total" &["granularity"];
    /// Boundaries at which windows of this process are open or closing.
    boundaries_open: IntGaugeVec = "boundaries_open" &["partition"];
    /// Hour boundaries closed, by what decided it: a record or the clock.
    boundaries_closed: IntCounterVec = "boundaries_closed_total" &["by"];
    /// Time from the moment a window could close to the moment its bundles were acknowledged.
    close_lateness: Histogram = "close_lateness_seconds" LONG_SECONDS;
    /// Parts sealed, as their window outgrew the limits.
    parts_sealed: IntCounter = "parts_sealed_total" ();
    /// Bundles published, by granularity.
    bundles_published: IntCounterVec = "bundles_published_total" &["granularity"];
    /// Messages in a published bundle.
    bundle_messages: Histogram = "bundle_messages" COUNTS;
    /// Messages that were dropped for a webhook, by cause.
    messages_dropped: IntCounterVec = "messages_dropped_total" &["cause"];

    /// Duration of operations on Redis, by operation.
    redis_duration: HistogramVec = "redis_operation_duration_seconds" (&["operation"], SECONDS);
    /// Operations on Redis without a result, by operation and cause.
    redis_failures: IntCounterVec = "redis_operation_failures_total" &["operation", "cause"];
    /// Webhooks that exist.
    webhooks: IntGauge = "webhooks" ();

    /// Bundles read from Kafka.
    bundles_read: IntCounter = "bundles_read_total" ();
    /// Bundles that were read before and so are not sent again.
    bundles_repeated: IntCounter = "bundles_repeated_total" ();
    /// Bundles done with, by what became of them.
    bundles_settled: IntCounterVec = "bundles_settled_total" &["result"];
    /// Bundles that wait in memory.
    deliveries_waiting: IntGauge = "deliveries_waiting" ();
    /// Bytes of bundles that wait in memory.
    deliveries_waiting_bytes: IntGauge = "deliveries_waiting_bytes" ();
    /// Bundles that are parked: they wait in the queue of their partition, with nothing in memory.
    deliveries_parked: IntGaugeVec = "deliveries_parked" &["partition"];
    /// Bundles parked, by reason; one that fails again is counted again.
    parked: IntCounterVec = "parked_total" &["reason"];
    /// Parked bundles that an attempt has settled.
    drained: IntCounter = "drained_total" ();
    /// Requests in flight.
    requests_in_flight: IntGauge = "requests_in_flight" ();
    /// Attempts to deliver, by outcome.
    delivery_attempts: IntCounterVec = "delivery_attempts_total" &["outcome"];
    /// Attempts that could not be sent for a reason of this deployment, such as resolvers that do not answer, by outcome.
    attempts_unsent: IntCounterVec = "attempts_unsent_total" &["outcome"];
    /// Duration of attempts to deliver, by outcome.
    attempt_duration: HistogramVec = "delivery_attempt_duration_seconds" (&["outcome"], SECONDS);
    /// Time from the arrival of a bundle's last message in Kafka to the success of its delivery.
    delivery_latency: Histogram = "delivery_latency_seconds" LONG_SECONDS;
    /// Circuits of webhooks that changed, by the new state.
    circuit_changes: IntCounterVec = "circuit_changes_total" &["state"];
    /// Notices published, by kind.
    notices: IntCounterVec = "notices_total" &["kind"];
    /// E-mails, by what became of them: sent, or repeated and so not sent again. Others are dead letters.
    mails: IntCounterVec = "mails_total" &["result"];
    /// Failures to send an e-mail that is tried again.
    mail_failures: IntCounter = "mail_failures_total" ();
}

impl Metrics {
    /// The page that Prometheus reads.
    ///
    /// # Errors
    /// If a metric can't be written as text, which the library excludes.
    pub fn page(&self) -> prometheus::Result<String> {
        let mut page = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut page)?;
        Ok(String::from_utf8_lossy(&page).into_owned())
    }

    /// Metrics of a process that starts now: counters by reason begin at 0, so that their first rise is seen.
    ///
    /// # Errors
    /// As [`Metrics::new`].
    pub fn start() -> prometheus::Result<Self> {
        use crate::{
            model::{delivery::Outcome, event::Skip, parked::Reason},
            wire::PoisonReason,
        };
        let metrics = Self::new()?;
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.start_time.set(crate::io::clock::now().0 as f64 / 1000.0);
        for skip in Skip::ALL {
            metrics.events_skipped.with_label_values(&[skip.as_str()]);
        }
        for reason in PoisonReason::ALL {
            metrics.dead_letters.with_label_values(&[reason.as_str()]);
        }
        for outcome in Outcome::ALL {
            metrics.delivery_attempts.with_label_values(&[outcome.as_str()]);
        }
        for outcome in [Outcome::Dns, Outcome::Connect] {
            metrics.attempts_unsent.with_label_values(&[outcome.as_str()]);
        }
        for reason in Reason::ALL {
            metrics.parked.with_label_values(&[reason.as_str()]);
        }
        for role in ["aggregate", "deliver"] {
            metrics.records_lost.with_label_values(&[role]);
            metrics.rebuild_records.with_label_values(&[role]);
            for cause in ["broker", "fenced", "rebalance"] {
                metrics.commit_failures.with_label_values(&[role, cause]);
            }
        }
        for result in ["sent", "repeated"] {
            metrics.mails.with_label_values(&[result]);
        }
        for operation in ["apply", "claim", "health", "queue", "turn"] {
            metrics.redis_failures.with_label_values(&[operation, "busy"]);
        }
        for result in ["delivered", "rejected", "dropped", "expired", "tested"] {
            metrics.bundles_settled.with_label_values(&[result]);
        }
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_follows_the_conventions() {
        let metrics = Metrics::start().unwrap();
        let page = metrics.page().unwrap();
        for line in page.lines().filter(|line| line.starts_with("# HELP ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(name.starts_with("bundlehook_"), "{name}");
        }
        for line in page.lines().filter(|line| line.starts_with("# TYPE ") && line.ends_with(" counter")) {
            assert!(line.split(' ').nth(2).unwrap().ends_with("_total"), "{line}");
        }
    }
}

//! Every metric, in one place. The doc comment of a field is its help text. No label ever carries a workspace, a
//! chat, a webhook or a URL: labels are bounded.

mod kinds;
mod labels;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

use self::kinds::{Each, Make};
pub use self::labels::{CircuitState, Refusal, Runtime};
use crate::{
    model::{delivery::Outcome, event::Skip, health::NoticeKind, parked::Reason, window::Granularity},
    wire::{self, PoisonReason},
};

/// Bounds of durations from a fast local answer to a request's deadline, in seconds.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of delays of windows and backlogs, in seconds.
const LONG_SECONDS: &[f64] =
    &[0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
/// Bounds of counts of messages.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
/// Bounds of sizes, in bytes.
const BYTES: &[f64] = &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0];

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
                    registry.register($field.collector())?;
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
    /// 1 while files that are read only at the start hold something else than then, else 0.
    reload_pending: IntGauge = "reload_pending" ();

    /// Message events read from Kafka.
    events_read: IntCounter = "events_read_total" ();
    /// Message events that count for at least one webhook.
    events_accepted: IntCounter = "events_accepted_total" ();
    /// Message events that do not count, by reason.
    events_skipped: Each<Skip, IntCounterVec> = "events_skipped_total" &["reason"];
    /// Records that can't be processed, by reason.
    dead_letters: Each<PoisonReason, IntCounterVec> = "dead_letters_total" &["reason"];
    /// Time from a message's arrival in Kafka to its place in a window or in the topic of bundles.
    apply_delay: Histogram = "apply_delay_seconds" LONG_SECONDS;
    /// Records that are in Kafka but not done with yet, over the partitions of this process.
    lag_records: GaugeVec = "lag_records" &["role", "partition"];
    /// Age of the oldest record that is in Kafka but not taken in yet, over the partitions of this process.
    lag_seconds: GaugeVec = "lag_seconds" &["role", "partition"];
    /// Time until Kafka may delete the oldest record that would be read again after a restart.
    retention_left: GaugeVec = "retention_left_seconds" &["role", "partition"];
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
    windows_closed: Each<Granularity, IntCounterVec> = "windows_closed_total" &["granularity"];
    /// Windows that are open or closing, over the partitions of this process.
    windows_open: IntGaugeVec = "windows_open" &["partition"];
    /// Unix time from which the oldest window that is open or closing can close, in seconds. There is none without a window.
    window_due: GaugeVec = "oldest_window_due_timestamp_seconds" &["partition"];
    /// Boundaries at which windows of this process are open or closing.
    boundaries_open: IntGaugeVec = "boundaries_open" &["partition"];
    /// Hour boundaries closed, by what decided it: a record or the clock.
    boundaries_closed: IntCounterVec = "boundaries_closed_total" &["by"];
    /// Time from the moment a window could close to the moment its bundles were acknowledged.
    close_lateness: Histogram = "close_lateness_seconds" LONG_SECONDS;
    /// Parts sealed, as their window outgrew the limits.
    parts_sealed: IntCounter = "parts_sealed_total" ();
    /// Bundles published, by granularity.
    bundles_published: Each<Granularity, IntCounterVec> = "bundles_published_total" &["granularity"];
    /// Messages in a published bundle.
    bundle_messages: Histogram = "bundle_messages" COUNTS;
    /// Size of the body of a published bundle.
    bundle_size: Histogram = "bundle_size_bytes" BYTES;
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
    parked: Each<Reason, IntCounterVec> = "parked_total" &["reason"];
    /// Parked bundles that an attempt has settled.
    drained: IntCounter = "drained_total" ();
    /// Requests in flight.
    requests_in_flight: IntGauge = "requests_in_flight" ();
    /// Attempts to deliver, by outcome.
    delivery_attempts: Each<Outcome, IntCounterVec> = "delivery_attempts_total" &["outcome"];
    /// Attempts that could not be sent for a reason of this deployment, such as resolvers that do not answer, by outcome.
    attempts_unsent: IntCounterVec = "attempts_unsent_total" &["outcome"];
    /// Duration of attempts to deliver, by outcome.
    attempt_duration: Each<Outcome, HistogramVec> = "delivery_attempt_duration_seconds" (&["outcome"], SECONDS);
    /// Time from the arrival of a bundle's last message in Kafka to the success of its delivery, by granularity.
    delivery_latency: Each<Granularity, HistogramVec> = "delivery_latency_seconds" (&["granularity"], LONG_SECONDS);
    /// Circuits of webhooks that changed, by the new state.
    circuit_changes: Each<CircuitState, IntCounterVec> = "circuit_changes_total" &["state"];
    /// Webhooks by the state of their circuit, as the last outcome on record left it.
    circuits: Each<CircuitState, IntGaugeVec> = "circuits" &["state"];
    /// Notices published, by kind.
    notices: IntCounterVec = "notices_total" &["kind"];
    /// Requests for e-mails read from Kafka.
    notifications_read: IntCounter = "notifications_read_total" ();
    /// E-mails, by what became of them: sent, or repeated and so not sent again. Others are dead letters.
    mails: IntCounterVec = "mails_total" &["result"];
    /// Failures to send an e-mail that is tried again.
    mail_failures: IntCounter = "mail_failures_total" ();

    /// Requests to the console and the API that were answered, by route, method and status.
    http_requests: IntCounterVec = "http_requests_total" &["route", "method", "status"];
    /// Time until the answer to a request to the console or the API begins, by route.
    http_duration: HistogramVec = "http_request_duration_seconds" (&["route"], SECONDS);
    /// Streams of events that are open.
    event_streams: IntGauge = "event_streams_open" ();
    /// Tokens that the console and the API refused, by cause.
    sign_ins_refused: Each<Refusal, IntCounterVec> = "sign_ins_refused_total" &["cause"];

    /// How late a task runs that is due, by its threads.
    runtime_delay: Each<Runtime, HistogramVec> = "runtime_delay_seconds" (&["runtime"], SECONDS);
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
        let metrics = Self::new()?;
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.start_time.set(crate::io::clock::now().0 as f64 / 1000.0);
        for outcome in [Outcome::Dns, Outcome::Connect] {
            metrics.attempts_unsent.with_label_values(&[outcome.as_str()]);
        }
        for role in ["aggregate", "deliver"] {
            metrics.rebuild_records.with_label_values(&[role]);
        }
        for role in ["aggregate", "deliver", "notify"] {
            metrics.records_lost.with_label_values(&[role]);
            for state in ["kept", "new", "rebuilt"] {
                metrics.claims.with_label_values(&[role, state]);
            }
            for cause in ["broker", "fenced", "rebalance"] {
                metrics.commit_failures.with_label_values(&[role, cause]);
            }
        }
        for kind in [NoticeKind::Warning, NoticeKind::Disabled] {
            metrics.notices.with_label_values(&[wire::notice::kind(kind)]);
        }
        for result in ["sent", "repeated"] {
            metrics.mails.with_label_values(&[result]);
        }
        for by in ["record", "clock"] {
            metrics.boundaries_closed.with_label_values(&[by]);
        }
        metrics.messages_dropped.with_label_values(&["owner"]);
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

//! Checks at the start: what would lose messages, or decide their windows wrongly, is refused with its remedy.

use anyhow::bail;
use tracing::warn;

use crate::{
    io::kafka::{
        admin::Admin,
        topics::{Fault, Finding, check, remedies},
    },
    roles::process::Process,
};

/// Settings of `message-events` without which nothing may begin: arrivals decide windows, so the broker must stamp
/// them, and a rebuild reads back as far as the longest window.
const VITAL: [&str; 2] = ["message.timestamp.type", "retention.ms"];

/// Checks the topics. What is wrong but not vital is logged.
///
/// # Errors
/// What is vital and differs, with the commands that mend it.
pub(super) async fn topics(process: &Process) -> anyhow::Result<()> {
    let report = match Admin::new(&process.kafka) {
        Ok(admin) => check(&admin, &process.topics).await,
        Err(error) => Err(error),
    };
    let findings = match report {
        Ok(report) => report.findings(),
        Err(error) => {
            warn!(%error, "the topics could not be checked");
            return Ok(());
        }
    };
    let source = &process.topics.message_events;
    let (vital, others): (Vec<Finding>, Vec<Finding>) =
        findings.into_iter().partition(|finding| is_vital(finding, source));
    for finding in others {
        warn!(%finding, "a topic is not as it should be; `bundlehook topics` tells more");
    }
    if vital.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> = vital.iter().map(ToString::to_string).collect();
    bail!("{}; to mend it:\n{}", problems.join("; "), remedies(&vital, &process.kafka.brokers).join("\n"))
}

fn is_vital(finding: &Finding, source: &str) -> bool {
    match &finding.fault {
        Fault::Setting { name, .. } => finding.topic == source && VITAL.contains(name),
        // A bundle stands in the partition that has its source partition's number.
        Fault::Partitions { .. } => true,
        Fault::Missing => false,
    }
}

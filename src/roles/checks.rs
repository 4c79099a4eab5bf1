//! Checks at the start: what would lose messages, or decide their windows wrongly, is refused with its remedy.

use anyhow::bail;
use tracing::warn;

use super::process::Process;
use crate::io::kafka::{
    admin::Admin,
    topics::{Finding, check, remedies},
};

/// Checks the topics that a role uses. What is wrong but not vital is logged.
///
/// # Errors
/// What is vital and differs, with the commands that mend it.
pub(super) async fn topics(process: &Process, used: &[&str]) -> anyhow::Result<()> {
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
    let is_vital = |finding: &Finding| finding.fault.is_vital() && used.contains(&finding.topic.as_str());
    let (vital, others): (Vec<Finding>, Vec<Finding>) = findings.into_iter().partition(is_vital);
    for finding in others {
        warn!(%finding, "a topic is not as it should be; `bundlehook topics` tells more");
    }
    if vital.is_empty() {
        return Ok(());
    }
    let problems: Vec<String> = vital.iter().map(ToString::to_string).collect();
    bail!("{}; to mend it:\n{}", problems.join("; "), remedies(&vital, &process.kafka.brokers).join("\n"))
}

//! Creates missing topics with the right settings and says what differs in existing ones.

use anyhow::bail;

use super::{say, table::table};
use crate::{
    config::{KafkaSettings, TopicsSettings},
    io::kafka::{
        Topics,
        admin::Admin,
        topics::{self, Fault, Finding, Report, TopicReport},
    },
};

/// Prints what the topics are like, having created those that were missing.
///
/// # Errors
/// If something is missing or differs in the end, or if the cluster can't be asked.
pub async fn run(kafka: KafkaSettings, settings: TopicsSettings) -> anyhow::Result<()> {
    let admin = Admin::new(&kafka)?;
    let names = Topics::new(&kafka.topics);
    let created = if settings.check {
        Vec::new()
    } else {
        topics::create_missing(&admin, &names, settings.partitions, settings.replication_factor).await?
    };
    let report = topics::check(&admin, &names).await?;
    say(&table(&overview(&report, &created)))?;
    let findings = report.findings();
    if findings.is_empty() {
        return Ok(());
    }
    if findings.iter().any(|finding| finding.fault != Fault::Missing) {
        say(&format!("\n{}", table(&differences(&findings))))?;
    }

    say(&format!("\nTo put it right:\n  {}", topics::remedies(&findings, &kafka.brokers).join("\n  ")))?;
    bail!("{}", summary(&findings))
}

/// A row a topic.
fn overview(report: &Report, created: &[String]) -> Vec<Vec<String>> {
    let row = |topic: &TopicReport| {
        let partitions = topic.partitions.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let state = match topic.findings.as_slice() {
            [Finding { fault: Fault::Missing, .. }] => "missing",
            [_, ..] => "differs",
            [] if created.contains(&topic.name) => "created",
            [] => "ok",
        };
        vec![topic.name.clone(), partitions, state.to_owned()]
    };
    let head = ["TOPIC", "PARTITIONS", "STATE"].map(str::to_owned).into();
    std::iter::once(head).chain(report.topics.iter().map(row)).collect()
}

/// A row a difference.
fn differences(findings: &[Finding]) -> Vec<Vec<String>> {
    let row = |finding: &Finding| {
        let [what, has, expected] = finding.fault.columns();
        vec![finding.topic.clone(), what, has, expected]
    };
    let differing = findings.iter().filter(|finding| finding.fault != Fault::Missing);
    let head = ["TOPIC", "SETTING", "HAS", "SHOULD HAVE"].map(str::to_owned).into();
    std::iter::once(head).chain(differing.map(row)).collect()
}

fn summary(findings: &[Finding]) -> String {
    let missing = findings.iter().filter(|finding| finding.fault == Fault::Missing).count();
    let differing = findings.len() - missing;
    let topics = format!("{missing} topic{} missing", if missing == 1 { " is" } else { "s are" });
    let settings = format!("{differing} setting{}", if differing == 1 { " differs" } else { "s differ" });
    match (missing, differing) {
        (_, 0) => topics,
        (0, _) => settings,
        _ => format!("{topics}, {settings}"),
    }
}

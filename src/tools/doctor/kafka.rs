//! The brokers and the topics.

use std::collections::BTreeMap;

use super::{Check, Level};
use crate::io::kafka::{
    admin::{AdminError, Cluster},
    topics::{Fault, Finding, Report, TopicReport, remedies},
};

/// Replicas that survive the loss of a broker while another one is restarted.
const REPLICAS: usize = 3;
/// Fewest replicas that must have a record before it counts as written.
const IN_SYNC: usize = 2;

/// Topics that came by more partitions need no care, but an owner asks what it does to his chats.
const MORE_PARTITIONS: &str = "Nothing is lost by more partitions; a chat whose messages go to another partition \
     from then on gets at most one more POST in the window that is open.";

pub fn unreachable(error: &AdminError) -> Check {
    Check::ok("kafka", error.to_string(), "brokers that answer")
        .found(Level::Fail, "start Kafka, or mend BUNDLEHOOK_KAFKA_BROKERS and BUNDLEHOOK_KAFKA_PROPERTIES")
}

pub fn unreadable(error: &AdminError) -> Check {
    Check::ok("topics", error.to_string(), "settings that can be read")
        .found(Level::Fail, "allow this user to describe the configuration of topics")
}

pub fn brokers(cluster: &Cluster) -> Check {
    let count = cluster.brokers.len();
    Check::ok(
        "kafka",
        format!("{count}: {}", cluster.brokers.join(", ")),
        format!("{REPLICAS} brokers or more"),
    )
    .found_if(
        count < REPLICAS,
        Level::Warn,
        "with fewer brokers than replicas are wanted, the loss of one stops or loses messages: add brokers",
    )
}

/// The topics of ours that exist.
pub fn existing(report: &Report) -> Vec<&str> {
    let existing = report.topics.iter().filter(|topic| topic.partitions.is_some());
    existing.map(|topic| &*topic.name).collect()
}

/// A check a topic.
pub fn topics(report: &Report, brokers: &str) -> Vec<Check> {
    report.topics.iter().map(|topic| of_topic(topic, brokers)).collect()
}

fn of_topic(topic: &TopicReport, brokers: &str) -> Check {
    let name = format!("topic {}", topic.name);
    let Some(partitions) = topic.partitions else {
        return Check::ok(name, "missing", "it exists").found(Level::Fail, "bundlehook topics");
    };
    if topic.findings.is_empty() {
        return Check::ok(name, format!("partitions {partitions}"), "partitions and settings as documented");
    }
    let column = |column: usize| {
        let text = |finding: &Finding| {
            let columns = finding.fault.columns();
            format!("{} {}", columns[0], columns[column])
        };
        topic.findings.iter().map(text).collect::<Vec<_>>().join(", ")
    };
    let vital = topic.findings.iter().any(|finding| finding.fault.is_vital());
    let mut remedy = remedies(&topic.findings, brokers).join("\n");
    if topic.findings.iter().any(|finding| matches!(finding.fault, Fault::Partitions { .. })) {
        remedy = format!("{remedy}\n{MORE_PARTITIONS}");
    }
    Check::ok(name, column(1), column(2)).found(if vital { Level::Fail } else { Level::Warn }, remedy)
}

/// Whether the topics survive the loss of a broker; none if there are none.
pub fn replicas(
    cluster: &Cluster,
    report: &Report,
    settings: &BTreeMap<String, BTreeMap<String, String>>,
) -> Option<Check> {
    let topics = existing(report);
    (!topics.is_empty()).then(|| of_replicas(cluster, &topics, settings))
}

fn of_replicas(
    cluster: &Cluster,
    topics: &[&str],
    settings: &BTreeMap<String, BTreeMap<String, String>>,
) -> Check {
    let (mut stuck, mut behind, mut few) = (Vec::new(), Vec::new(), Vec::new());
    for &topic in topics {
        let partitions = cluster.topics.get(topic).map_or(&[][..], Vec::as_slice);
        let least =
            settings.get(topic).and_then(|settings| settings.get("min.insync.replicas")?.parse().ok());
        let least: usize = least.unwrap_or(1);
        if partitions.iter().any(|partition| !partition.led || partition.in_sync < least) {
            stuck.push(topic);
        } else if partitions.iter().any(|partition| partition.in_sync < partition.count) {
            behind.push(topic);
        } else if partitions.iter().any(|partition| partition.count < REPLICAS) || least < IN_SYNC {
            few.push(topic);
        }
    }
    let expected = format!("{REPLICAS} replicas in sync, min.insync.replicas={IN_SYNC}");
    let check = |seen: &str, topics: &[&str]| {
        Check::ok("replicas", format!("{seen}: {}", topics.join(", ")), &*expected)
    };
    if !stuck.is_empty() {
        return check("no leader, or fewer replicas in sync than min.insync.replicas", &stuck).found(
            Level::Fail,
            "nothing can be written there: bring the brokers back that hold the replicas",
        );
    }
    if !behind.is_empty() {
        return check("replicas that are not in sync", &behind).found(
            Level::Warn,
            "bring the brokers back that hold the replicas, or wait until they caught up",
        );
    }
    if !few.is_empty() {
        return check("fewer replicas, or min.insync.replicas below 2", &few).found(
            Level::Warn,
            "a broker whose disk is lost takes messages with it; create topics with `bundlehook topics \
             --replication-factor 3`, move existing ones with kafka-reassign-partitions.sh, and set \
             min.insync.replicas=2",
        );
    }
    Check::ok("replicas", "all in sync", expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::kafka::admin::Replicas;

    fn found(replicas_of: Replicas, least: &str) -> (Level, String) {
        let topic = TopicReport { name: "t".to_owned(), partitions: Some(1), findings: Vec::new() };
        let topics = BTreeMap::from([("t".to_owned(), vec![replicas_of])]);
        let cluster = Cluster { brokers: vec!["a:1".to_owned()], topics };
        let settings = BTreeMap::from([("min.insync.replicas".to_owned(), least.to_owned())]);
        let settings = BTreeMap::from([("t".to_owned(), settings)]);
        let check = replicas(&cluster, &Report { topics: vec![topic] }, &settings).unwrap();
        (check.level, check.seen)
    }

    #[test]
    fn replicas_are_told_by_what_the_loss_of_a_broker_does() {
        let of = |led, count, in_sync| Replicas { led, count, in_sync };
        assert_eq!(found(of(true, 3, 3), "2").0, Level::Ok);
        assert_eq!(found(of(true, 1, 1), "1").0, Level::Warn);
        assert_eq!(found(of(true, 3, 3), "1").0, Level::Warn);
        assert!(found(of(true, 3, 2), "2").1.starts_with("replicas that are not in sync"));
        assert_eq!(found(of(true, 3, 1), "2").0, Level::Fail);
        assert_eq!(found(of(false, 3, 3), "2").0, Level::Fail);
    }
}

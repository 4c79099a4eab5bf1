use super::*;
use crate::config::KafkaSettings;

const DAY: i64 = 86_400_000;

fn topics() -> Topics {
    Topics::new(&KafkaSettings::embedded("x:1".to_owned(), BTreeMap::new()).topics)
}

/// The topics as they are after their creation in an empty cluster.
fn created(partitions: i32) -> Existings {
    let rules = rules(&topics(), &Existings::new(), partitions);
    let existing = |rule: &TopicRule| {
        let request = rule.request(-1);
        let settings = request.settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        (request.name, Existing { partitions: request.partitions, settings })
    };
    rules.iter().map(existing).collect()
}

fn findings(existing: &Existings) -> Vec<String> {
    let rules = rules(&topics(), existing, 1);
    compare(&rules, existing).findings().iter().map(ToString::to_string).collect()
}

fn set(existing: &mut Existings, topic: &str, name: &str, value: &str) {
    existing.get_mut(topic).unwrap().settings.insert(name.to_owned(), value.to_owned());
}

#[test]
fn topics_as_they_are_created_are_right() {
    assert_eq!(findings(&created(12)), Vec::<String>::new());
    assert_eq!(findings(&created(1)), Vec::<String>::new());
}

#[test]
fn topics_are_created_by_the_architecture() {
    let created = created(12);
    let partitions: Vec<_> =
        created.iter().filter(|(_, topic)| topic.partitions == 1).map(|(name, _)| name).collect();
    assert_eq!(
        partitions,
        [
            "notifications",
            "webhook-changes",
            "webhook-events",
            "webhook-health",
            "webhook-settings",
            "webhook-states"
        ]
    );
    let value = |topic: &str, name: &str| created[topic].settings[name].clone();
    assert_eq!(value("message-events", "retention.ms"), (3 * DAY).to_string());
    assert_eq!(value("webhook-settings", "min.compaction.lag.ms"), (3 * DAY + 26 * 3_600_000).to_string());
    assert_eq!(value("bundles", "max.message.bytes"), (9 * 1_048_576).to_string());
    for topic in ["message-events", "webhook-settings", "webhook-states", "bundles"] {
        assert_eq!(value(topic, "message.timestamp.type"), "LogAppendTime");
    }
}

#[test]
fn a_missing_topic_is_found() {
    let mut existing = created(3);
    existing.remove("bundles");
    assert_eq!(findings(&existing), ["topic `bundles` does not exist"]);
}

#[test]
fn what_differs_is_named_with_what_it_should_be() {
    let differing = [
        (
            "message-events",
            "retention.ms",
            "86400000",
            "86400000 (1day), expected at least 172800000 (2days)",
        ),
        ("message-events", "retention.bytes", "1000", "1000, expected -1 (no limit)"),
        ("message-events", "message.timestamp.type", "CreateTime", "CreateTime, expected LogAppendTime"),
        ("webhook-settings", "cleanup.policy", "compact,delete", "compact,delete, expected compact"),
        ("waiting-deliveries", "segment.ms", "604800000", "604800000 (7days), expected at most 600000 (10m)"),
        ("bundles", "max.message.bytes", "1048588", "1048588 (1.0 MiB), expected at least 8388608 (8.0 MiB)"),
    ];
    for (topic, name, value, expected) in differing {
        let mut existing = created(3);
        set(&mut existing, topic, name, value);
        assert_eq!(findings(&existing), [format!("topic `{topic}` has {name} {expected}")]);
    }
}

#[test]
fn a_retention_without_limit_is_long_enough() {
    let mut existing = created(3);
    for topic in ["bundles", "delivery-attempts", "dead-letters"] {
        set(&mut existing, topic, "retention.ms", "-1");
    }
    assert_eq!(findings(&existing), Vec::<String>::new());
}

#[test]
fn what_is_kept_of_the_settings_follows_the_retention_of_the_messages() {
    let mut existing = created(3);
    set(&mut existing, "message-events", "retention.ms", &(4 * DAY).to_string());
    let least = 4 * DAY + 26 * 3_600_000;
    let found = findings(&existing);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|finding| finding.contains(&format!("at least {least}"))), "{found:?}");

    set(&mut existing, "message-events", "retention.ms", "-1");
    assert!(findings(&existing)[0].ends_with(&format!("at least {} (no limit)", i64::MAX)));
}

#[test]
fn sizes_follow_the_size_of_the_messages() {
    let mut existing = created(3);
    set(&mut existing, "message-events", "max.message.bytes", "4194304");
    let found = findings(&existing);
    assert!(
        found[0].starts_with("topic `bundles`") && found[0].ends_with("at least 33554432 (32.0 MiB)"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("topic `dead-letters`") && found[1].contains("at least 4259840"),
        "{found:?}"
    );
}

#[test]
fn bundles_and_what_belongs_to_them_have_enough_partitions() {
    let mut existing = created(3);
    existing.get_mut("message-events").unwrap().partitions = 5;
    existing.remove("delivery-attempts");
    assert_eq!(
        findings(&existing),
        [
            "topic `message-skips` has partitions 3, expected at least 5",
            "topic `bundles` has partitions 3, expected at least 5",
            "topic `waiting-deliveries` has partitions 3, expected at least 5",
            "topic `delivery-attempts` does not exist",
        ]
    );
    existing.get_mut("bundles").unwrap().partitions = 7;
    let rules = rules(&topics(), &existing, 4);
    let attempts = rules.iter().find(|rule| rule.name == "delivery-attempts").unwrap();
    assert_eq!(attempts.request(-1).partitions, 7);
}

#[test]
fn a_setting_that_the_broker_does_not_know_is_found() {
    let mut existing = created(3);
    existing.get_mut("waiting-deliveries").unwrap().settings.remove("max.compaction.lag.ms");
    assert!(findings(&existing)[0].contains("max.compaction.lag.ms unknown to the broker"));
}

#[test]
fn there_is_one_remedy_a_topic() {
    let mut existing = created(3);
    set(&mut existing, "bundles", "retention.ms", "1");
    set(&mut existing, "bundles", "retention.bytes", "1");
    existing.get_mut("delivery-attempts").unwrap().partitions = 1;
    existing.remove("notifications");
    existing.remove("webhook-events");
    let found = compare(&rules(&topics(), &existing, 1), &existing).findings();
    assert_eq!(
        remedies(&found, "k:9092"),
        [
            "kafka-topics.sh --bootstrap-server k:9092 --alter --topic delivery-attempts --partitions 3",
            "bundlehook topics",
            "kafka-configs.sh --bootstrap-server k:9092 --alter --entity-type topics --entity-name bundles \
             --add-config retention.ms=1209600000,retention.bytes=-1",
        ]
    );
}

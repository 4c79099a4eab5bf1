//! What the roles have committed, against the logs as they are.

use super::{Check, Level};
use crate::{
    config::KafkaSettings,
    io::kafka::{
        Topics,
        admin::{Admin, Cluster},
        onlooker::{Commit, Onlooker, Span},
    },
    wire::metadata::{AggregateMetadata, DeliverMetadata, Metadata},
};

/// A role, by its group.
struct Role<'a> {
    name: &'static str,
    group: String,
    /// What it reads.
    topic: &'a str,
    /// What it has written, in partitions of the same numbers; none for a role that begins anew where it has no offset.
    output: Option<&'a str>,
    /// What is missing while no process of it runs.
    without: &'static str,
}

/// What is known of a partition.
struct Partition {
    number: usize,
    log: Span,
    commit: Option<Commit>,
    /// Something was written for it.
    has_output: bool,
}

/// A finding about a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    /// It has no committed offset although others have.
    New,
    /// It has none although its output exists: the role does not know where to begin.
    Unplaced,
    /// So many records were deleted before they were read.
    Deleted(i64),
    /// The committed offset lies above the end.
    AboveTheEnd,
    /// The metadata can't be read.
    Unreadable(String),
    /// The offset belongs to a former topic of that name.
    OtherTopic,
}

/// One check a role.
pub async fn checks(kafka: &KafkaSettings, admin: &Admin, cluster: &Cluster) -> Vec<Check> {
    let names = Topics::new(&kafka.topics);
    let role = |name: &'static str, topic, output, without| Role {
        name,
        group: names.group(name),
        topic,
        output,
        without,
    };
    let roles = [
        role("aggregate", &*names.message_events, Some(&*names.bundles), "nothing is bundled"),
        role("deliver", &names.bundles, Some(&names.delivery_attempts), "nothing is sent to webhooks"),
        role("notify", &names.notifications, None, "nobody gets an e-mail"),
    ];
    let mut checks = Vec::new();
    for role in roles.iter().filter(|role| cluster.topics.contains_key(role.topic)) {
        let name = format!("group {}", role.group);
        checks.push(of_role(kafka, admin, cluster, role).await.unwrap_or_else(|problem| {
            let remedy = "allow this user to describe and read the group";
            Check::ok(name, problem, "offsets that can be read").found(Level::Fail, remedy)
        }));
    }
    checks
}

async fn of_role(
    kafka: &KafkaSettings,
    admin: &Admin,
    cluster: &Cluster,
    role: &Role<'_>,
) -> Result<Check, String> {
    let describe = |error: rdkafka::error::KafkaError| error.to_string();
    let count = |topic: &str| cluster.topics.get(topic).map_or(0, Vec::len) as i32;
    let onlooker = Onlooker::new(kafka, role.group.clone()).map_err(describe)?;
    let commits = onlooker.committed(role.topic, count(role.topic)).await.map_err(describe)?;
    let logs = onlooker.spans(role.topic, count(role.topic)).await.map_err(describe)?;
    let written = match role.output {
        Some(output) => onlooker.spans(output, count(output)).await.map_err(describe)?,
        None => Vec::new(),
    };
    let members = onlooker.members().await.map_err(describe)?;
    let topic_id = admin.topic_id(role.topic).await.map_err(|error| error.to_string())?;
    let partition = |(number, (commit, log)): (usize, (Option<Commit>, Span))| {
        let has_output = written.get(number).is_some_and(|span| span.end > 0);
        Partition { number, log, commit, has_output }
    };
    let partitions: Vec<_> = commits.into_iter().zip(logs).enumerate().map(partition).collect();
    Ok(judge(role, members, &topic_id, &partitions))
}

fn judge(role: &Role<'_>, members: usize, topic_id: &str, partitions: &[Partition]) -> Check {
    let Role { name, group, topic, without, .. } = role;
    let begun = partitions.iter().any(|partition| partition.commit.is_some());
    let findings: Vec<(usize, Finding)> = partitions
        .iter()
        .filter_map(|partition| Some((partition.number, find(name, partition, topic_id, begun)?)))
        .collect();
    let lag: i64 = partitions.iter().map(|partition| lag(name, partition)).sum();
    let mut seen = vec![format!("members: {members}, records behind: {lag}")];
    seen.extend(
        findings.iter().map(|(partition, finding)| format!("partition {partition}: {}", finding.text())),
    );
    let expected = "offsets within their logs, and a process that runs";
    let check = Check::ok(format!("group {group}"), seen.join("; "), expected);
    let worst = findings.iter().max_by_key(|(_, finding)| finding.level());
    match worst {
        Some((_, finding)) if members > 0 || finding.level() == Level::Fail => {
            check.found(finding.level(), finding.remedy(name, group, topic))
        }
        _ => {
            let remedy = format!("start the role, without which {without}: bundlehook {name}");
            check.found_if(members == 0, Level::Warn, remedy)
        }
    }
}

fn find(role: &str, partition: &Partition, topic_id: &str, begun: bool) -> Option<Finding> {
    let Partition { log, commit, has_output, .. } = partition;
    let Some(commit) = commit else {
        return if *has_output { Some(Finding::Unplaced) } else { begun.then_some(Finding::New) };
    };
    let topic = match role {
        "aggregate" => AggregateMetadata::decode(&commit.metadata).map(|metadata| Some(metadata.topic)),
        "deliver" => DeliverMetadata::decode(&commit.metadata).map(|_| None),
        // What notes an e-mail that may be on its way is no more than a note.
        _ => Ok(None),
    };
    match topic {
        Err(error) => Some(Finding::Unreadable(error.to_string())),
        Ok(Some(topic)) if topic != topic_id => Some(Finding::OtherTopic),
        Ok(_) if commit.offset > log.end => Some(Finding::AboveTheEnd),
        Ok(_) if commit.offset < log.begin => Some(Finding::Deleted(log.begin - commit.offset)),
        Ok(_) => None,
    }
}

/// Records that are not read yet. Aggregate's committed offset trails by design; what it has sent at once does not.
fn lag(role: &str, Partition { log, commit, .. }: &Partition) -> i64 {
    let Some(commit) = commit else { return log.end - log.begin };
    let read = match AggregateMetadata::decode(&commit.metadata) {
        Ok(metadata) if role == "aggregate" => metadata.none.max(commit.offset),
        _ => commit.offset,
    };
    (log.end - read).max(0)
}

impl Finding {
    fn level(&self) -> Level {
        match self {
            Self::New | Self::OtherTopic => Level::Warn,
            Self::Unplaced | Self::Deleted(_) | Self::AboveTheEnd | Self::Unreadable(_) => Level::Fail,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::New => "new, not read yet".to_owned(),
            Self::Unplaced => "no committed offset, though it was read before".to_owned(),
            Self::Deleted(count) => format!("{count} records were deleted before they were read"),
            Self::AboveTheEnd => "the committed offset lies above the end of the log".to_owned(),
            Self::Unreadable(problem) => problem.clone(),
            Self::OtherTopic => "the committed offset is of a former topic of that name".to_owned(),
        }
    }

    fn remedy(&self, role: &str, group: &str, topic: &str) -> String {
        match self {
            Self::New => format!(
                "nothing to do while a process of `{role}` runs: it finds new partitions within half a minute and reads \
                 them from their beginning"
            ),
            Self::Unplaced => format!("say where to begin: bundlehook {role} --from beginning (or end)"),
            Self::Deleted(_) => format!(
                "they are lost; keep `{topic}` longer (retention.ms) and see why `{role}` was so far behind"
            ),
            Self::AboveTheEnd => format!(
                "the log was cut or replaced; end all processes of `{role}`, then \
                 kafka-consumer-groups.sh --group {group} --topic {topic} --delete-offsets, then \
                 bundlehook {role} --from beginning"
            ),
            Self::Unreadable(_) => format!(
                "another program or another release has committed for `{group}`; go back to that release, or see \
                 what uses the group"
            ),
            Self::OtherTopic => {
                "nothing to do: the new topic is read from its beginning; what the former one held is gone"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::model::window::{WindowRule, WindowRules};

    fn commit(offset: i64, topic: &str) -> Commit {
        let rule = WindowRule::new(Duration::from_hours(1), Duration::from_mins(1), Duration::ZERO);
        let metadata =
            AggregateMetadata::new(topic.to_owned(), Uuid::nil(), offset, WindowRules::single(rule));
        Commit { offset, metadata: metadata.encode().unwrap() }
    }

    fn judged(members: usize, partitions: Vec<(Span, Option<Commit>, bool)>) -> Check {
        judged_as("aggregate", members, partitions)
    }

    fn judged_as(name: &'static str, members: usize, partitions: Vec<(Span, Option<Commit>, bool)>) -> Check {
        let role = Role { name, group: "g".to_owned(), topic: "me", output: None, without: "nothing works" };
        let partition = |(number, (log, commit, has_output))| Partition { number, log, commit, has_output };
        let partitions: Vec<_> = partitions.into_iter().enumerate().map(partition).collect();
        judge(&role, members, "id", &partitions)
    }

    const LOG: Span = Span { begin: 5, end: 10 };

    #[test]
    fn offsets_within_their_logs_are_well() {
        let check = judged(1, vec![(LOG, Some(commit(7, "id")), true), (LOG, Some(commit(10, "id")), true)]);
        assert_eq!((check.level, &*check.seen), (Level::Ok, "members: 1, records behind: 3"));
        assert_eq!(judged(1, vec![(LOG, None, false)]).level, Level::Ok, "nothing was ever read");
        assert_eq!(judged(0, vec![(LOG, Some(commit(10, "id")), true)]).level, Level::Warn);
    }

    #[test]
    fn a_note_of_an_email_on_its_way_is_no_fault() {
        let noted = |offset| Some(Commit { offset, metadata: "{\"v\": 1, \"sending\": null}".to_owned() });
        let check = judged_as("notify", 1, vec![(LOG, noted(7), false)]);
        assert_eq!((check.level, &*check.seen), (Level::Ok, "members: 1, records behind: 3"));
        let check = judged_as("notify", 1, vec![(LOG, noted(3), false)]);
        assert_eq!(check.level, Level::Fail, "{check:?}");
        let check = judged_as("notify", 0, vec![(LOG, noted(10), false)]);
        assert_eq!(
            check.remedy.as_deref(),
            Some("start the role, without which nothing works: bundlehook notify")
        );
    }

    #[test]
    fn what_is_wrong_with_an_offset_is_told_by_partition() {
        let unreadable = Some(Commit { offset: 7, metadata: "?".to_owned() });
        for (commit_of, has_output, level, part) in [
            (Some(commit(3, "id")), true, Level::Fail, "partition 1: 2 records were deleted"),
            (Some(commit(11, "id")), true, Level::Fail, "partition 1: the committed offset lies above"),
            (
                Some(commit(11, "other")),
                true,
                Level::Warn,
                "partition 1: the committed offset is of a former topic",
            ),
            (unreadable, true, Level::Fail, "partition 1: the metadata"),
            (None, true, Level::Fail, "partition 1: no committed offset"),
            (None, false, Level::Warn, "partition 1: new"),
        ] {
            let check = judged(1, vec![(LOG, Some(commit(10, "id")), true), (LOG, commit_of, has_output)]);
            assert_eq!(check.level, level, "{check:?}");
            assert!(check.seen.contains(part), "{check:?}");
        }
    }
}

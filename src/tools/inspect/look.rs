//! What there is to see of each partition.

use anyhow::ensure;
use serde::Serialize;
use serde_json::Value;

use crate::{
    config::KafkaSettings,
    io::{
        Redis,
        kafka::{
            Topics,
            admin::Cluster,
            onlooker::{Commit, Onlooker, Span},
        },
        redis::{
            queue::{self, QueueLook},
            windows::{self, WindowsLook},
        },
    },
    wire::metadata::{AggregateMetadata, DeliverMetadata, Metadata},
};

/// Both roles.
#[derive(Debug, Serialize)]
pub struct Seen {
    pub aggregate: RoleSeen<AggregateMetadata, WindowsLook>,
    pub deliver: RoleSeen<DeliverMetadata, QueueLook>,
}

/// A role: `M` is its metadata, `R` what it holds in Redis.
#[derive(Debug, Serialize)]
pub struct RoleSeen<M, R> {
    pub group: String,
    /// What it reads.
    pub topic: String,
    /// Processes in its group.
    pub members: usize,
    pub partitions: Vec<PartitionSeen<M, R>>,
}

/// A partition of what a role reads.
#[derive(Debug, Serialize)]
pub struct PartitionSeen<M, R> {
    pub partition: i32,
    /// Its first offset.
    pub begin: i64,
    /// The offset after its last record.
    pub end: i64,
    /// The committed offset; none if nothing was committed.
    pub committed: Option<i64>,
    /// What was committed with it, if that can be read.
    pub metadata: Option<M>,
    /// What was committed with it, if it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<Value>,
    /// What Redis holds; none if that is nothing.
    pub redis: Option<R>,
}

/// What `aggregate` has done.
pub async fn aggregate(
    kafka: &KafkaSettings,
    names: &Topics,
    cluster: &Cluster,
    redis: &Redis,
) -> anyhow::Result<RoleSeen<AggregateMetadata, WindowsLook>> {
    let (group, topic) = (names.group("aggregate"), &names.message_events);
    let mut seen = role(kafka, cluster, group, topic).await?;
    for partition in &mut seen.partitions {
        partition.redis = windows::look(redis, names.prefix(), partition.partition).await?;
    }
    Ok(seen)
}

/// What `deliver` has done.
pub async fn deliver(
    kafka: &KafkaSettings,
    names: &Topics,
    cluster: &Cluster,
    redis: &Redis,
) -> anyhow::Result<RoleSeen<DeliverMetadata, QueueLook>> {
    let (group, topic) = (names.group("deliver"), &names.bundles);
    let mut seen = role(kafka, cluster, group, topic).await?;
    for partition in &mut seen.partitions {
        partition.redis = queue::look(redis, names.prefix(), partition.partition).await?;
    }
    Ok(seen)
}

/// What Kafka tells of a role.
async fn role<M: Metadata, R>(
    kafka: &KafkaSettings,
    cluster: &Cluster,
    group: String,
    topic: &str,
) -> anyhow::Result<RoleSeen<M, R>> {
    let partitions = cluster.topics.get(topic).map_or(0, Vec::len) as i32;
    ensure!(
        partitions > 0,
        "topic `{topic}` does not exist, or may not be seen; `bundlehook topics` creates it"
    );
    let onlooker = Onlooker::new(kafka, group.clone())?;
    let commits = onlooker.committed(topic, partitions).await?;
    let logs = onlooker.spans(topic, partitions).await?;
    let members = onlooker.members().await?;
    let partitions = (0..).zip(commits.into_iter().zip(logs));
    let partitions =
        partitions.map(|(partition, (commit, log))| of_partition(partition, commit, log)).collect();
    Ok(RoleSeen { group, topic: topic.to_owned(), members, partitions })
}

fn of_partition<M: Metadata, R>(partition: i32, commit: Option<Commit>, log: Span) -> PartitionSeen<M, R> {
    let Span { begin, end } = log;
    let metadata = commit.as_ref().and_then(|commit| M::decode(&commit.metadata).ok());
    let unreadable =
        commit.as_ref().filter(|_| metadata.is_none()).map(|commit| commit.metadata.clone().into());
    let committed = commit.map(|commit| commit.offset);
    PartitionSeen { partition, begin, end, committed, metadata, unreadable, redis: None }
}

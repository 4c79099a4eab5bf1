//! Shows what the roles have committed and what Redis holds, partition by partition. Reads only: it joins no group,
//! claims nothing and fences nobody.

mod look;
mod show;

use anyhow::anyhow;

use super::say;
use crate::{
    config::InspectCommand,
    io::{
        Redis,
        kafka::{Topics, admin::Admin},
    },
};

/// Prints it, as tables or as JSON.
///
/// # Errors
/// If Kafka or Redis can't be asked.
pub async fn run(command: InspectCommand) -> anyhow::Result<()> {
    let InspectCommand { kafka, redis, output } = command;
    let names = Topics::new(&kafka.topics);
    let cluster = Admin::new(&kafka)?.cluster().await?;
    let redis = Redis::reach(&redis, redis.timeout)
        .await
        .map_err(|problem| anyhow!("redis can't be asked: {problem}"))?;
    let seen = look::Seen {
        aggregate: look::aggregate(&kafka, &names, &cluster, &redis).await?,
        deliver: look::deliver(&kafka, &names, &cluster, &redis).await?,
    };
    let text = if output.json { serde_json::to_string_pretty(&seen)? } else { show::tables(&seen) };
    say(&text)
}

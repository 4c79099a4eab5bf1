//! The clocks: this host's against Redis', and whether brokers are ahead of it.

use std::time::Duration;

use super::{Check, Level};
use crate::{
    config::KafkaSettings,
    io::{
        clock,
        kafka::{Topics, admin::Cluster, onlooker::Onlooker},
        redis::facts::ServerFacts,
    },
    model::time::Millis,
};

/// Clocks that differ by more than this deserve a look.
const APART: Duration = Duration::from_secs(1);
/// The widest margin within which windows close by the clock.
const MARGIN: Duration = Duration::from_secs(5);

const REMEDY: &str = "let NTP or chrony run on every host; while brokers and roles differ, windows of chats in which \
     nothing comes any more close late";

/// This host against Redis. `read_at` is when its answer came.
pub fn redis(facts: &ServerFacts, read_at: Millis) -> Check {
    let apart = facts.now.since(read_at).max(read_at.since(facts.now));
    let seen = format!("{} ms apart", apart.as_millis());
    Check::ok("clocks of this host and redis", seen, "at most 1 s apart").found_if(
        apart > APART,
        Level::Warn,
        REMEDY,
    )
}

/// Brokers stamp what arrives, so a record of the future shows a clock that is ahead. One that is behind can't be seen
/// without writing.
pub async fn brokers(kafka: &KafkaSettings, names: &Topics, cluster: &Cluster) -> Option<Check> {
    let onlooker = Onlooker::new(kafka, names.group("doctor")).ok()?;
    let name = "clocks of this host and the brokers";
    for (ahead, level) in [(MARGIN, Level::Fail), (APART, Level::Warn)] {
        for topic in [&names.message_events, &names.webhook_states, &names.bundles] {
            let partitions = cluster.topics.get(topic).map_or(0, Vec::len) as i32;
            let later = onlooker.has_later(topic, partitions, clock::now() + ahead).await;
            if partitions > 0 && later.ok()? {
                let seen = format!("records of `{topic}` are over {} s ahead of this host", ahead.as_secs());
                return Some(Check::ok(name, seen, "no record of the future").found(level, REMEDY));
            }
        }
    }
    Some(Check::ok(name, "no broker is ahead", "no record of the future"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_a_second() {
        let facts = ServerFacts { now: Millis(10_000), ..ServerFacts::default() };
        assert_eq!(redis(&facts, Millis(10_900)).level, Level::Ok);
        assert_eq!(redis(&facts, Millis(8_000)).level, Level::Warn);
        assert_eq!(redis(&facts, Millis(12_000)).seen, "2000 ms apart");
    }
}

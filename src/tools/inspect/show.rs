//! What was seen, as tables.

use uuid::Uuid;

use super::look::{PartitionSeen, RoleSeen, Seen};
use crate::{
    io::{
        clock,
        redis::{
            queue::{ParkedOf, QueueLook},
            windows::{OpenBoundary, WindowsLook},
        },
    },
    model::time::Millis,
    tools::table::{headings, table},
    wire::metadata::{AggregateMetadata, DeliverMetadata},
};

type AggregatePartition = PartitionSeen<AggregateMetadata, WindowsLook>;
type DeliverPartition = PartitionSeen<DeliverMetadata, QueueLook>;

/// All tables; one that would be empty is left out.
pub fn tables(seen: &Seen) -> String {
    let Seen { aggregate, deliver } = seen;
    let of_aggregate = aggregate.partitions.iter();
    let of_deliver = deliver.partitions.iter();
    let mut parts = vec![title("aggregate", aggregate)];
    let head = headings([
        "PARTITION",
        "BEGIN",
        "COMMITTED",
        "APPLIED",
        "END",
        "WINDOWS",
        "BYTES",
        "SEALED PARTS",
        "CLAIM",
        "TOKEN",
    ]);
    parts.extend(section("", head, of_aggregate.clone().map(aggregate_row)));
    let head = headings(["PARTITION", "NONE", "PARTS", "CLOSINGS", "HOUR", "GRACE", "AGE"]);
    parts.extend(section("done positions and rules", head, of_aggregate.clone().filter_map(done_row)));
    let head = headings(["PARTITION", "BOUNDARY", "CLOSED BEFORE OFFSET"]);
    parts.extend(section("boundary table", head, of_aggregate.clone().flat_map(boundary_rows)));
    let head = headings(["PARTITION", "CLOSES AT", "WINDOWS", "MESSAGES", "BYTES", "FIRST OFFSET"]);
    parts.extend(section("open windows", head, of_aggregate.flat_map(window_rows)));
    parts.push(title("deliver", deliver));
    let head = headings([
        "PARTITION",
        "BEGIN",
        "COMMITTED",
        "END",
        "ATTEMPTS FROM",
        "PARKED",
        "REFLECTS",
        "CLAIM",
        "TOKEN",
    ]);
    parts.extend(section("", head, of_deliver.clone().map(deliver_row)));
    let head = headings(["PARTITION", "NONE", "PARTS", "CLOSINGS"]);
    parts.extend(section("highest positions", head, of_deliver.clone().filter_map(highest_row)));
    let head = headings(["PARTITION", "WEBHOOK", "PARKED", "OLDEST BUNDLE", "WAITS SINCE", "ATTEMPTS"]);
    parts.extend(section("parked deliveries", head, of_deliver.flat_map(parked_rows)));
    parts.join("\n\n")
}

fn title<M, R>(role: &str, seen: &RoleSeen<M, R>) -> String {
    let RoleSeen { group, topic, members, .. } = seen;
    format!("{role}: {topic}, group {group}, members: {members}")
}

/// A table below its name, if it has rows.
fn section(name: &str, head: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> Option<String> {
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let name = if name.is_empty() { String::new() } else { format!("{name}\n") };
    (rows.len() > 1).then(|| format!("{name}{}", table(&rows)))
}

fn aggregate_row(partition: &AggregatePartition) -> Vec<String> {
    let redis = partition.redis.as_ref();
    let open = redis.map_or(&[][..], |look| &look.open);
    let accepted = partition.metadata.as_ref().map(|metadata| metadata.token);
    vec![
        partition.partition.to_string(),
        partition.begin.to_string(),
        or_dash(partition.committed),
        or_dash(redis.and_then(|look| look.applied)),
        partition.end.to_string(),
        open.iter().map(|open| open.windows).sum::<u64>().to_string(),
        open.iter().map(|open| open.bytes).sum::<u64>().to_string(),
        redis.map_or(0, |look| look.sealed_parts).to_string(),
        claim(accepted, redis.map(|look| (look.token, look.writer))).to_owned(),
        or_dash(accepted),
    ]
}

fn deliver_row(partition: &DeliverPartition) -> Vec<String> {
    let (redis, metadata) = (partition.redis.as_ref(), partition.metadata.as_ref());
    let accepted = metadata.map(|metadata| metadata.token);
    let parked = redis.map_or(&[][..], |look| &look.webhooks);
    vec![
        partition.partition.to_string(),
        partition.begin.to_string(),
        or_dash(partition.committed),
        partition.end.to_string(),
        or_dash(metadata.map(|metadata| metadata.attempts)),
        parked.iter().map(|webhook| webhook.deliveries).sum::<u64>().to_string(),
        or_dash(redis.and_then(|look| look.reflects)),
        claim(accepted, redis.map(|look| (look.token, look.writer))).to_owned(),
        or_dash(accepted),
    ]
}

/// How the claim in Redis (claimant and writer) stands to the accepted one.
fn claim(accepted: Option<Uuid>, redis: Option<(Option<Uuid>, Option<Uuid>)>) -> &'static str {
    match redis {
        None => "nothing in redis",
        Some((token, writer)) if token == accepted && writer == accepted => "accepted",
        Some((token, _)) if token == accepted => "begins",
        Some((_, writer)) if writer == accepted => "claimed by another",
        Some(_) => "of another claim",
    }
}

fn done_row(partition: &AggregatePartition) -> Option<Vec<String>> {
    let metadata = partition.metadata.as_ref()?;
    let closings = metadata
        .closings
        .map(|window| format!("{}/{}/{}", window.boundary, window.first_offset, window.granularity));
    let rule = metadata.rules.at(clock::now());
    let span = |millis: i64| {
        humantime::format_duration(std::time::Duration::from_millis(millis.max(0) as u64)).to_string()
    };
    let row = vec![
        partition.partition.to_string(),
        metadata.none.to_string(),
        metadata.parts.to_string(),
        or_dash(closings),
        span(rule.hour_ms),
        span(rule.grace_ms),
        if rule.max_age_ms == 0 { "no limit".to_owned() } else { span(rule.max_age_ms) },
    ];
    Some(row)
}

fn boundary_rows(partition: &AggregatePartition) -> Vec<Vec<String>> {
    let entries = partition.metadata.as_ref().map_or(&[][..], |metadata| metadata.boundaries.entries());
    let row = |(boundary, offset): &(Millis, i64)| {
        vec![partition.partition.to_string(), boundary.to_string(), offset.to_string()]
    };
    entries.iter().map(row).collect()
}

fn window_rows(partition: &AggregatePartition) -> Vec<Vec<String>> {
    let open = partition.redis.as_ref().map_or(&[][..], |look| &look.open);
    let row = |open: &OpenBoundary| {
        vec![
            partition.partition.to_string(),
            open.boundary.to_string(),
            open.windows.to_string(),
            open.messages.to_string(),
            open.bytes.to_string(),
            open.first_offset.to_string(),
        ]
    };
    open.iter().map(row).collect()
}

fn highest_row(partition: &DeliverPartition) -> Option<Vec<String>> {
    let (_, highest) = partition.metadata.as_ref()?.highest().ok()?;
    let row = vec![
        partition.partition.to_string(),
        or_dash(highest.none),
        or_dash(highest.parts),
        or_dash(highest.closings),
    ];
    Some(row)
}

fn parked_rows(partition: &DeliverPartition) -> Vec<Vec<String>> {
    let parked = partition.redis.as_ref().map_or(&[][..], |look| &look.webhooks);
    let row = |parked: &ParkedOf| {
        vec![
            partition.partition.to_string(),
            parked.webhook.clone(),
            parked.deliveries.to_string(),
            or_dash(parked.oldest.map(|oldest| oldest.offset)),
            or_dash(parked.oldest.map(|oldest| oldest.waiting_since)),
            or_dash(parked.oldest.map(|oldest| oldest.attempts)),
        ]
    };
    parked.iter().map(row).collect()
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_told_by_its_tokens() {
        let [a, b] = [1, 2].map(|n| Some(Uuid::from_u128(n)));
        for (redis, expected) in [
            (None, "nothing in redis"),
            (Some((a, a)), "accepted"),
            (Some((a, b)), "begins"),
            (Some((b, a)), "claimed by another"),
            (Some((b, b)), "of another claim"),
        ] {
            assert_eq!(claim(a, redis), expected);
        }
    }
}

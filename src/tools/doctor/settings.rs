//! The webhooks' settings: whether they can be used, and how many there are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Check, Level};
use crate::{
    config::{KafkaSettings, SealedSettings},
    io::kafka::{
        Topics,
        admin::Cluster,
        replay::{Replayed, replay},
        tail::usable,
    },
};

/// Webhooks that a workspace may have.
const PER_WORKSPACE: usize = 10;
/// So many are named.
const NAMED: usize = 5;

/// What the latest record of a webhook says: its workspace and whether it is switched on, or why it can't be used.
type Latest = Result<(String, bool), String>;

/// The partitions in which each webhook has records.
type Places = BTreeMap<String, BTreeSet<i32>>;

/// Reads the topic whole, if it is there.
pub async fn checks(
    kafka: &KafkaSettings,
    sealed: SealedSettings,
    names: &Topics,
    cluster: &Cluster,
) -> Vec<Check> {
    let topic = &names.webhook_settings;
    if !cluster.topics.contains_key(topic) {
        return Vec::new();
    }
    let read = Arc::new(Mutex::new((BTreeMap::<String, Latest>::new(), Places::new())));
    for partition in 0..cluster.topics.get(topic).map_or(0, Vec::len) as i32 {
        let shared = read.clone();
        let take = move |record: &Replayed<'_>| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let name = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
            shared.1.entry(name).or_default().insert(partition);
            note(&mut shared.0, sealed, record.key, record.value);
            ControlFlow::Continue(())
        };
        if let Err(error) = replay(kafka, topic, partition, 0, take).await {
            let check = Check::ok("webhook settings", error.to_string(), "a topic that can be read");
            return vec![check.found(Level::Fail, format!("allow this user to read `{topic}`"))];
        }
    }
    let read = read.lock().unwrap_or_else(PoisonError::into_inner);
    let (latest, places) = &*read;
    vec![of_usability(latest), of_counts(latest), of_places(topic, places)]
}

/// Records of a webhook in two partitions have no order: they come from a topic that got more partitions.
fn of_places(topic: &str, places: &Places) -> Check {
    let split: Vec<_> =
        places.iter().filter(|(_, partitions)| partitions.len() > 1).map(|(id, _)| id).collect();
    let seen = format!("{} webhooks with records in several", split.len());
    let check = Check::ok("webhook settings by partition", seen, "each webhook in one partition");
    let named: Vec<_> = split.iter().take(NAMED).map(|id| format!("`{id}`")).collect();
    let remedy = format!(
        "a process that starts may take an older record of {} for the latest: create `{topic}` anew with one partition \
         while no role runs, and publish all settings again",
        named.join(", ")
    );
    check.found_if(!split.is_empty(), Level::Fail, remedy)
}

fn note(
    latest: &mut BTreeMap<String, Latest>,
    sealed: SealedSettings,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) {
    let name = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
    match value {
        None => {
            latest.remove(&name);
        }
        Some(value) => {
            let read = usable(key, value, sealed.require_sealed);
            let read = read.map(|webhook| (webhook.workspace_id.to_string(), webhook.enabled));
            latest.insert(name, read.map_err(|poison| poison.detail));
        }
    }
}

fn of_usability(latest: &BTreeMap<String, Latest>) -> Check {
    let unusable: Vec<_> = latest.iter().filter_map(|(id, read)| Some((id, read.as_ref().err()?))).collect();
    let on = latest.values().filter(|read| matches!(read, Ok((_, true)))).count();
    let seen = format!("{} webhooks, {on} switched on, {} unusable", latest.len(), unusable.len());
    let check = Check::ok("webhook settings", seen, "all usable");
    if unusable.is_empty() {
        return check;
    }
    let named: Vec<_> =
        unusable.iter().take(NAMED).map(|(id, problem)| format!("`{id}`: {problem}")).collect();
    let rest = unusable.len().saturating_sub(NAMED);
    let more = if rest > 0 { format!("\nand {rest} more") } else { String::new() };
    let remedy = format!(
        "publish settings of these that can be used; until then the former ones are in force:\n{}{more}",
        named.join("\n")
    );
    check.found(Level::Warn, remedy)
}

fn of_counts(latest: &BTreeMap<String, Latest>) -> Check {
    let mut counts = HashMap::<&str, usize>::new();
    for (workspace, _) in latest.values().flatten() {
        *counts.entry(workspace).or_default() += 1;
    }
    let mut over: Vec<_> = counts.iter().filter(|(_, count)| **count > PER_WORKSPACE).collect();
    over.sort();
    let expected = format!("at most {PER_WORKSPACE} in a workspace");
    let most = counts.values().max().copied().unwrap_or_default();
    let seen = format!("{} workspaces, at most {most} webhooks in one", counts.len());
    let check = Check::ok("webhooks a workspace", seen, expected);
    let named: Vec<_> = over.iter().take(NAMED).map(|(id, count)| format!("`{id}` ({count})")).collect();
    check.found_if(
        !over.is_empty(),
        Level::Warn,
        format!("{} workspaces have more, delete some of their webhooks: {}", over.len(), named.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: SealedSettings = SealedSettings { require_sealed: false };

    fn settings(id: &str, workspace: &str) -> String {
        serde_json::json!({
            "webhook_id": id, "workspace_id": workspace, "url": "https://hooks.example/x",
            "owner": {"full_name": "A", "email": "a@acme.example"},
        })
        .to_string()
    }

    #[test]
    fn the_latest_record_of_each_webhook_counts() {
        let mut latest = BTreeMap::new();
        for (key, value) in [
            ("a", Some(settings("a", "ws"))),
            ("b", Some(settings("b", "ws"))),
            ("b", None),
            ("c", Some("{}".to_owned())),
            ("c", Some(settings("c", "ws"))),
            ("d", Some(settings("other", "ws"))),
        ] {
            note(&mut latest, OPEN, Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
        }
        let check = of_usability(&latest);
        assert_eq!(check.seen, "3 webhooks, 2 switched on, 1 unusable");
        assert!(check.remedy.unwrap().contains("`d`: the record's key is `d`, expected `other`"));
        assert_eq!(of_counts(&latest).level, Level::Ok);
    }

    #[test]
    fn a_webhook_in_two_partitions_is_found() {
        let mut places =
            Places::from([("a".to_owned(), BTreeSet::from([0])), ("b".to_owned(), BTreeSet::from([1]))]);
        assert_eq!(of_places("t", &places).level, Level::Ok);
        places.entry("a".to_owned()).or_default().insert(1);
        let check = of_places("t", &places);
        assert_eq!(check.level, Level::Fail);
        assert!(check.remedy.unwrap().contains("`a`"));
    }

    #[test]
    fn too_many_webhooks_of_a_workspace_are_found() {
        let mut latest = BTreeMap::new();
        for n in 0..11 {
            let id = format!("wh-{n}");
            note(&mut latest, OPEN, Some(id.as_bytes()), Some(settings(&id, "ws-big").as_bytes()));
        }
        let check = of_counts(&latest);
        assert_eq!(check.level, Level::Warn);
        assert!(check.remedy.unwrap().contains("`ws-big` (11)"));
    }
}

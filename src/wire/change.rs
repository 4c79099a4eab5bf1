//! Records of `webhook-changes` (schemas/webhook-change.json): who changed what of a webhook, and when.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use crate::model::{
    ids::{WebhookId, WorkspaceId},
    webhook::masked_url,
};

/// Fields that every edit changes, and those that say whose it is.
const NO_CHANGE: [&str; 5] = ["webhook_id", "workspace_id", "version", "updated_at", "updated_by"];

/// A field that was changed. What is secret is masked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangedField {
    pub field: String,
    /// Null where there was nothing.
    pub from: Value,
    /// Null where there is nothing any more.
    pub to: Value,
}

/// A change of a webhook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    v: u32,
    /// The same, however often it is published.
    pub change_id: Uuid,
    pub workspace_id: WorkspaceId,
    pub webhook_id: WebhookId,
    /// As it was called then.
    pub label: String,
    /// `created`, `changed`, `deleted`, `disabled` (by the system), `enabled` (after that) or `discarded`.
    pub what: String,
    /// The version of the settings, where they were changed.
    pub version: Option<u64>,
    pub by: String,
    /// By the broker's clock.
    pub at: String,
    pub fields: Vec<ChangedField>,
}

impl Change {
    /// A change without fields.
    #[must_use]
    pub fn new(id: Uuid, workspace: WorkspaceId, webhook: WebhookId, what: &str, at: String) -> Self {
        Self {
            v: 1,
            change_id: id,
            workspace_id: workspace,
            webhook_id: webhook,
            label: String::new(),
            what: what.to_owned(),
            version: None,
            by: "system".to_owned(),
            at,
            fields: Vec::new(),
        }
    }

    /// Writes a record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always serialise")
    }

    /// Reads a record; none if it is no change of a known version.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok().filter(|read: &Self| read.v == 1)
    }
}

/// What differs between two records of settings, without what is secret.
#[must_use]
pub fn changed_fields(from: &Map<String, Value>, to: &Map<String, Value>) -> Vec<ChangedField> {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let mut fields = Vec::new();
    for name in names.into_iter().filter(|name| !NO_CHANGE.contains(&name.as_str())) {
        let (before, after) = (from.get(name).unwrap_or(&Value::Null), to.get(name).unwrap_or(&Value::Null));
        if before == after {
            continue;
        }
        if name == "headers" {
            fields.extend(changed_headers(before, after));
        } else {
            fields.push(ChangedField {
                field: name.clone(),
                from: masked(name, before),
                to: masked(name, after),
            });
        }
    }
    fields
}

fn changed_headers(before: &Value, after: &Value) -> Vec<ChangedField> {
    let empty = Map::new();
    let (before, after) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&Value>| value.map_or(Value::Null, |_| "***".into());
    let changed = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    changed
        .map(|name| ChangedField {
            field: format!("headers.{name}"),
            from: shown(before.get(name)),
            to: shown(after.get(name)),
        })
        .collect()
}

/// A value as it may be shown.
fn masked(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("secrets", Value::Array(secrets)) => secrets.iter().map(|_| Value::from("***")).collect(),
        ("url", Value::String(url)) => {
            Url::parse(url).map_or_else(|_| "***".into(), |url| masked_url(&url).into())
        }
        // What the program does not know may be anything.
        ("label" | "enabled" | "granularity" | "success" | "max_per_second" | "owner" | "secrets", value) => {
            value.clone()
        }
        (_, Value::Null) => Value::Null,
        _ => "***".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_is_named_and_what_is_secret_is_masked() {
        let from = json!({"label": "a", "url": "https://h.example/?key=s3cret", "secrets": ["whsec_s3cret"], "version": 1,
            "headers": {"authorization": "s3cret", "x-same": "s3cret"}});
        let to = json!({"label": "b", "url": "https://h.example/", "secrets": [], "version": 2, "updated_by": "ann",
            "headers": {"x-same": "s3cret", "x-new": "s3cret"}, "unknown": "s3cret"});
        let fields = changed_fields(from.as_object().unwrap(), to.as_object().unwrap());
        let names: Vec<&str> = fields.iter().map(|field| field.field.as_str()).collect();
        assert_eq!(names, ["headers.authorization", "headers.x-new", "label", "secrets", "unknown", "url"]);
        assert_eq!((&fields[2].from, &fields[2].to), (&json!("a"), &json!("b")));
        assert!(!serde_json::to_string(&fields).unwrap().contains("s3cret"));
    }

    #[test]
    fn a_change_reads_back_and_another_version_does_not() {
        let id = |text| WebhookId::parse(text).unwrap();
        let workspace = WorkspaceId::parse("ws").unwrap();
        let change = Change::new(Uuid::from_u128(7), workspace, id("wh"), "created", "x".to_owned());
        assert_eq!(Change::decode(&change.encode()), Some(change.clone()));
        assert_eq!(Change::decode(&Change { v: 2, ..change }.encode()), None);
    }
}

//! What the API takes and gives.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    commands::{LastAttempt, Patch, WebhookView},
    model::{statistics::DayCounts, webhook::Owner},
};

/// The owner of a workspace, who gets e-mails.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerShape {
    pub full_name: String,
    pub email: String,
}

impl From<OwnerShape> for Owner {
    fn from(owner: OwnerShape) -> Self {
        Self { full_name: owner.full_name, email: owner.email }
    }
}

/// A webhook: its settings without what is secret, and how it fares.
#[allow(clippy::struct_field_names, reason = "the names are those of the records")]
#[derive(Debug, Serialize, ToSchema)]
pub struct Webhook {
    pub webhook_id: String,
    pub workspace_id: String,
    pub label: String,
    /// With the values of its query masked.
    pub url: String,
    /// Switched on by its owner.
    pub enabled: bool,
    /// `none`, `1h`, `6h`, `12h` or `24h`.
    pub granularity: String,
    /// `200` or `2xx`.
    pub success: String,
    /// Most deliveries a second; null is no limit.
    pub max_per_second: Option<u16>,
    /// How many signing secrets it has.
    pub secrets: usize,
    /// Names, with masked values.
    pub headers: BTreeMap<String, String>,
    pub owner: OwnerShape,
    /// To be given back with an edit, so that nothing is overwritten unseen.
    pub version: u64,
    pub updated_at: Option<String>,
    pub updated_by: Option<String>,
    /// `healthy`, `tripped` (it fails, and is tried again with pauses) or `disabled` (by the system).
    pub state: String,
    /// Consecutive failures.
    pub failures: u32,
    /// Since when it is tripped or disabled.
    pub since: Option<String>,
    /// When a tripped one is tried again.
    pub next_attempt_at: Option<String>,
    /// Until when the deliveries of a disabled one are held.
    pub held_until: Option<String>,
    /// Deliveries that wait or are held.
    pub parked: u64,
    /// Successful attempts of the last ten days.
    pub deliveries: u64,
    /// The other attempts.
    pub failed: u64,
    /// Messages of the last ten days that did not count, by reason.
    pub skipped: BTreeMap<String, u64>,
    pub last_attempt: Option<LastAttemptShape>,
}

/// An attempt in short.
#[derive(Debug, Serialize, ToSchema)]
pub struct LastAttemptShape {
    pub at: String,
    /// The `webhook-id` that the receiver saw.
    pub bundle_id: Uuid,
    pub outcome: String,
    /// Null if nothing was answered.
    pub status: Option<u16>,
}

impl From<LastAttempt> for LastAttemptShape {
    fn from(last: LastAttempt) -> Self {
        let (at, status) = (last.at, last.status);
        Self { at, bundle_id: last.bundle_id.0, outcome: last.outcome.as_str().to_owned(), status }
    }
}

impl From<WebhookView> for Webhook {
    fn from(view: WebhookView) -> Self {
        Self {
            webhook_id: view.webhook_id.into(),
            workspace_id: view.workspace_id.into(),
            label: view.label,
            url: view.url,
            enabled: view.enabled,
            granularity: view.granularity.as_str().to_owned(),
            success: view.success.as_str().to_owned(),
            max_per_second: view.max_per_second,
            secrets: view.secrets,
            headers: view.headers.into_iter().map(|(name, masked)| (name, masked.to_owned())).collect(),
            owner: OwnerShape { full_name: view.owner.full_name, email: view.owner.email },
            version: view.version,
            updated_at: view.updated_at,
            updated_by: view.updated_by,
            state: view.state.to_owned(),
            failures: view.failures,
            since: view.since,
            next_attempt_at: view.next_attempt_at,
            held_until: view.held_until,
            parked: view.parked,
            deliveries: view.deliveries,
            failed: view.failed,
            skipped: view
                .skipped
                .into_iter()
                .map(|(skip, count)| (skip.as_str().to_owned(), count))
                .collect(),
            last_attempt: view.last_attempt.map(Into::into),
        }
    }
}

/// A new webhook.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Needed with an admin token; else the token's.
    pub workspace_id: Option<String>,
    /// The host of the URL unless given.
    pub label: Option<String>,
    /// `http` or `https`, absolute.
    pub url: String,
    pub enabled: Option<bool>,
    /// `none`, `1h`, `6h`, `12h` or `24h`.
    pub granularity: Option<String>,
    /// `200` or `2xx`.
    pub success: Option<String>,
    /// 1 to 1,000; null is no limit.
    #[schema(minimum = 1, maximum = 1000)]
    pub max_per_second: Option<u16>,
    /// At most two of Standard Webhooks (`whsec_…`). They are never shown again.
    pub secrets: Option<Vec<String>>,
    /// Headers to send beside ours. Their values are never shown again.
    pub headers: Option<BTreeMap<String, String>>,
    /// Unless the token, or another webhook of the workspace, says who it is.
    pub owner: Option<OwnerShape>,
}

/// What is to be changed; what is not given stays as it is.
#[allow(clippy::option_option, reason = "null is not the same as nothing")]
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookPatch {
    /// The version that the edit is based on.
    pub version: u64,
    pub label: Option<String>,
    pub url: Option<String>,
    pub granularity: Option<String>,
    pub success: Option<String>,
    /// Null takes the limit away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    pub max_per_second: Option<Option<u16>>,
    /// All of them, anew.
    pub secrets: Option<Vec<String>>,
    /// Headers by name; null takes one away, those that are not named stay.
    pub headers: Option<BTreeMap<String, Option<String>>>,
    pub owner: Option<OwnerShape>,
}

/// Null that was given is not the same as nothing.
#[allow(clippy::option_option, reason = "null is not the same as nothing")]
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u16>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl From<WebhookPatch> for Patch {
    fn from(patch: WebhookPatch) -> Self {
        Self {
            label: patch.label,
            url: patch.url,
            enabled: None,
            granularity: patch.granularity,
            success: patch.success,
            max_per_second: patch.max_per_second,
            secrets: patch.secrets,
            headers: patch.headers.unwrap_or_default().into_iter().collect(),
            owner: patch.owner.map(Into::into),
        }
    }
}

impl NewWebhook {
    pub fn patch(self) -> Patch {
        let headers = self.headers.unwrap_or_default().into_iter();
        Patch {
            label: self.label,
            url: Some(self.url),
            enabled: self.enabled,
            granularity: self.granularity,
            success: self.success,
            max_per_second: self.max_per_second.map(Some),
            secrets: self.secrets,
            headers: headers.map(|(name, value)| (name, Some(value))).collect(),
            owner: self.owner.map(Into::into),
        }
    }
}

/// The version that a change is based on.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BasedOn {
    /// Only if the settings have this version.
    pub version: Option<u64>,
}

/// How a secret is rotated.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The version that the edit is based on.
    pub version: Option<u64>,
    /// Sign with the former secret, too, until the rotation is ended; true unless given.
    pub keep_former: Option<bool>,
}

/// A new secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewSecret {
    /// Shown this once.
    pub secret: String,
    /// How many secrets sign now.
    pub secrets: usize,
}

/// What becomes of deliveries that are held.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeldShape {
    /// They are sent.
    Send,
    /// They are dropped.
    Discard,
}

/// An enabling.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Enabling {
    /// Must be said of a webhook that the system disabled.
    pub held: Option<HeldShape>,
    /// Only if the settings have this version.
    pub version: Option<u64>,
}

/// A disabling.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Disabling {
    /// Only if the settings have this version.
    pub version: Option<u64>,
}

/// What a switch came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct SwitchedShape {
    /// `unchanged`, `by_settings` or `by_activation`.
    pub switched: String,
}

/// A test delivery.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// Given twice, the test is sent once.
    pub request_id: Option<Uuid>,
}

/// What came of a test.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestResult {
    pub request_id: Uuid,
    /// The `webhook-id` that was sent.
    pub bundle_id: Uuid,
    /// The attempt, as in the log; null if it is not known yet.
    #[schema(value_type = Option<Object>)]
    pub attempt: Option<serde_json::Value>,
}

/// What to send again: `delivery`, or `from` and perhaps `to`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResendRequest {
    /// One delivery of the last ten days, by its `webhook-id`.
    pub delivery: Option<Uuid>,
    /// All whose bundles were written at this time (RFC 3339) or later.
    pub from: Option<String>,
    /// Only those before this time; now unless given.
    pub to: Option<String>,
    /// Under a new `webhook-id` each.
    pub new_id: Option<bool>,
    /// Given twice, each delivery is sent once.
    pub request_id: Option<Uuid>,
}

/// What is being sent again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResendResult {
    pub request_id: Uuid,
    /// How many deliveries.
    pub deliveries: u64,
}

/// What is counted of a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatisticsShape {
    /// The last ten days (UTC), the earliest first.
    pub days: Vec<DayShape>,
    pub deliveries: u64,
    pub failures: u64,
    /// The share of failures, from 0 to 1; null without attempts.
    pub error_rate: Option<f64>,
    /// The most recent attempt that was answered.
    pub last_response: Option<LastAttemptShape>,
}

/// What is counted on a day.
#[derive(Debug, Serialize, ToSchema)]
pub struct DayShape {
    /// Like `2021-02-24`.
    pub day: String,
    pub deliveries: u64,
    pub failures: u64,
    /// Messages that did not count, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl From<DayCounts> for DayShape {
    fn from(counts: DayCounts) -> Self {
        Self {
            day: counts.day.to_string(),
            deliveries: counts.deliveries,
            failures: counts.failures,
            skipped: counts
                .skipped
                .into_iter()
                .map(|(skip, count)| (skip.as_str().to_owned(), count))
                .collect(),
        }
    }
}

/// A workspace that has webhooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct WorkspaceShape {
    pub workspace_id: String,
    pub webhooks: usize,
}

/// A change of a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangeShape {
    pub change_id: Uuid,
    pub workspace_id: String,
    pub webhook_id: String,
    pub label: String,
    /// `created`, `changed`, `deleted`, `disabled` (by the system), `enabled` (after that) or `discarded`.
    pub what: String,
    pub version: Option<u64>,
    pub by: String,
    pub at: String,
    /// What was changed; what is secret is masked.
    pub fields: Vec<ChangedShape>,
}

/// A field that was changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedShape {
    pub field: String,
    /// Null where there was nothing.
    pub from: serde_json::Value,
    /// Null where there is nothing any more.
    pub to: serde_json::Value,
}

impl From<crate::commands::Change> for ChangeShape {
    fn from(change: crate::commands::Change) -> Self {
        let field = |field: crate::commands::ChangedField| ChangedShape {
            field: field.field,
            from: field.from,
            to: field.to,
        };
        Self {
            change_id: change.change_id,
            workspace_id: change.workspace_id.into(),
            webhook_id: change.webhook_id.into(),
            label: change.label,
            what: change.what,
            version: change.version,
            by: change.by,
            at: change.at,
            fields: change.fields.into_iter().map(field).collect(),
        }
    }
}

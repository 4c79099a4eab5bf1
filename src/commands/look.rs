//! Looking at webhooks and their logs.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{CommandError, Commands};
use crate::{
    io::redis::queue,
    model::{
        delivery::Outcome,
        event::Skip,
        health::{Circuit, Health},
        history::{Current, HOLD},
        ids::{BundleId, WebhookId, WorkspaceId},
        statistics::{DayCounts, LOGGED, LogEntry, Statistics, Tenure},
        webhook::{Activation, Owner, SuccessRule, masked_url},
        window::Granularity,
    },
    wire::attempt::AttemptRecord,
};

/// So many of the latest attempts are looked at for one that is no test.
const LOOKED_AT: usize = 10;

/// A webhook: its settings without what is secret, and how it fares.
#[derive(Debug, Clone, Serialize)]
pub struct WebhookView {
    pub webhook_id: WebhookId,
    pub workspace_id: WorkspaceId,
    pub label: String,
    /// With the values of its query masked.
    pub url: String,
    /// Switched on by its owner.
    pub enabled: bool,
    pub granularity: Granularity,
    pub success: SuccessRule,
    pub max_per_second: Option<u16>,
    /// How many signing secrets it has.
    pub secrets: usize,
    /// Names, with masked values.
    pub headers: BTreeMap<String, &'static str>,
    pub owner: Owner,
    pub version: u64,
    pub updated_at: Option<String>,
    pub updated_by: Option<String>,
    /// When it was last enabled: time in milliseconds, topic, offset.
    pub activation: Activation,
    /// `healthy`, `tripped` or `disabled` by the system.
    pub state: &'static str,
    /// Consecutive failures.
    pub failures: u32,
    /// Since when it is tripped or disabled.
    pub since: Option<String>,
    /// When a tripped one is tried again.
    pub next_attempt_at: Option<String>,
    /// Until when the deliveries of a disabled one are held.
    pub held_until: Option<String>,
    /// Deliveries that are parked: waiting, or held.
    pub parked: u64,
    /// Successful attempts of the last ten days.
    pub deliveries: u64,
    /// The other ones.
    pub failed: u64,
    /// Messages of the last ten days that did not count, by reason.
    pub skipped: BTreeMap<Skip, u64>,
    /// The same by day, the earliest of ten first.
    #[serde(skip)]
    pub days: Vec<DayCounts>,
    /// The latest in its log that is no test.
    pub last_attempt: Option<LastAttempt>,
}

/// An attempt in short.
#[derive(Debug, Clone, Serialize)]
pub struct LastAttempt {
    pub at: String,
    pub bundle_id: BundleId,
    pub outcome: Outcome,
    pub status: Option<u16>,
}

/// An attempt with all that was sent and received.
#[derive(Debug, Clone, Serialize)]
pub struct Logged {
    #[serde(flatten)]
    pub attempt: AttemptRecord,
    /// The body that was sent; null if it is no longer kept.
    pub body: Option<String>,
}

impl Commands {
    /// All webhooks, or those of a workspace, in the order of their ids.
    ///
    /// # Errors
    /// If Kafka or Redis can't be read.
    pub async fn list(&self, workspace: Option<&WorkspaceId>) -> Result<Vec<WebhookView>, CommandError> {
        self.read_settings().await?;
        let all = self.tail.directory().all();
        let is_wanted =
            |current: &Current| workspace.is_none_or(|workspace| current.webhook.workspace_id == *workspace);
        let parked = self.parked().await?;
        let mut views = Vec::new();
        for current in all.into_iter().filter(is_wanted) {
            views.push(self.view(&current, &parked).await?);
        }
        Ok(views)
    }

    /// One webhook.
    ///
    /// # Errors
    /// If there is none, or Kafka or Redis can't be read.
    pub async fn show(&self, id: &WebhookId) -> Result<WebhookView, CommandError> {
        let current = self.current(id).await?;
        self.view(&current, &self.parked().await?).await
    }

    /// The most recent attempts of a webhook, newest first.
    ///
    /// # Errors
    /// If there is no such webhook, or Kafka or Redis can't be read.
    pub async fn log(&self, id: &WebhookId, count: usize) -> Result<Vec<Logged>, CommandError> {
        let tenure = tenure(&self.current(id).await?);
        let logged = self.log.recent_in_full(&tenure, count).await?.into_iter().filter_map(|logged| {
            let body = logged.body.map(|body| String::from_utf8_lossy(&body).into_owned());
            Some(Logged { attempt: logged.record?, body })
        });
        Ok(logged.collect())
    }

    /// True if the log of a webhook shows the attempt at this place of `delivery-attempts`, or has gone past it.
    ///
    /// # Errors
    /// If Redis can't be read.
    pub async fn shows(&self, id: &WebhookId, partition: i32, offset: i64) -> Result<bool, CommandError> {
        // What is said of one that is nobody's any more is shown nowhere.
        let Some(current) = self.tail.directory().current(id) else { return Ok(true) };
        let entries = self.log.recent(&tenure(&current), LOGGED).await?;
        Ok(entries.iter().any(|entry| entry.partition == partition && entry.offset >= offset))
    }

    /// What is counted of a webhook by day, and its last response.
    ///
    /// # Errors
    /// If there is no such webhook, or Kafka or Redis can't be read.
    pub async fn statistics(&self, id: &WebhookId) -> Result<Statistics, CommandError> {
        let current = self.current(id).await?;
        Ok(self.log.statistics(&tenure(&current)).await?)
    }

    /// The workspaces that have webhooks.
    ///
    /// # Errors
    /// If Kafka can't be read.
    pub async fn workspaces(&self) -> Result<BTreeMap<WorkspaceId, usize>, CommandError> {
        self.read_settings().await?;
        let mut workspaces = BTreeMap::new();
        for current in self.tail.directory().all() {
            *workspaces.entry(current.webhook.workspace_id.clone()).or_default() += 1;
        }
        Ok(workspaces)
    }

    /// The latest logged attempt of a bundle.
    pub(super) async fn attempt_of(
        &self,
        current: &Current,
        bundle: BundleId,
    ) -> Result<Option<AttemptRecord>, CommandError> {
        let entries = self.log.recent(&tenure(current), LOGGED).await?;
        let entry = entries.into_iter().find(|entry| entry.bundle_id == bundle);
        let logged = self.log.in_full(entry.into_iter().collect()).await?;
        Ok(logged.into_iter().find_map(|logged| logged.record))
    }

    /// The health of a webhook under its present activation.
    pub(super) async fn health_of(&self, current: &Current) -> Result<Health, CommandError> {
        let id = &current.webhook.webhook_id;
        let stored = self.health.read(id).await?.or_else(|| self.health_log.known(id));
        Ok(Health::restored(stored, current.activation, current.disabled.map(|disabled| disabled.at)))
    }

    async fn parked(&self) -> Result<HashMap<String, u64>, CommandError> {
        let partitions = self.partitions(&self.topics.bundles).await?;
        Ok(queue::counts(&self.redis, self.topics.prefix(), partitions).await?)
    }

    async fn view(
        &self,
        current: &Current,
        parked: &HashMap<String, u64>,
    ) -> Result<WebhookView, CommandError> {
        let (webhook, health) = (&current.webhook, self.health_of(current).await?);
        let (mut since, mut next_attempt_at, mut held_until) = (None, None, None);
        match health.circuit {
            Circuit::Healthy => {}
            Circuit::Tripped { since: tripped_at, next_at, .. } => {
                (since, next_attempt_at) = (Some(tripped_at.to_rfc3339()), Some(next_at.to_rfc3339()));
            }
            Circuit::Disabled { at } => {
                (since, held_until) = (Some(at.to_rfc3339()), Some((at + HOLD).to_rfc3339()));
            }
        }
        let tenure = tenure(current);
        let last = self.log.recent(&tenure, LOOKED_AT).await?.into_iter().find(LogEntry::counts);
        let statistics = self.log.statistics(&tenure).await?;
        let mut skipped = BTreeMap::new();
        for (skip, count) in statistics.days.iter().flat_map(|day| &day.skipped) {
            *skipped.entry(*skip).or_default() += count;
        }
        Ok(WebhookView {
            webhook_id: webhook.webhook_id.clone(),
            workspace_id: webhook.workspace_id.clone(),
            label: webhook.label.clone(),
            url: masked_url(&webhook.url),
            enabled: webhook.enabled,
            granularity: webhook.granularity,
            success: webhook.success,
            max_per_second: webhook.max_per_second,
            secrets: webhook.secrets.len(),
            headers: webhook.headers.iter().map(|(name, _)| (name.to_string(), "***")).collect(),
            owner: webhook.owner.clone(),
            version: webhook.version,
            updated_at: webhook.updated_at.clone(),
            updated_by: webhook.updated_by.clone(),
            activation: current.activation,
            state: health.circuit.as_str(),
            failures: health.failures,
            since,
            next_attempt_at,
            held_until,
            parked: parked.get(webhook.webhook_id.as_str()).copied().unwrap_or_default(),
            deliveries: statistics.deliveries(),
            failed: statistics.failures(),
            skipped,
            days: statistics.days,
            last_attempt: last.map(|entry| LastAttempt {
                at: entry.at.to_rfc3339(),
                bundle_id: entry.bundle_id,
                outcome: entry.outcome,
                status: entry.status,
            }),
        })
    }
}

/// Whose log and counts are shown: those of the workspace that the webhook belongs to now.
fn tenure(current: &Current) -> Tenure {
    let webhook = &current.webhook;
    Tenure { webhook: webhook.webhook_id.clone(), workspace: webhook.workspace_id.clone() }
}

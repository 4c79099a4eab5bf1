use std::time::Duration;

use uuid::Uuid;

use super::{KafkaSettings, RedisSettings, SealedSettings, value};
use crate::model::{
    ids::{BundleId, WebhookId, WorkspaceId},
    time::Millis,
};

/// What the commands end with.
const EXIT_CODES: &str = "\
Exit codes:
   0  carried out
   1  refused as things stand, the test failed, or anything else
  64  a wrong argument
  66  what is named is not there
  69  Kafka or Redis can't be reached
  75  somebody else has changed, or is changing, the same; try again";

/// What to do to webhooks.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct WebhookCommand {
    #[command(subcommand)]
    pub action: WebhookAction,
}

/// The commands on webhooks.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum WebhookAction {
    /// Lists webhooks with their states.
    List(ListWebhooks),
    /// Shows a webhook: its settings without secrets, its state, what waits, the last response.
    Show(ShowWebhook),
    /// Shows the most recent attempts to deliver, newest first.
    Log(LogWebhook),
    /// Sends a sample and waits for the answer. It is logged and counts for nothing; ends with 1 if it failed.
    Test(TestWebhook),
    /// Switches a webhook on that its owner or the system has disabled.
    Enable(EnableWebhook),
    /// Switches a webhook off: what is open or waits is dropped.
    Disable(DisableWebhook),
    /// Sends deliveries of the past again.
    Resend(ResendWebhook),
}

impl WebhookAction {
    /// The settings that all have in common.
    #[must_use]
    pub fn common(&self) -> &WebhookCommon {
        match self {
            Self::List(command) => &command.common,
            Self::Show(command) => &command.common,
            Self::Log(command) => &command.common,
            Self::Test(command) => &command.common,
            Self::Enable(command) => &command.common,
            Self::Disable(command) => &command.common,
            Self::Resend(command) => &command.common,
        }
    }
}

/// What every command on webhooks needs.
#[derive(Debug, Clone, clap::Args)]
pub struct WebhookCommon {
    /// Print JSON: one object, or a list.
    #[arg(long, env = "BUNDLEHOOK_WEBHOOK_JSON", value_parser = value::switch)]
    pub json: bool,
    /// Who gives the command, for the change log.
    #[arg(long, env = "BUNDLEHOOK_WEBHOOK_BY", value_name = "WHO", default_value = "operator")]
    pub by: String,
    /// Longest wait for Kafka, Redis, or the result of a test.
    #[arg(long = "timeout", value_name = "TIMEOUT", env = "BUNDLEHOOK_WEBHOOK_TIMEOUT", default_value = "30s", value_parser = value::duration)]
    pub patience: Duration,
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub sealed: SealedSettings,
}

/// `webhook list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListWebhooks {
    /// Only those of this workspace.
    #[arg(long, value_name = "ID", value_parser = value::workspace_id)]
    pub workspace: Option<WorkspaceId>,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook show`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook log`.
#[derive(Debug, Clone, clap::Args)]
pub struct LogWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    /// How many attempts; the latest 100 are kept at hand.
    #[arg(long, default_value_t = 10, value_parser = value::number::<u8>(1..=100))]
    pub count: u8,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook test`.
#[derive(Debug, Clone, clap::Args)]
pub struct TestWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    /// Id of this request, a UUID; given twice, the test is sent once.
    #[arg(long, value_name = "UUID", value_parser = value::uuid)]
    pub request_id: Option<Uuid>,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook enable`.
#[derive(Debug, Clone, clap::Args)]
pub struct EnableWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    /// Send the deliveries that the system holds.
    #[arg(long, conflicts_with = "discard")]
    pub send: bool,
    /// Drop the deliveries that the system holds.
    #[arg(long)]
    pub discard: bool,
    /// Only if the settings have this version.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook disable`.
#[derive(Debug, Clone, clap::Args)]
pub struct DisableWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    /// Only if the settings have this version.
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    #[command(flatten)]
    pub common: WebhookCommon,
}

/// `webhook resend`.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["delivery", "from"]).required(true))]
pub struct ResendWebhook {
    /// Id of the webhook.
    #[arg(value_parser = value::webhook_id)]
    pub id: WebhookId,
    /// One delivery of the last 10 days, by its `webhook-id` as the log shows it.
    #[arg(long, value_name = "UUID", value_parser = value::bundle_id)]
    pub delivery: Option<BundleId>,
    /// All deliveries whose bundles were written at this time or later.
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub from: Option<Millis>,
    /// Only those before this time; now unless given.
    #[arg(long, value_name = "TIME", value_parser = value::time, requires = "from", conflicts_with = "delivery")]
    pub to: Option<Millis>,
    /// Under a new `webhook-id` each, so that the receiver takes them for new.
    #[arg(long)]
    pub new_id: bool,
    /// Id of this request, a UUID; given twice, each delivery is sent once.
    #[arg(long, value_name = "UUID", value_parser = value::uuid)]
    pub request_id: Option<Uuid>,
    #[command(flatten)]
    pub common: WebhookCommon,
}

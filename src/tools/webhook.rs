//! Commands on webhooks: arguments in, a table or JSON out.

mod show;

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::say;
use crate::{
    commands::{Commands, Held, Resend, Resent, Switched, What},
    config::{EnableWebhook, ResendWebhook, TestWebhook, WebhookAction},
    model::ids::WebhookId,
};

/// Carries a command out. Ends early when `stop` is cancelled.
///
/// # Errors
/// `CommandError`, which has the code to exit with.
pub async fn run(action: WebhookAction, stop: CancellationToken) -> anyhow::Result<()> {
    let common = action.common();
    let (kafka, redis, by) = (&common.kafka, &common.redis, common.by.clone());
    tokio::select! {
        done = async {
            let commands = Commands::connect(kafka, redis, common.sealed, by, common.patience, false, stop.clone()).await?;
            carry_out(&commands, &action, common.json).await
        } => done,
        () = stop.cancelled() => bail!("stopped; whether the command was carried out shows `bundlehook webhook show`"),
    }
}

async fn carry_out(commands: &Commands, action: &WebhookAction, json: bool) -> anyhow::Result<()> {
    match action {
        WebhookAction::List(command) => {
            let webhooks = commands.list(command.workspace.as_ref()).await?;
            print(json, &webhooks, || show::list(&webhooks))
        }
        WebhookAction::Show(command) => {
            let webhook = commands.show(&command.id).await?;
            print(json, &webhook, || show::webhook(&webhook))
        }
        WebhookAction::Log(command) => {
            let attempts = commands.log(&command.id, command.count.into()).await?;
            print(json, &attempts, || show::log(&attempts))
        }
        WebhookAction::Test(command) => test(commands, command).await,
        WebhookAction::Enable(command) => enable(commands, command).await,
        WebhookAction::Disable(command) => {
            let done = commands.disable(&command.id, command.if_version).await?;
            switched(json, &command.id, "off", done)
        }
        WebhookAction::Resend(command) => resend(commands, command).await,
    }
}

async fn test(commands: &Commands, command: &TestWebhook) -> anyhow::Result<()> {
    let (id, request) = (&command.id, command.request_id.unwrap_or_else(Uuid::new_v4));
    let tested = commands.test(id, request).await?;
    print(command.common.json, &tested, || show::tested(&tested))?;
    match tested.attempt {
        None => bail!("webhook `{id}` has no result yet; `bundlehook webhook log` shows it once it is there"),
        Some(attempt) => match attempt.error {
            Some(error) => bail!("the test of webhook `{id}` failed: {error}"),
            None => Ok(()),
        },
    }
}

async fn enable(commands: &Commands, command: &EnableWebhook) -> anyhow::Result<()> {
    let held = match (command.send, command.discard) {
        (true, _) => Some(Held::Send),
        (_, true) => Some(Held::Discard),
        _ => None,
    };
    let done = commands.enable(&command.id, held, command.if_version).await?;
    switched(command.common.json, &command.id, "on", done)
}

fn switched(json: bool, id: &WebhookId, now: &str, done: Switched) -> anyhow::Result<()> {
    let value = serde_json::json!({"webhook_id": id, "switched": done});
    print(json, &value, || match done {
        Switched::Unchanged => format!("webhook `{id}` is {now} already"),
        Switched::BySettings => {
            format!("webhook `{id}` is {now}; that counts for messages that arrive from 5 s after it on")
        }
        Switched::ByActivation => format!("webhook `{id}` is {now} again; its count of failures is 0"),
    })
}

async fn resend(commands: &Commands, command: &ResendWebhook) -> anyhow::Result<()> {
    let what = match (command.delivery, command.from) {
        (Some(bundle), _) => What::Delivery(bundle),
        (None, Some(from)) => What::Range { from, to: command.to },
        (None, None) => bail!("expected `--delivery` or `--from`"),
    };
    let request_id = command.request_id.unwrap_or_else(Uuid::new_v4);
    let wanted = Resend { what, new_id: command.new_id, request_id };
    let Resent { deliveries, .. } = commands.resend(&command.id, &wanted).await?;
    let plural = if deliveries == 1 { "y is" } else { "ies are" };
    print(command.common.json, &Resent { request_id, deliveries }, || {
        format!("{deliveries} deliver{plural} being sent again, request {request_id}")
    })
}

/// Prints JSON, or the text.
fn print(json: bool, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    if json { say(&serde_json::to_string(value)?) } else { say(&text()) }
}

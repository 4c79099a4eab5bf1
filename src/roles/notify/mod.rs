//! The role `notify`: `notifications` to the owners' mailboxes.

mod partition;

use std::sync::Arc;

use super::{backlog::Backlogs, checks, process::Process};
use crate::{
    config::{Given, MailSettings, SmtpUrl, StartFrom},
    io::{
        kafka::intake::{Intake, IntakeOptions},
        smtp::{SmtpClient, outbox::Outbox},
    },
};

/// What the workers of all partitions share.
struct Notify {
    process: Process,
    settings: MailSettings,
    /// Where to start without a committed offset, if the operator says.
    from: Option<StartFrom>,
    outlet: Outlet,
    backlogs: Backlogs,
}

/// Where e-mails go.
enum Outlet {
    Smtp(SmtpClient),
    /// They are only shown: on standard output and in the console.
    Shown(Outbox),
}

/// Starts the role. It runs until the intake is stopped. Without a server e-mails are shown on standard output,
/// and kept in the outbox.
///
/// # Errors
/// If Kafka or TLS refuse what the role begins with.
pub async fn start(
    process: &Process,
    settings: MailSettings,
    server: Option<Given<SmtpUrl>>,
    outbox: &Outbox,
    from: Option<StartFrom>,
) -> anyhow::Result<Intake> {
    if !process.embedded {
        checks::topics(process, &[&process.topics.notifications]).await?;
    }
    let outlet = match server {
        Some(server) => {
            let client = SmtpClient::new(server, settings.smtp_timeout, settings.smtp_ca_bundle.clone())?;
            if client.is_open() {
                tracing::warn!("e-mails go to the SMTP server in the clear");
            }
            Outlet::Smtp(client)
        }
        None => Outlet::Shown(outbox.clone()),
    };
    let options = IntakeOptions {
        topic: process.topics.notifications.clone(),
        group: process.topics.group("notify"),
        // An e-mail that is being handed over is finished.
        drain: settings.smtp_timeout + std::time::Duration::from_secs(5),
        embedded: process.embedded,
    };
    let backlogs = Backlogs::start(process, "notify", &process.topics.notifications)?;
    let notify = Arc::new(Notify { process: process.clone(), settings, from, outlet, backlogs });
    let spawn = Box::new(move |feed| {
        let notify = notify.clone();
        Box::pin(async move { partition::work(&notify, feed).await }) as _
    });
    Ok(Intake::start(&process.kafka, &options, spawn)?)
}

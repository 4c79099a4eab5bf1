//! The role `serve`: the console and the API.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{checks, process::Process};
use crate::{
    commands::{Commands, Sealing},
    config::{DeliverySettings, RedisSettings, SealedSettings, ServeSettings, WindowSettings},
    console::{self, Console, Uses},
    io::{clock, sealing_keys, smtp::outbox::Outbox},
    model::window::WindowRule,
};

/// Longest wait of a request for Kafka or Redis, and for the result of a test.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the link of `dev` lets in.
const LINK_LIVES: Duration = Duration::from_hours(24 * 7);

/// What the role needs.
#[derive(Debug, Clone)]
pub struct Serve {
    pub settings: ServeSettings,
    /// Seal what is secret.
    pub sealing_keys: Option<PathBuf>,
    pub rule: WindowRule,
    /// Tokens are signed with this one; secrets stay in the clear. For `dev`.
    pub secret: Option<String>,
}

impl Serve {
    /// The role in `all`, if anybody could sign in.
    pub(super) fn if_wanted(
        settings: ServeSettings,
        delivery: &DeliverySettings,
        windows: &WindowSettings,
    ) -> Option<Self> {
        settings.sign_in.is_given().then(|| Self {
            sealing_keys: delivery.sealing_keys.clone(),
            rule: windows.rule(),
            secret: None,
            settings,
        })
    }

    /// The role in `dev`, where a link signs in.
    pub(super) fn with_secret(settings: ServeSettings, windows: &WindowSettings, secret: String) -> Self {
        Self { settings, sealing_keys: None, rule: windows.rule(), secret: Some(secret) }
    }

    /// Prints the link that opens the console signed in.
    pub(super) fn announce(&self) -> anyhow::Result<()> {
        let Some(secret) = &self.secret else { return Ok(()) };
        let until = clock::now() + LINK_LIVES;
        let claims = json!({
            "iss": self.settings.sign_in.jwt_issuer, "aud": self.settings.sign_in.jwt_audience, "exp": until.0 / 1000,
            "sub": "dev", "email": "dev@localhost", "workspace_id": "ws-acme", "role": "editor",
            "owner": {"full_name": "Developer", "email": "dev@localhost"},
        });
        let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes()))?;
        println!("console: http://{}/sign-in?token={token}", self.settings.console_addr);
        Ok(())
    }
}

/// A secret that lives as long as the process.
pub(super) fn dev_secret() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}

/// Starts the role. It takes requests until it is told to stop; what it stands on ends with `end`. The task that is
/// answered ends when all requests are answered after that.
///
/// # Errors
/// If a file can't be used, nobody could sign in, or the port is taken.
pub(super) async fn start(
    process: &Process,
    redis: &RedisSettings,
    sealed: SealedSettings,
    serve: Serve,
    outbox: Outbox,
    stop: &CancellationToken,
    end: &CancellationToken,
) -> anyhow::Result<JoinHandle<()>> {
    let Serve { settings, sealing_keys, rule, secret } = serve;
    let believed = match &secret {
        Some(secret) => console::believed_secret(&settings.sign_in, secret),
        None => console::believed(&settings.sign_in, end.clone())?,
    };
    let keys = sealing_keys.as_deref().map(sealing_keys::read).transpose()?;
    let sealing = match (keys, secret) {
        (Some(keys), _) => Sealing::With(Arc::new(keys)),
        (None, Some(_)) => Sealing::Plain,
        (None, None) => Sealing::Refused,
    };
    if !process.embedded {
        checks::topics(process, &[&process.topics.webhook_settings, &process.topics.webhook_changes]).await?;
    }
    let connecting = Commands::connect(
        &process.kafka,
        redis,
        sealed,
        "console".to_owned(),
        PATIENCE,
        process.embedded,
        end.clone(),
    );
    let commands = connecting.await?.sealing(sealing);
    let (changes, publishing) = commands.keep_changes(process.embedded, end.clone())?;
    process.watch_following(changes.following(), end);
    let ready = commands.clone();
    process.probes.require(move || ready.ready());
    // Elsewhere e-mails are sent, by whichever process.
    let mails = process.embedded.then_some(outbox);
    let metrics = process.metrics.clone();
    commands.measure(metrics.redis_duration.clone());
    let uses =
        Uses { commands: commands.clone(), changes, believed, rule, mails, metrics, stop: stop.clone() };
    let (console, live) = Console::start(uses, &settings, &process.kafka, process.embedded, end)?;
    let bound = console.serve(settings.console_addr, stop.clone()).await;
    let (bound, serving) = bound.with_context(|| {
        format!("the address `{}` of --console-addr can't be opened", settings.console_addr)
    })?;
    tracing::info!(addr = %bound, "serving the console and the API");
    let (process, stop, end) = (process.clone(), stop.clone(), end.clone());
    Ok(tokio::spawn(async move {
        // None of them ends before it is told to, unless it died.
        let (what, told) = tokio::select! {
            problem = commands.failed() => return process.fail(problem),
            _ = publishing => ("the change log is no longer kept", end),
            _ = live => ("what happens to webhooks is no longer followed", end),
            _ = serving => ("the console is no longer served", stop),
        };
        if !told.is_cancelled() {
            process.fail(what.to_owned());
        }
    }))
}

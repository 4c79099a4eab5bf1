//! The API and the console: one router. Handlers of both call the same commands.

mod api;
mod authority;
mod client;
mod identity;
mod limits;
mod live;
mod measured;
mod page;
mod problem;
mod security;

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use self::authority::{
    Authority, AuthorityError, Believable, Believed, believable, believed, believed_secret,
};
use self::{client::Proxies, limits::FailedSignIns, live::LiveEvents};
use crate::{
    commands::{ChangeLog, Commands},
    config::{KafkaSettings, ServeSettings, SettingsBy},
    io::smtp::outbox::Outbox,
    model::window::WindowRule,
    ops::metrics::Metrics,
};

/// What all handlers share.
pub struct Console {
    commands: Commands,
    changes: ChangeLog,
    believed: Believed,
    proxies: Proxies,
    failed: FailedSignIns,
    live: LiveEvents,
    metrics: Metrics,
    /// When windows close.
    rule: WindowRule,
    /// E-mails that are shown instead of being sent; in `dev` alone.
    mails: Option<Outbox>,
    /// Settings may be edited here.
    editable: bool,
    max_webhooks: usize,
    /// Origins of the product, which may show the console in a frame and sign people in.
    frame_ancestors: Vec<String>,
    /// A link may sign in; for `dev`.
    links: bool,
    /// Streams of events end with it.
    stop: CancellationToken,
}

/// What the console stands on.
pub struct Uses {
    pub commands: Commands,
    pub changes: ChangeLog,
    pub believed: Believed,
    /// When windows close.
    pub rule: WindowRule,
    /// E-mails that are shown instead of being sent.
    pub mails: Option<Outbox>,
    pub metrics: Metrics,
    /// Ends what is told as it happens, so that nobody's page holds up the end.
    pub stop: CancellationToken,
}

type Shared = Arc<Console>;

impl Console {
    /// Begins to follow what happens to webhooks. The answer beside it ends when that is not followed any more.
    ///
    /// # Errors
    /// If librdkafka refuses the configuration.
    pub fn start(
        uses: Uses,
        settings: &ServeSettings,
        kafka: &KafkaSettings,
        embedded: bool,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Arc<Self>, oneshot::Receiver<()>)> {
        let (live, ended) = LiveEvents::start(&uses.commands, kafka, embedded, stop)?;
        let Uses { commands, changes, believed, rule, mails, metrics, stop: told } = uses;
        let console = Self {
            commands,
            changes,
            believed,
            proxies: Proxies::new(settings),
            failed: FailedSignIns::default(),
            live,
            metrics,
            rule,
            mails,
            editable: settings.settings_by == SettingsBy::Console,
            max_webhooks: settings.max_webhooks as usize,
            frame_ancestors: settings.frame_ancestors.clone(),
            links: embedded,
            stop: told,
        };
        Ok((Arc::new(console), ended))
    }

    fn router(self: &Arc<Self>) -> Router {
        let headers = security::Headers::new(&self.frame_ancestors);
        let metrics = self.metrics.clone();
        Router::new()
            .merge(page::router())
            .nest("/api/v1", api::router())
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::wrong_method)
            .layer(axum::middleware::from_fn(move |request, next| {
                let headers = headers.clone();
                async move { security::add(&headers, request, next).await }
            }))
            .layer(axum::middleware::from_fn(move |request, next| {
                let metrics = metrics.clone();
                async move { measured::measure(&metrics, request, next).await }
            }))
            .with_state(self.clone())
    }

    /// Serves until it is told to stop, and then until the requests that have come are answered. Returns once the port is
    /// open, with the task that serves.
    ///
    /// # Errors
    /// If the port can't be opened.
    pub async fn serve(
        self: &Arc<Self>,
        addr: SocketAddr,
        stop: CancellationToken,
    ) -> std::io::Result<(SocketAddr, JoinHandle<std::io::Result<()>>)> {
        let listener = TcpListener::bind(addr).await?;
        let bound = listener.local_addr()?;
        let service = self.router().into_make_service_with_connect_info::<SocketAddr>();
        let server = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
        Ok((bound, tokio::spawn(server.into_future())))
    }
}

//! What happens, as it happens: a stream of server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream::unfold};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa::IntoParams;

use super::extract::{Params, Problems};
use crate::{
    console::{
        Believed, Shared,
        identity::{Caller, unknown},
        live::{LiveEvent, What},
        measured::Open,
        problem::Problem,
    },
    model::ids::WebhookId,
};

/// A comment is sent so often where nothing happens, so that nobody takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Of {
    /// Only those of this webhook.
    pub webhook_id: Option<String>,
}

/// Attempts and changes of state, as server-sent events: `attempt` (the log shows it), `webhook` (settings, state or failures)
/// or `missed` (look anew). The data is an object with `webhook_id`.
#[utoipa::path(get, path = "/events", params(Of), responses((status = 200, content((String = "text/event-stream"))), Problems))]
pub async fn events(
    State(console): State<Shared>,
    caller: Caller,
    Params(of): Params<Of>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let only = of.webhook_id.as_deref().map(WebhookId::parse).transpose();
    let only = only.map_err(|error| Problem::invalid(format!("`webhook_id` is {error}")))?;
    if let Some(id) = &only {
        let workspace = console.commands.owner_workspace(id).await?;
        if !workspace.is_some_and(|workspace| caller.sees(&workspace)) {
            return Err(unknown(id));
        }
    }
    let mut believed = console.believed.clone();
    believed.mark_unchanged();
    let following = Following {
        happened: console.live.subscribe(),
        believed,
        was_theirs: only.is_some(),
        _open: Open::new(&console.metrics.event_streams),
        console,
        caller,
        only,
    };
    let events = unfold(following, async |mut following| Some((Ok(following.next().await?), following)));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The events that a caller may see.
struct Following {
    console: Shared,
    happened: Receiver<LiveEvent>,
    believed: Believed,
    caller: Caller,
    only: Option<WebhookId>,
    /// The one webhook that is meant was theirs when something last happened to it.
    was_theirs: bool,
    _open: Open,
}

impl Following {
    /// The next event. None once the caller is to show again who they are: their token has ended, or whom to believe has
    /// changed; and when the console stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let left = self.caller.time_left().unwrap_or(Duration::MAX);
            let happened = tokio::select! {
                happened = self.happened.recv() => happened,
                () = tokio::time::sleep(left) => return None,
                () = self.console.stop.cancelled() => return None,
                changed = self.believed.changed() => {
                    changed.ok()?;
                    return None;
                }
            };
            match happened {
                Ok(happened) if self.may_see(&happened.webhook).await => {
                    return Some(event(happened.what.as_str(), happened.webhook.as_str()));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(Event::default().event("missed").data("{}")),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Whether an event of a webhook is for the caller. One that was deleted is nobody's any more: whoever looks at it alone
    /// is told once. From then on its id may be somebody else's.
    async fn may_see(&mut self, webhook: &WebhookId) -> bool {
        let commands = &self.console.commands;
        if self.only.is_none() {
            return commands.workspace_of(webhook).is_some_and(|workspace| self.caller.sees(&workspace));
        }
        if self.only.as_ref() != Some(webhook) {
            return false;
        }
        match commands.owner_workspace(webhook).await {
            Ok(Some(workspace)) => {
                self.was_theirs = self.caller.sees(&workspace);
                self.was_theirs
            }
            Ok(None) => std::mem::take(&mut self.was_theirs),
            Err(_) => false,
        }
    }
}

fn event(what: &str, id: &str) -> Event {
    debug_assert!(what == What::Attempt.as_str() || what == What::Webhook.as_str());
    Event::default().event(what).data(json!({"webhook_id": id}).to_string())
}

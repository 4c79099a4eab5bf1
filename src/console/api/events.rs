//! What happens, as it happens: a stream of server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream::unfold};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use utoipa::IntoParams;

use super::extract::{Params, Problems};
use crate::console::{Shared, identity::Caller, live::What, problem::Problem};

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
    Ok(stream(&console, caller, of.webhook_id))
}

/// The events that a caller may see.
pub fn stream(
    console: &Shared,
    caller: Caller,
    only: Option<String>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let console = console.clone();
    let receiver = console.live.subscribe();
    let events = unfold((receiver, console, caller, only), async |(mut receiver, console, caller, only)| {
        loop {
            let event = match receiver.recv().await {
                Ok(happened) => {
                    let theirs = console.commands.workspace_of(&happened.webhook);
                    let id = happened.webhook.as_str();
                    // One that was just deleted is nobody's any more; its page is told by its id alone.
                    let is_theirs = theirs.is_none_or(|workspace| caller.sees(&workspace));
                    let is_meant = only.as_deref().is_none_or(|only| only == id);
                    if !is_theirs
                        || !is_meant
                        || (only.is_none() && console.commands.workspace_of(&happened.webhook).is_none())
                    {
                        continue;
                    }
                    event(happened.what.as_str(), id)
                }
                Err(RecvError::Lagged(_)) => Event::default().event("missed").data("{}"),
                Err(RecvError::Closed) => return None,
            };
            return Some((Ok(event), (receiver, console, caller, only)));
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn event(what: &str, id: &str) -> Event {
    debug_assert!(what == What::Attempt.as_str() || what == What::Webhook.as_str());
    Event::default().event(what).data(json!({"webhook_id": id}).to_string())
}

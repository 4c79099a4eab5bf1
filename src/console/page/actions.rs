//! What the buttons do.

use askama::Template;
use axum::{
    Form,
    extract::{Query, State},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use uuid::Uuid;

use super::{Visited, failed, form::lead_to, refused, said, said_of_edit, show::path, written};
use crate::{
    commands::{Held, Resend, Switched, What},
    console::{Shared, problem::Problem},
    model::{
        ids::{BundleId, WebhookId},
        time::{Millis, parse_timestamp},
    },
};

/// The part of the page about the signing secret.
#[derive(Template)]
#[template(path = "secret.html", config = ".askama.toml")]
struct SecretPart {
    secret: Secret,
}

pub struct Secret {
    pub path: String,
    pub count: usize,
    /// Shown this once.
    pub shown: Option<String>,
    /// The version that the settings have now, for the form on the same page.
    pub version: Option<u64>,
    pub problem: Option<String>,
}

fn answer(done: Result<String, Problem>) -> Response {
    match done {
        Ok(text) => said("good", &text),
        Err(problem) => refused(&problem),
    }
}

pub async fn test(State(console): State<Shared>, visited: Visited) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        let tested = console.commands.by(&caller.name).test(&id, Uuid::new_v4()).await?;
        Ok(match tested.attempt {
            None => Err("The test is on its way. What comes of it will show in the activity.".to_owned()),
            Some(attempt) if attempt.settled.as_deref() == Some("delivered") => {
                Ok(format!("The test arrived: {} ms.", attempt.duration_ms))
            }
            Some(attempt) => Err(format!(
                "The test failed: {}. It counts for nothing; open it in the activity to see more.",
                attempt.error.unwrap_or_else(|| "no answer".to_owned())
            )),
        })
    };
    match done.await {
        Ok(Ok(text)) => said("good", &text),
        Ok(Err(text)) => said("warn", &text),
        Err(problem) => refused(&problem),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Enable {
    held: String,
    version: Option<u64>,
}

pub async fn enable(State(console): State<Shared>, visited: Visited, Form(sent): Form<Enable>) -> Response {
    let Visited { caller, id } = visited;
    let held = match sent.held.as_str() {
        "send" => Some(Held::Send),
        "discard" => Some(Held::Discard),
        _ => None,
    };
    let done = async {
        caller.must_edit()?;
        let switched = console.enable(&caller, &id, held, sent.version).await?;
        let text = match (switched, held) {
            (Switched::Unchanged, _) => "It is on already.",
            (Switched::ByActivation, Some(Held::Discard)) => "It is on again. What was held is discarded.",
            (Switched::ByActivation, _) => "It is on again. What was held is being sent.",
            (Switched::BySettings, _) => "It is on. It gets messages from about 5 seconds from now.",
        };
        Ok((text, switched))
    };
    switched(done.await, sent.version)
}

pub async fn disable(State(console): State<Shared>, visited: Visited, Form(sent): Form<Based>) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        console.must_be_editable()?;
        let switched = console.commands.by(&caller.name).disable(&id, sent.version).await?;
        Ok(("It is off. What was open or waited is dropped.", switched))
    };
    switched(done.await, sent.version)
}

/// Where the settings were edited, the page goes on from the version that this edit made. It is never told of a later one:
/// its form does not show what somebody else has changed since, and must be refused.
fn switched(done: Result<(&str, Switched), Problem>, version: Option<u64>) -> Response {
    match done {
        Ok((text, Switched::BySettings)) => said_of_edit(text, next(version)),
        done => answer(done.map(|(text, _)| text.to_owned())),
    }
}

/// The version that an edit of this one makes.
fn next(version: Option<u64>) -> Option<u64> {
    version.map(|version| version + 1)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Again {
    delivery: Option<Uuid>,
    from: String,
    to: String,
    new_id: bool,
}

pub async fn resend(State(console): State<Shared>, visited: Visited, Form(sent): Form<Again>) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        let what = match sent.delivery {
            Some(delivery) => What::Delivery(BundleId(delivery)),
            None => What::Range {
                from: time(&sent.from)?
                    .ok_or_else(|| Problem::invalid("`From` is empty, expected a time"))?,
                to: time(&sent.to)?,
            },
        };
        let resend = Resend { what, new_id: sent.new_id, request_id: Uuid::new_v4() };
        let begun = console.commands.by(&caller.name).resend(&id, &resend).await?;
        let calls = if begun.deliveries == 1 { "call is" } else { "calls are" };
        Ok(format!("{} {calls} being sent again.", begun.deliveries))
    };
    answer(done.await)
}

/// A time of a form, which is in UTC: `2021-02-24T16:25`, perhaps with seconds.
fn time(text: &str) -> Result<Option<Millis>, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = if text.matches(':').count() == 1 { ":00" } else { "" };
    let time = parse_timestamp(&format!("{text}{seconds}Z")).map(Millis::from);
    time.map(Some)
        .map_err(|_| Problem::invalid(format!("`{text}` is no time, expected one like 2021-02-24 16:25")))
}

pub async fn rotate(State(console): State<Shared>, visited: Visited, Form(sent): Form<Based>) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        console.must_be_editable()?;
        Ok(console.commands.by(&caller.name).rotate(&id, true, sent.version).await?)
    };
    let path = path(&id);
    let secret = match done.await {
        Ok(rotated) => Secret {
            path,
            count: rotated.secrets,
            shown: Some(rotated.secret),
            version: next(sent.version),
            problem: None,
        },
        Err(problem) => unchanged(&console, &id, problem).await,
    };
    written(&SecretPart { secret })
}

pub async fn end_rotation(
    State(console): State<Shared>,
    visited: Visited,
    Form(sent): Form<Based>,
) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        console.must_be_editable()?;
        Ok(console.commands.by(&caller.name).end_rotation(&id, sent.version).await?)
    };
    let path = path(&id);
    let secret = match done.await {
        Ok(()) => Secret { path, count: 1, shown: None, version: next(sent.version), problem: None },
        Err(problem) => unchanged(&console, &id, problem).await,
    };
    written(&SecretPart { secret })
}

async fn unchanged(console: &Shared, id: &WebhookId, problem: Problem) -> Secret {
    let count = console.commands.show(id).await.map(|view| view.secrets).unwrap_or_default();
    Secret { path: path(id), count, shown: None, version: None, problem: Some(problem.detail) }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Based {
    version: Option<u64>,
}

/// Deletes what the page shows. A browser without scripts says by the address which version that is.
pub async fn delete(
    State(console): State<Shared>,
    visited: Visited,
    Query(shown): Query<Based>,
    headers: HeaderMap,
    Form(sent): Form<Based>,
) -> Response {
    let Visited { caller, id } = visited;
    let done = async {
        caller.must_edit()?;
        console.must_be_editable()?;
        let version = sent.version.or(shown.version);
        let version = version.ok_or_else(|| {
            Problem::invalid("`version` is missing, expected the one of the settings that are shown")
        })?;
        Ok::<_, Problem>(console.commands.by(&caller.name).delete(&id, Some(version)).await?)
    };
    match done.await {
        Ok(()) => lead_to(&headers, "/"),
        Err(problem) if headers.contains_key("hx-request") => refused(&problem),
        Err(problem) => failed(&problem),
    }
}

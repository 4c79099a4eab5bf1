//! The log of a webhook, and what is counted of it.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    extract::{Params, Problems, Theirs},
    plain::{plain, plain_lines},
    shapes::{DayShape, LastAttemptShape, StatisticsShape},
};
use crate::{
    commands::{LastAttempt, Logged},
    console::{Shared, problem::Problem},
    model::{ids::WebhookId, statistics::LOGGED},
};

/// How much of the log.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HowMany {
    /// Attempts; 10 unless given.
    #[param(minimum = 1, maximum = 100)]
    pub count: Option<usize>,
}

/// The form of a download.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// A list of objects.
    #[default]
    Json,
    /// For people.
    Text,
}

/// A download.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Download {
    /// `json` unless given.
    #[param(inline)]
    pub format: Option<Form>,
}

/// The most recent attempts to deliver, newest first, with everything that was sent and received.
#[utoipa::path(get, path = "/webhooks/{webhook_id}/log", params(("webhook_id" = String, Path), HowMany), responses((status = 200, body = Vec<Object>), Problems))]
pub async fn read(
    State(console): State<Shared>,
    theirs: Theirs,
    Params(many): Params<HowMany>,
) -> Result<Json<Vec<Logged>>, Problem> {
    let count = many.count.unwrap_or(10);
    if !(1..=LOGGED).contains(&count) {
        return Err(Problem::invalid(format!("`count` is `{count}`, expected 1 to {LOGGED}")));
    }
    Ok(Json(console.commands.log(&theirs.id, count).await?))
}

/// The 100 most recent attempts as a file.
#[utoipa::path(get, path = "/webhooks/{webhook_id}/log/download", params(("webhook_id" = String, Path), Download), responses((status = 200, content((Vec<Object> = "application/json"), (String = "text/plain; charset=utf-8"))), Problems))]
pub async fn download(
    State(console): State<Shared>,
    theirs: Theirs,
    Params(download): Params<Download>,
) -> Result<Response, Problem> {
    let log = console.commands.log(&theirs.id, LOGGED).await?;
    Ok(downloaded(&log, &theirs.id, download.format.unwrap_or_default()))
}

/// What is counted of the last ten days.
#[utoipa::path(get, path = "/webhooks/{webhook_id}/statistics", params(("webhook_id" = String, Path)), responses((status = 200, body = StatisticsShape), Problems))]
pub async fn statistics(
    State(console): State<Shared>,
    theirs: Theirs,
) -> Result<Json<StatisticsShape>, Problem> {
    let statistics = console.commands.statistics(&theirs.id).await?;
    let last = statistics.last_response.as_ref().map(|entry| LastAttempt {
        at: entry.at.to_rfc3339(),
        bundle_id: entry.bundle_id,
        outcome: entry.outcome,
        status: entry.status,
    });
    Ok(Json(StatisticsShape {
        deliveries: statistics.deliveries(),
        failures: statistics.failures(),
        error_rate: statistics.error_rate(),
        last_response: last.map(LastAttemptShape::from),
        days: statistics.days.into_iter().map(DayShape::from).collect(),
    }))
}

/// A log as a file.
pub fn downloaded(log: &[Logged], id: &WebhookId, form: Form) -> Response {
    match form {
        Form::Json => {
            let text = serde_json::to_string_pretty(log).unwrap_or_default();
            file(text, "application/json", &file_name("log", id, "json"))
        }
        Form::Text => file(readable(log), "text/plain; charset=utf-8", &file_name("log", id, "txt")),
    }
}

/// A name without anything that a header or a disk could stumble over.
pub fn file_name(what: &str, of: &WebhookId, ending: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let of: String = of.as_str().chars().map(plain).collect();
    format!("{of}-{what}.{ending}")
}

/// A text as a file to keep.
pub fn file(text: String, kind: &'static str, name: &str) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)], text)
        .into_response()
}

/// A log for people.
pub fn readable(log: &[Logged]) -> String {
    let mut text = String::new();
    for logged in log {
        // Writing to a string can't fail.
        let _ = write_attempt(&mut text, logged);
    }
    if log.is_empty() { "No attempts yet.\n".to_owned() } else { text }
}

fn write_attempt(text: &mut String, Logged { attempt, body }: &Logged) -> std::fmt::Result {
    let bundle = &attempt.bundle;
    writeln!(
        text,
        "==== {} {} (attempt {}, {}, {} messages, {} ms): {}",
        attempt.started_at,
        bundle.bundle_id,
        attempt.attempt,
        attempt.kind,
        bundle.messages,
        attempt.duration_ms,
        attempt.outcome.as_str(),
    )?;
    if let Some(error) = &attempt.error {
        writeln!(text, "{}", plain(error))?;
    }
    writeln!(text, "\n{} {}", attempt.request.method, plain(&attempt.request.url))?;
    for (name, value) in &attempt.request.headers {
        writeln!(text, "{}: {}", plain(name), plain(value))?;
    }
    writeln!(text, "\n{}\n", plain_lines(body.as_deref().unwrap_or("(the body is no longer kept)")))?;
    if let Some(response) = &attempt.response {
        writeln!(text, "---- answered {}", response.status)?;
        for (name, value) in &response.headers {
            writeln!(text, "{}: {}", plain(name), plain(value))?;
        }
        let cut = if response.truncated { "\n(cut)" } else { "" };
        writeln!(text, "\n{}{cut}\n", plain_lines(&response.body))?;
    }
    Ok(())
}

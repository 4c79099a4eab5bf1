//! Errors as RFC 9457 problem details.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::commands::CommandError;

/// What went wrong, by RFC 9457.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Problem {
    /// The kind of problem: a URI reference.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The status of the response.
    pub status: u16,
    /// What is wrong here: the field, its value unless it is secret, and what is expected.
    pub detail: String,
    /// The fields that are wrong.
    pub errors: Vec<WrongField>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

/// A field that is wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct WrongField {
    /// Its name.
    pub field: String,
    /// Its value, and what is expected.
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        let kind = format!("/docs/api#{}", title.to_lowercase().replace(' ', "-"));
        let (title, detail) = (title.to_owned(), detail.into());
        Self { kind, title, status: status.as_u16(), detail, errors: Vec::new(), retry_after: None }
    }

    /// Nobody is signed in.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Not signed in", detail)
    }

    /// Somebody is, who may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not allowed", detail)
    }

    /// What is named is not there, or belongs to somebody else.
    pub fn missing(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found", detail)
    }

    /// A value can't be used. The field is the first that the detail names in backticks.
    pub fn invalid(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Wrong value", detail);
        if let Some(field) = problem.detail.split('`').nth(1) {
            let (field, detail) = (field.to_owned(), problem.detail.clone());
            problem.errors.push(WrongField { field, detail });
        }
        problem
    }

    /// Too many tries to sign in.
    pub fn too_many(seconds: u64) -> Self {
        let detail = format!("too many failed tries to sign in from this address; wait {seconds} s");
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail);
        Self { retry_after: Some(seconds), ..problem }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let text = error.to_string();
        // What the command line is told to run next is no help here.
        let text = text.split("; `bundlehook").next().unwrap_or_default();
        match error {
            CommandError::NotFound(_) => Self::missing(text),
            CommandError::Invalid(_) => Self::invalid(text),
            CommandError::Refused(_) => Self::new(StatusCode::CONFLICT, "Not possible now", text),
            CommandError::Conflict(_) => Self::new(StatusCode::CONFLICT, "Changed meanwhile", text),
            CommandError::Unavailable(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "Not available", text),
            CommandError::Failed(_) => {
                tracing::error!(error = text, "a request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed", text)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = self.retry_after;
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

pub async fn not_found() -> Problem {
    Problem::missing("there is no such page or route")
}

pub async fn wrong_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Wrong method", "this route does not take this method")
}

//! What a request holds, or a problem that says what is wrong with it.

use std::error::Error;

use axum::{
    Json,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::JsonRejection},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response, content::ContentBuilder, response::ResponseBuilder, schema::Ref};

use super::super::problem::Problem;
use crate::{
    console::{
        Shared,
        identity::{Caller, unknown},
    },
    model::ids::WebhookId,
    wire::Poison,
};

/// A body of JSON.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(JsonRejection::JsonDataError(error)) => Err(Problem::invalid(detail(&error))),
            Err(JsonRejection::JsonSyntaxError(error)) => {
                Err(Problem::new(StatusCode::BAD_REQUEST, "Wrong request", detail(&error)))
            }
            Err(error) => {
                let title = if error.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
                    "Wrong type"
                } else {
                    "Wrong request"
                };
                Err(Problem::new(error.status(), title, error.body_text()))
            }
        }
    }
}

/// What is wrong with a body, by the error that caused the refusal. Its own text quotes the body, where a secret may stand.
fn detail(refusal: &(dyn Error + 'static)) -> String {
    let mut cause = Some(refusal);
    while let Some(error) = cause {
        if let Some(by_path) = error.downcast_ref::<serde_path_to_error::Error<serde_json::Error>>() {
            return Poison::json(by_path).detail;
        }
        cause = error.source();
    }
    "the body is not one JSON object as described".to_owned()
}

/// The query.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Self(query)),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, "Wrong request", error.body_text())),
        }
    }
}

/// A webhook that the caller may see, and the caller.
pub struct Theirs {
    pub id: WebhookId,
    pub caller: Caller,
}

impl FromRequestParts<Shared> for Theirs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, console).await?;
        let Path(id) = Path::<String>::from_request_parts(parts, console)
            .await
            .map_err(|error| Problem::missing(error.body_text()))?;
        let id = WebhookId::parse(&id).map_err(|_| Problem::missing("there is no such webhook"))?;
        let owner = console.commands.owner_workspace(&id).await?;
        match owner {
            Some(workspace) if caller.sees(&workspace) => Ok(Self { id, caller }),
            _ => Err(unknown(&id)),
        }
    }
}

impl Theirs {
    /// Refuses viewers.
    pub fn editor(self) -> Result<(WebhookId, Caller), Problem> {
        self.caller.must_edit()?;
        Ok((self.id, self.caller))
    }
}

/// The problems that any route may answer with.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        let problem = |(status, text): (&str, &str)| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response =
                ResponseBuilder::new().description(text).content("application/problem+json", content).build();
            (status.to_owned(), RefOr::T(response))
        };
        [
            ("400", "The request can't be read."),
            ("401", "There is no token, or it is not valid."),
            ("403", "The caller's role does not allow this, or settings are not edited here."),
            ("404", "What is named is not there, or belongs to another workspace."),
            ("409", "It is not possible as things stand, or somebody else changed the same."),
            ("413", "The request is too large."),
            ("415", "The body is not of the type `application/json`."),
            ("422", "A value can't be used."),
            ("429", "Too many failed tries to sign in."),
            ("500", "Something is wrong here."),
            ("503", "Kafka or Redis can't be reached."),
        ]
        .map(problem)
        .into()
    }
}

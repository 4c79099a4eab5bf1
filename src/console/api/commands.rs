//! What is done to webhooks.

use axum::{Json, extract::State, http::StatusCode};
use uuid::Uuid;

use super::{
    extract::{Body, Problems, Theirs},
    shapes::{
        Disabling, Enabling, HeldShape, NewSecret, ResendRequest, ResendResult, Rotation, SwitchedShape,
        TestRequest, TestResult, Webhook,
    },
};
use crate::{
    commands::{Held, Resend, Switched, What},
    console::{Console, Shared, identity::Caller, problem::Problem},
    model::{
        ids::{BundleId, WebhookId},
        time::{Millis, parse_timestamp},
    },
};

/// Give a webhook a new signing secret, which is shown this once.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/rotate-secret", params(("webhook_id" = String, Path)), request_body = Rotation, responses((status = 200, body = NewSecret), Problems))]
pub async fn rotate(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(rotation): Body<Rotation>,
) -> Result<Json<NewSecret>, Problem> {
    let (id, caller) = theirs.editor()?;
    console.must_be_editable()?;
    let keep = rotation.keep_former.unwrap_or(true);
    let rotated = console.commands.by(&caller.name).rotate(&id, keep, rotation.version).await?;
    Ok(Json(NewSecret { secret: rotated.secret, secrets: rotated.secrets }))
}

/// End a rotation: only the newest secret signs from now on.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/end-rotation", params(("webhook_id" = String, Path)), request_body = Disabling, responses((status = 200, body = Webhook), Problems))]
pub async fn end_rotation(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(based): Body<Disabling>,
) -> Result<Json<Webhook>, Problem> {
    let (id, caller) = theirs.editor()?;
    console.must_be_editable()?;
    console.commands.by(&caller.name).end_rotation(&id, based.version).await?;
    Ok(Json(console.commands.show(&id).await?.into()))
}

/// Send a sample to a webhook, and wait for what comes of it. It is logged, and counts for nothing.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/test", params(("webhook_id" = String, Path)), request_body = TestRequest, responses((status = 200, body = TestResult), Problems))]
pub async fn test(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(request): Body<TestRequest>,
) -> Result<Json<TestResult>, Problem> {
    let (id, caller) = theirs.editor()?;
    let request = request.request_id.unwrap_or_else(Uuid::new_v4);
    let tested = console.commands.by(&caller.name).test(&id, request).await?;
    let attempt = tested.attempt.and_then(|attempt| serde_json::to_value(attempt).ok());
    Ok(Json(TestResult { request_id: tested.request_id, bundle_id: tested.bundle_id.0, attempt }))
}

/// Switch a webhook on that its owner or the system has disabled.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/enable", params(("webhook_id" = String, Path)), request_body = Enabling, responses((status = 200, body = SwitchedShape), Problems))]
pub async fn enable(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(enabling): Body<Enabling>,
) -> Result<Json<SwitchedShape>, Problem> {
    let (id, caller) = theirs.editor()?;
    let held = enabling.held.map(|held| match held {
        HeldShape::Send => Held::Send,
        HeldShape::Discard => Held::Discard,
    });
    console.enable(&caller, &id, held, enabling.version).await.map(switched)
}

/// Switch a webhook off: what is open or waits is dropped.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/disable", params(("webhook_id" = String, Path)), request_body = Disabling, responses((status = 200, body = SwitchedShape), Problems))]
pub async fn disable(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(disabling): Body<Disabling>,
) -> Result<Json<SwitchedShape>, Problem> {
    let (id, caller) = theirs.editor()?;
    console.must_be_editable()?;
    Ok(switched(console.commands.by(&caller.name).disable(&id, disabling.version).await?))
}

/// Send deliveries of the past again: one, or all of a time.
#[utoipa::path(post, path = "/webhooks/{webhook_id}/resend", params(("webhook_id" = String, Path)), request_body = ResendRequest, responses((status = 202, body = ResendResult), Problems))]
pub async fn resend(
    State(console): State<Shared>,
    theirs: Theirs,
    Body(request): Body<ResendRequest>,
) -> Result<(StatusCode, Json<ResendResult>), Problem> {
    let (id, caller) = theirs.editor()?;
    let what = match (request.delivery, &request.from, &request.to) {
        (Some(delivery), None, None) => What::Delivery(BundleId(delivery)),
        (None, Some(from), to) => {
            What::Range { from: time("from", from)?, to: to.as_deref().map(|to| time("to", to)).transpose()? }
        }
        _ => return Err(Problem::invalid("`delivery` or `from` is to be given, expected one of them")),
    };
    let request_id = request.request_id.unwrap_or_else(Uuid::new_v4);
    let resend = Resend { what, new_id: request.new_id.unwrap_or_default(), request_id };
    let done = console.commands.by(&caller.name).resend(&id, &resend).await?;
    let result = ResendResult { request_id: done.request_id, deliveries: done.deliveries };
    Ok((StatusCode::ACCEPTED, Json(result)))
}

fn time(field: &str, text: &str) -> Result<Millis, Problem> {
    let time = parse_timestamp(text).map(Millis::from);
    time.map_err(|error| Problem::invalid(format!("`{field}` is `{text}`, {error}")))
}

fn switched(switched: Switched) -> Json<SwitchedShape> {
    let switched = match switched {
        Switched::Unchanged => "unchanged",
        Switched::BySettings => "by_settings",
        Switched::ByActivation => "by_activation",
    };
    Json(SwitchedShape { switched: switched.to_owned() })
}

impl Console {
    /// Switches a webhook on. One that its owner switched off is switched on by its settings, which may be written elsewhere.
    pub(in crate::console) async fn enable(
        &self,
        caller: &Caller,
        id: &WebhookId,
        held: Option<Held>,
        version: Option<u64>,
    ) -> Result<Switched, Problem> {
        let view = self.commands.show(id).await?;
        if !view.enabled {
            self.must_be_editable()?;
        } else if view.state == "disabled" && held.is_none() {
            return Err(Problem::invalid(
                "`held` is missing, expected `send` or `discard`: deliveries are held since the system disabled the webhook",
            ));
        }
        Ok(self.commands.by(&caller.name).enable(id, held, version).await?)
    }
}

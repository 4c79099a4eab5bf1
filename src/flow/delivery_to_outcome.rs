//! A delivery becomes a request, and what came back becomes an outcome and the record of an attempt.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use secrecy::ExposeSecret;
use url::Url;
use uuid::Uuid;

use super::bundle_to_delivery::Delivery;
use crate::{
    model::{
        delivery::{Answer, Outcome, Settlement, is_refusal, settlement},
        health::{Circuit, Health, Verdict},
        time::Millis,
        webhook::{Webhook, masked_url},
    },
    wire::{
        attempt::{self, AttemptRecord, BundleReference, ReceivedResponse, SentRequest},
        bundle::window_start,
    },
};

/// What every request says it comes from.
const USER_AGENT: &str = concat!("Bundlehook/", env!("CARGO_PKG_VERSION"));

/// Secret values shorter than this are not masked in what an endpoint sends back.
const SHORTEST_MASKED: usize = 6;

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub url: Url,
    /// With the webhook's own; secret values are marked as sensitive.
    pub headers: HeaderMap,
    /// The bundle's body, unchanged.
    pub body: Bytes,
}

/// Builds the request of one attempt. `sent_at` is signed and fresh for each attempt (Standard Webhooks).
#[must_use]
pub fn request(delivery: &Delivery, webhook: &Webhook, sent_at: Millis) -> Request {
    let id = delivery.head.bundle_id.to_string();
    let seconds = sent_at.0.div_euclid(1000);
    let mut headers = HeaderMap::new();
    for (name, value) in &webhook.headers {
        headers.append(name, value.clone());
    }
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, "application/json; charset=utf-8");
    set(header::USER_AGENT, USER_AGENT);
    set(HeaderName::from_static("webhook-id"), &id);
    set(HeaderName::from_static("webhook-timestamp"), &seconds.to_string());
    if delivery.head.part > 0 {
        set(HeaderName::from_static("bundlehook-part"), &delivery.head.part.to_string());
    }
    let signatures = signatures(webhook, &id, seconds, &delivery.body);
    if !signatures.is_empty() {
        set(HeaderName::from_static("webhook-signature"), &signatures);
    }
    Request { url: webhook.url.clone(), headers, body: delivery.body.clone() }
}

/// One signature for each active secret, separated by spaces.
fn signatures(webhook: &Webhook, id: &str, seconds: i64, body: &[u8]) -> String {
    // Checked when the settings were read.
    let signers = webhook
        .secrets
        .iter()
        .filter_map(|secret| standardwebhooks::Webhook::new(secret.expose_secret()).ok());
    let signatures: Vec<String> = signers.filter_map(|signer| signer.sign(id, seconds, body).ok()).collect();
    signatures.join(" ")
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A complete head came in time.
    Answered(Answer),
    /// None did, and why.
    Failed(Outcome),
    /// It could not be sent for a reason of ours, such as resolvers that do not answer. It counts for nothing.
    Unsent(Outcome),
}

impl Reply {
    /// The status, if one came.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answered(answer) => Some(answer.status),
            Self::Failed(_) | Self::Unsent(_) => None,
        }
    }

    /// The outcome by the webhook's success rule.
    #[must_use]
    pub fn outcome(&self, webhook: &Webhook) -> Outcome {
        match self {
            Self::Answered(answer) => Outcome::of_status(answer.status, webhook.success),
            Self::Failed(outcome) | Self::Unsent(outcome) => *outcome,
        }
    }
}

/// What an attempt means for its delivery, which now counts it. A test that failed is not tried again.
pub fn settle(delivery: &mut Delivery, webhook: &Webhook, reply: &Reply) -> Settlement {
    delivery.attempts += 1;
    delivery.refusals += u32::from(is_refusal(reply.status()));
    match settlement(reply.outcome(webhook), reply.status(), webhook.success, delivery.refusals) {
        Settlement::Open if delivery.head.is_test() => Settlement::Rejected,
        settlement => settlement,
    }
}

/// What went wrong, in words that help the customer and show nothing of our own network.
#[must_use]
pub fn customer_text(reply: &Reply, webhook: &Webhook) -> Option<String> {
    let host = webhook.url.host_str().unwrap_or_default();
    if matches!(reply, Reply::Unsent(_)) {
        return Some("could not be sent for a reason on our side; this does not count".to_owned());
    }
    let text = match (reply.outcome(webhook), reply.status()) {
        (Outcome::Delivered, _) => return None,
        (Outcome::Redirect, Some(status)) => format!("answered {status}; redirects are not followed"),
        (_, Some(status)) => format!("answered {status}"),
        (Outcome::Timeout, _) => "did not answer in time".to_owned(),
        (Outcome::Dns, _) => format!("the name `{host}` could not be resolved"),
        (Outcome::Tls, _) => "no secure connection: check the certificate".to_owned(),
        (Outcome::ForbiddenAddress, _) => {
            format!("`{host}` is not a public address, or its port is not permitted")
        }
        (Outcome::TooLarge, _) => "the head of the answer is too large".to_owned(),
        (Outcome::Protocol, _) => "the connection ended, or the answer was not HTTP".to_owned(),
        _ => "could not be connected to".to_owned(),
    };
    Some(text)
}

/// Everything about an attempt that ended.
pub struct Ended<'a> {
    /// Of which delivery; this attempt is counted already.
    pub delivery: &'a Delivery,
    /// The settings it was made with.
    pub webhook: &'a Webhook,
    /// What was sent.
    pub request: &'a Request,
    /// What came back.
    pub reply: &'a Reply,
    /// When it began.
    pub started_at: Millis,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it means for the delivery.
    pub settlement: Settlement,
    /// What it meant for the webhook.
    pub verdict: Verdict,
    /// The webhook's health after it.
    pub health: &'a Health,
}

/// The record of an attempt.
#[must_use]
pub fn record(ended: &Ended<'_>) -> AttemptRecord {
    let Ended { delivery, webhook, reply, health, .. } = ended;
    let head = &delivery.head;
    let settled = match ended.settlement {
        Settlement::Delivered => Some("delivered".to_owned()),
        Settlement::Rejected => Some("rejected".to_owned()),
        Settlement::Open => None,
    };
    let next_attempt_at = match (ended.settlement, health.circuit) {
        (Settlement::Open, Circuit::Tripped { next_at, .. }) => Some(next_at.to_rfc3339()),
        _ => None,
    };
    AttemptRecord {
        v: attempt::VERSION,
        attempt_id: Uuid::new_v4(),
        number: health.number,
        webhook_id: head.webhook_id.clone(),
        workspace_id: head.workspace_id.clone(),
        chat_id: head.chat_id.clone(),
        bundle: BundleReference {
            partition: delivery.partition,
            offset: delivery.offset,
            bundle_id: head.bundle_id,
            granularity: head.granularity,
            window_start: head.window_start.map(window_start),
            part: head.part,
            messages: head.messages,
        },
        attempt: delivery.attempts,
        kind: head.kind().to_owned(),
        request_id: head.request().map(|request| request.id),
        requested_by: head.request().map(|request| request.by.clone()),
        started_at: ended.started_at.to_rfc3339(),
        duration_ms: ended.duration_ms,
        request: sent(ended.request),
        response: received(reply, ended.request),
        outcome: reply.outcome(webhook),
        error: customer_text(reply, webhook),
        counted: ended.verdict.counted,
        failures: health.failures,
        state: health.circuit.as_str().to_owned(),
        settled,
        next_attempt_at,
    }
}

fn sent(request: &Request) -> SentRequest {
    let masked = |(name, value): (&HeaderName, &HeaderValue)| {
        let shown =
            if value.is_sensitive() { "***".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        (name.to_string(), shown.into_owned())
    };
    SentRequest {
        method: "POST".to_owned(),
        url: masked_url(&request.url),
        headers: request.headers.iter().map(masked).collect(),
        body_bytes: request.body.len(),
    }
}

/// An endpoint may send back what it was sent: secret values are masked there, too.
fn received(reply: &Reply, request: &Request) -> Option<ReceivedResponse> {
    let Reply::Answered(answer) = reply else {
        return None;
    };
    let secrets = secret_values(request);
    let masked =
        |text: &str| secrets.iter().fold(text.to_owned(), |text, secret| text.replace(&**secret, "***"));
    Some(ReceivedResponse {
        status: answer.status.as_u16(),
        headers: answer.headers.iter().map(|(name, value)| (masked(name), masked(value))).collect(),
        body: masked(&answer.body),
        body_bytes: answer.body_bytes,
        truncated: answer.truncated,
    })
}

/// The secret values of a request: of headers, with what follows a scheme such as `Bearer` in them, and of the URL's query,
/// as they are sent and as they are meant. Short ones would mask words.
fn secret_values(request: &Request) -> Vec<Cow<'_, str>> {
    let values = request.headers.values().filter(|value| value.is_sensitive());
    let values = values.filter_map(|value| value.to_str().ok());
    let with_parts = values.flat_map(|value| [Some(value), value.split_once(' ').map(|(_, rest)| rest)]);
    let raw = request.url.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let of_query =
        raw.map(|(_, value)| value.into()).chain(request.url.query_pairs().map(|(_, value)| value));
    let all = with_parts.flatten().map(Cow::from).chain(of_query);
    all.filter(|secret| secret.len() >= SHORTEST_MASKED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{bundle::tests::head, settings};

    fn webhook() -> Webhook {
        let json = br#"{"webhook_id": "wh-1", "workspace_id": "ws-acme", "url": "https://h.example/?key=s3cret",
            "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4"],
            "headers": {"Authorization": "Bearer s3cret"}, "owner": {"full_name": "A", "email": "a@x.example"}}"#;
        settings::decode(json).unwrap()
    }

    fn delivery() -> Delivery {
        Delivery {
            head: head(),
            body: Bytes::from_static(b"{}"),
            partition: 0,
            offset: 5,
            bundled_at: Millis(0),
            attempts: 0,
            refusals: 0,
        }
    }

    #[test]
    fn the_signature_is_what_the_reference_library_verifies() {
        let sent_at = 1_614_182_500;
        let request = request(&delivery(), &webhook(), Millis(sent_at * 1000 + 999));
        let signatures = request.headers["webhook-signature"].to_str().unwrap();
        assert_eq!(signatures.split(' ').count(), 2);
        for secret in &webhook().secrets {
            let verifier = standardwebhooks::Webhook::new(secret.expose_secret()).unwrap();
            let id = head().bundle_id.to_string();
            assert!(signatures.contains(&verifier.sign(&id, sent_at, &request.body).unwrap()));
        }
    }

    #[test]
    fn the_headers_are_those_of_the_contract() {
        let request = request(&delivery(), &webhook(), Millis(1_614_182_500_999));
        assert_eq!(request.headers["content-type"], "application/json; charset=utf-8");
        assert_eq!(request.headers["webhook-timestamp"], "1614182500");
        assert_eq!(request.headers["bundlehook-part"], "2");
        assert_eq!(request.headers["webhook-id"], head().bundle_id.to_string().as_str());
        assert!(request.headers["user-agent"].to_str().unwrap().starts_with("Bundlehook/"));
    }

    #[test]
    fn secrets_do_not_show_in_the_record_of_an_attempt() {
        let (delivery, webhook) = (delivery(), webhook());
        let request = request(&delivery, &webhook, Millis(0));
        let health = Health::new(crate::model::webhook::Activation::default());
        let record = record(&Ended {
            delivery: &delivery,
            webhook: &webhook,
            request: &request,
            reply: &Reply::Failed(Outcome::Timeout),
            started_at: Millis(0),
            duration_ms: 10,
            settlement: Settlement::Open,
            verdict: Verdict { counted: true, closed: false },
            health: &health,
        });
        let json = String::from_utf8(crate::wire::attempt::encode(&record)).unwrap();
        assert!(!json.contains("s3cret"), "{json}");
        assert!(json.contains("did not answer in time"));
    }

    #[test]
    fn what_a_url_holds_is_masked_where_the_endpoint_sends_it_back() {
        let url = Url::parse("https://h.example/?token=abc%20defgh&n=12").unwrap();
        let request = Request { url, headers: HeaderMap::new(), body: Bytes::new() };
        let secrets = secret_values(&request);
        assert_eq!(secrets, ["abc%20defgh", "abc defgh"]);
    }
}

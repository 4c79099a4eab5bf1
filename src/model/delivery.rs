//! What became of an attempt to deliver a bundle.

use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::webhook::SuccessRule;

/// The closed set of outcomes: the same in metrics, the log and the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A success by the webhook's rule.
    Delivered,
    /// Another status.
    Status,
    /// A redirect; never followed.
    Redirect,
    /// No complete head in time.
    Timeout,
    /// The host's name did not resolve.
    Dns,
    /// No connection.
    Connect,
    /// No TLS session.
    Tls,
    /// The host's address may not be dialled.
    ForbiddenAddress,
    /// Not HTTP.
    Protocol,
    /// The head was too large.
    TooLarge,
}

impl Outcome {
    /// Every outcome, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Delivered,
        Self::Status,
        Self::Redirect,
        Self::Timeout,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::ForbiddenAddress,
        Self::Protocol,
        Self::TooLarge,
    ];

    /// The outcome as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Status => "status",
            Self::Redirect => "redirect",
            Self::Timeout => "timeout",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::ForbiddenAddress => "forbidden_address",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
        }
    }

    /// True if it is a success.
    #[must_use]
    pub fn is_delivered(self) -> bool {
        self == Self::Delivered
    }

    /// Classifies a status by the webhook's success rule.
    #[must_use]
    pub fn of_status(status: StatusCode, rule: SuccessRule) -> Self {
        match status {
            status if rule.accepts(status) => Self::Delivered,
            status if status.is_redirection() => Self::Redirect,
            _ => Self::Status,
        }
    }
}

/// What an attempt means for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// The receiver has it.
    Delivered,
    /// It will not be tried again: the receiver took it, though not with 200, or refused it for good.
    Rejected,
    /// It is tried again.
    Open,
}

/// How often an endpoint must refuse a delivery itself before it is rejected.
pub const REFUSALS: u32 = 3;

/// Decides what an attempt means for its delivery (spec, "Success, failure, disabling").
///
/// `refusals` counts the attempts of this delivery, this one included, that the endpoint itself refused.
#[must_use]
pub fn settlement(
    outcome: Outcome,
    status: Option<StatusCode>,
    rule: SuccessRule,
    refusals: u32,
) -> Settlement {
    let taken = rule == SuccessRule::Only200 && status.is_some_and(|status| status.is_success());
    match outcome {
        Outcome::Delivered => Settlement::Delivered,
        Outcome::Status if taken || refusals >= REFUSALS => Settlement::Rejected,
        _ => Settlement::Open,
    }
}

/// True if the endpoint refused this very delivery: its content, not its time.
#[must_use]
pub fn is_refusal(status: Option<StatusCode>) -> bool {
    matches!(status.map(|status| status.as_u16()), Some(400 | 413 | 415 | 422))
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status of the response.
    pub status: StatusCode,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body, as text, cut at 64 KiB.
    pub body: String,
    /// Bytes of the body that were read.
    pub body_bytes: u64,
    /// True if there was more.
    pub truncated: bool,
    /// `Retry-After`, as a span from when it was received.
    pub retry_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(status: u16, rule: SuccessRule, refusals: u32) -> Settlement {
        let status = StatusCode::from_u16(status).unwrap();
        settlement(Outcome::of_status(status, rule), Some(status), rule, refusals)
    }

    #[test]
    fn another_2xx_under_the_rule_200_is_rejected_not_retried() {
        assert_eq!(settle(202, SuccessRule::Only200, 0), Settlement::Rejected);
        assert_eq!(settle(202, SuccessRule::Any2xx, 0), Settlement::Delivered);
    }

    #[test]
    fn a_delivery_that_was_refused_three_times_is_rejected() {
        assert_eq!(settle(422, SuccessRule::Only200, 2), Settlement::Open);
        assert_eq!(settle(422, SuccessRule::Only200, 3), Settlement::Rejected);
        assert!(is_refusal(Some(StatusCode::BAD_REQUEST)));
        assert!(!is_refusal(Some(StatusCode::NOT_FOUND)));
    }

    #[test]
    fn a_redirect_is_a_failure_of_its_own_kind() {
        assert_eq!(Outcome::of_status(StatusCode::FOUND, SuccessRule::Any2xx), Outcome::Redirect);
        assert_eq!(settle(302, SuccessRule::Any2xx, 0), Settlement::Open);
    }
}

//! The health of a webhook: consecutive failures, the circuit and the outbox, as one value.
//!
//! The value lives in one slot of Redis and is changed by compare-and-set, so that the rules stand here, pure, and
//! each change is one atomic step however many processes deliver for the webhook.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ids::{BundleId, WebhookId, derive_id},
    time::Millis,
    webhook::Activation,
};

/// Version of the stored form.
pub const HEALTH_VERSION: u32 = 1;

/// More consecutive failures than this disable the webhook.
pub const TOLERATED_FAILURES: u32 = 10;

/// At this many consecutive failures the owner is warned.
pub const WARNED_FAILURES: u32 = 5;

/// A warning goes out at most once in this many milliseconds a webhook.
const WARNING_INTERVAL_MS: i64 = 24 * 3_600_000;

/// How many counted failures are remembered so that none is counted twice.
const REMEMBERED: usize = 16;

/// The health of one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// [`HEALTH_VERSION`].
    pub v: u32,
    /// Number of the last outcome that changed anything.
    pub number: u64,
    /// Consecutive failures.
    pub failures: u32,
    /// The enabling that this counts for.
    pub activation: Activation,
    /// Whether and when may be sent.
    pub circuit: Circuit,
    /// The last warning.
    pub warned_at: Option<Millis>,
    /// Failures that were counted, so that one that is reported again is not counted again.
    pub counted: Vec<Failure>,
    /// What must be published because of it, until it is.
    pub outbox: Vec<Notice>,
}

/// Whether a webhook may be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Circuit {
    /// Yes.
    Healthy,
    /// One attempt at a time, after a pause.
    Tripped {
        /// Since the first failure.
        since: Millis,
        /// The next attempt may begin then.
        next_at: Millis,
        /// Who may make it.
        probe: Option<Lease>,
    },
    /// No: the system disabled it.
    Disabled {
        /// When.
        at: Millis,
    },
}

impl Circuit {
    /// `healthy`, `tripped` or `disabled`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Tripped { .. } => "tripped",
            Self::Disabled { .. } => "disabled",
        }
    }
}

/// The right to make the one attempt of a tripped webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its holder.
    pub token: Uuid,
    /// Ends by itself then, should the holder die.
    pub until: Millis,
}

/// One failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Of which bundle; another id where it is sent again on request (`BundleHead::delivery_id`).
    pub bundle: BundleId,
    /// The how-manieth attempt, from 1.
    pub attempt: u32,
}

/// Something that must be published: an event, and an e-mail to the owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// One id per disabling and per warning, however many processes publish it.
    pub id: Uuid,
    /// What happened.
    pub kind: NoticeKind,
    /// The enabling it belongs to.
    pub activation: Activation,
    /// When.
    pub at: Millis,
    /// Consecutive failures then.
    pub failures: u32,
    /// The last of them, as shown to the customer.
    pub last_error: String,
}

/// What a notice tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeKind {
    /// It fails again and again.
    Warning,
    /// The system disabled it.
    Disabled,
    /// It was enabled again after that.
    Enabled,
}

/// An attempt that ended, as the health of its webhook sees it.
#[derive(Clone)]
pub struct Ended<'a> {
    /// Which attempt.
    pub attempt: Failure,
    /// The webhook's enabling when it began.
    pub activation: Activation,
    /// The lease it was made under, if the webhook was tripped when it began.
    pub lease: Option<Uuid>,
    /// None: a success; else the error as shown to the customer.
    pub error: Option<&'a str>,
    /// The failure is ours, such as resolvers that do not answer: it counts for nothing.
    pub ours: bool,
    /// When it ended.
    pub at: Millis,
    /// The pause that would follow if this is the n-th consecutive failure.
    pub pause: &'a (dyn Fn(u32) -> std::time::Duration + Send + Sync),
}

/// What an attempt meant for its webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It added one to the consecutive failures.
    pub counted: bool,
    /// It closed the circuit.
    pub closed: bool,
}

/// Whether an attempt may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Yes, any number.
    Go,
    /// One, under this lease, once the health with the lease in it is stored.
    Probe(Uuid),
    /// Not before this time.
    Wait(Millis),
    /// Not until it is enabled again.
    Held,
}

impl Health {
    /// The health of a webhook that was just enabled.
    #[must_use]
    pub fn new(activation: Activation) -> Self {
        Self {
            v: HEALTH_VERSION,
            number: 0,
            failures: 0,
            activation,
            circuit: Circuit::Healthy,
            warned_at: None,
            counted: Vec::new(),
            outbox: Vec::new(),
        }
    }

    /// The health of a webhook of which Redis knows nothing: as it was recorded last, if it ever was. What is known to
    /// be `disabled` was published, the disabling is the last that is.
    #[must_use]
    pub fn restored(recorded: Option<Self>, activation: Activation, disabled: Option<Millis>) -> Self {
        let mut health = recorded.unwrap_or_else(|| Self::new(activation)).under(activation);
        if let Some(at) = disabled {
            health.hold(activation, at);
            health.outbox.retain(|notice| notice.activation != activation);
        }
        health
    }

    /// True if a success changes nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures == 0 && self.circuit == Circuit::Healthy
    }

    /// This health under an enabling: one that is newer than the health's own makes it new. Notices that are still
    /// to be published stay.
    #[must_use]
    pub fn under(self, activation: Activation) -> Self {
        if activation <= self.activation {
            return self;
        }
        let Self { number, outbox, warned_at, .. } = self;
        Self { number, warned_at, outbox, ..Self::new(activation) }
    }

    /// Takes in that the system disabled the webhook under an enabling, which a store that went backwards has lost.
    pub fn hold(&mut self, activation: Activation, at: Millis) {
        if self.activation == activation && !matches!(self.circuit, Circuit::Disabled { .. }) {
            self.circuit = Circuit::Disabled { at };
        }
    }

    /// Asks for an attempt. For [`Permission::Probe`] the health now holds the lease and must be stored first.
    pub fn permit(&mut self, token: Uuid, now: Millis, lease: std::time::Duration) -> Permission {
        match &mut self.circuit {
            Circuit::Healthy => Permission::Go,
            Circuit::Disabled { .. } => Permission::Held,
            Circuit::Tripped { next_at, .. } if now < *next_at => Permission::Wait(*next_at),
            Circuit::Tripped { probe: Some(held), .. } if held.token != token && now < held.until => {
                Permission::Wait(held.until)
            }
            Circuit::Tripped { probe, .. } => {
                *probe = Some(Lease { token, until: now + lease });
                Permission::Probe(token)
            }
        }
    }

    /// Gives a lease back unused.
    pub fn release(&mut self, token: Uuid) {
        if let Circuit::Tripped { probe, .. } = &mut self.circuit {
            *probe = probe.filter(|lease| lease.token != token);
        }
    }

    /// Takes in an attempt that ended.
    ///
    /// A success sets the count to 0 and closes the circuit. A failure counts unless it belongs to an enabling of
    /// the past, was counted before, or was in flight when the circuit tripped: one outage is not ten. One that is
    /// ours trips the circuit, so that one attempt at a time is made until it is over, but never counts.
    pub fn take(&mut self, webhook: &WebhookId, ended: &Ended<'_>) -> Verdict {
        let stale = ended.activation < self.activation;
        match ended.error {
            None => self.succeed(ended, stale),
            Some(error) => self.fail(webhook, ended, error, stale),
        }
    }

    fn succeed(&mut self, ended: &Ended<'_>, stale: bool) -> Verdict {
        let disabled = matches!(self.circuit, Circuit::Disabled { .. });
        if let Some(lease) = ended.lease.filter(|_| stale) {
            self.release(lease);
        }
        if stale || disabled || self.is_clean() {
            return Verdict { counted: false, closed: false };
        }
        self.number += 1;
        self.failures = 0;
        self.counted.clear();
        self.circuit = Circuit::Healthy;
        Verdict { counted: false, closed: true }
    }

    fn fail(&mut self, webhook: &WebhookId, ended: &Ended<'_>, error: &str, stale: bool) -> Verdict {
        let counts = match self.circuit {
            Circuit::Healthy => true,
            Circuit::Tripped { probe, .. } => probe.is_some_and(|probe| Some(probe.token) == ended.lease),
            Circuit::Disabled { .. } => false,
        };
        if stale || !counts || self.counted.contains(&ended.attempt) {
            // Whoever made it makes no other under the same lease.
            if let Some(lease) = ended.lease {
                self.release(lease);
            }
            return Verdict { counted: false, closed: false };
        }
        // The number is that of `webhook-health`, which does not hold what is ours.
        if !ended.ours {
            self.number += 1;
            self.failures += 1;
            self.remember(ended.attempt);
        }
        let since = match self.circuit {
            Circuit::Tripped { since, .. } => since,
            _ => ended.at,
        };
        let next_at = ended.at + (ended.pause)(self.failures.max(1));
        self.circuit = Circuit::Tripped { since, next_at, probe: None };
        if ended.ours {
            return Verdict { counted: false, closed: false };
        }
        self.notify(webhook, ended.at, error);
        Verdict { counted: true, closed: false }
    }

    fn remember(&mut self, failure: Failure) {
        if self.counted.len() == REMEMBERED {
            self.counted.remove(0);
        }
        self.counted.push(failure);
    }

    fn notify(&mut self, webhook: &WebhookId, at: Millis, error: &str) {
        let activation = self.activation.to_string();
        let (kind, id) = if self.failures > TOLERATED_FAILURES {
            self.circuit = Circuit::Disabled { at };
            (NoticeKind::Disabled, derive_id("disabled", &[webhook.as_str(), &activation]))
        } else if self.failures == WARNED_FAILURES && self.may_warn(at) {
            self.warned_at = Some(at);
            let id = derive_id("warning", &[webhook.as_str(), &activation, &at.0.to_string()]);
            (NoticeKind::Warning, id)
        } else {
            return;
        };
        let (activation, failures) = (self.activation, self.failures);
        self.outbox.push(Notice { id, kind, activation, at, failures, last_error: error.to_owned() });
    }

    fn may_warn(&self, at: Millis) -> bool {
        self.warned_at.is_none_or(|last| at.0 - last.0 >= WARNING_INTERVAL_MS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn webhook() -> WebhookId {
        WebhookId::parse("wh-1").unwrap()
    }

    fn activation(offset: i64) -> Activation {
        Activation { at: 1, topic: 0, offset }
    }

    fn attempt(n: u32) -> Failure {
        Failure { bundle: BundleId(Uuid::from_u128(7)), attempt: n }
    }

    fn pause(failures: u32) -> Duration {
        Duration::from_secs(u64::from(failures))
    }

    fn ended(n: u32, lease: Option<Uuid>, error: Option<&'static str>, at: i64) -> Ended<'static> {
        let (attempt, activation) = (attempt(n), activation(1));
        Ended { attempt, activation, lease, error, ours: false, at: Millis(at), pause: &pause }
    }

    /// Fails once, as a probe if need be, as soon as it may.
    fn fail(health: &mut Health, n: u32) -> Verdict {
        let now = match health.circuit {
            Circuit::Tripped { next_at, .. } => next_at,
            _ => Millis(0),
        };
        let lease = match health.permit(Uuid::from_u128(u128::from(n)), now, Duration::from_secs(15)) {
            Permission::Probe(token) => Some(token),
            Permission::Go => None,
            other => panic!("{other:?}"),
        };
        health.take(&webhook(), &ended(n, lease, Some("no answer"), now.0))
    }

    #[test]
    fn the_eleventh_consecutive_failure_disables_with_one_notice() {
        let mut health = Health::new(activation(1));
        for n in 1..=10 {
            assert!(fail(&mut health, n).counted);
            assert_eq!(health.circuit.as_str(), "tripped");
        }
        fail(&mut health, 11);
        assert_eq!(health.circuit.as_str(), "disabled");
        let kinds: Vec<_> = health.outbox.iter().map(|notice| (notice.kind, notice.failures)).collect();
        assert_eq!(kinds, [(NoticeKind::Warning, 5), (NoticeKind::Disabled, 11)]);
        assert_eq!(health.permit(Uuid::nil(), Millis(i64::MAX), Duration::ZERO), Permission::Held);
    }

    #[test]
    fn a_failure_of_ours_trips_the_circuit_and_never_counts() {
        let mut health = Health::new(activation(1));
        for n in 1..=20 {
            let now = if let Circuit::Tripped { next_at, .. } = health.circuit { next_at } else { Millis(0) };
            let permission = health.permit(Uuid::from_u128(n), now, Duration::from_secs(15));
            let lease = if let Permission::Probe(token) = permission { Some(token) } else { None };
            let ours = Ended { ours: true, ..ended(n as u32, lease, Some("no resolver"), now.0) };
            assert!(!health.take(&webhook(), &ours).counted);
            assert_eq!(health.circuit.as_str(), "tripped");
        }
        assert_eq!((health.failures, health.outbox.len()), (0, 0));
        assert!(fail(&mut health, 20).counted, "an attempt that was ours may fail by itself later");
    }

    #[test]
    fn a_success_at_the_tenth_starts_the_count_anew() {
        let mut health = Health::new(activation(1));
        for n in 1..=9 {
            fail(&mut health, n);
        }
        let Circuit::Tripped { next_at, .. } = health.circuit else { panic!() };
        let Permission::Probe(token) = health.permit(Uuid::from_u128(10), next_at, Duration::from_secs(15))
        else {
            panic!()
        };
        let verdict = health.take(&webhook(), &ended(10, Some(token), None, next_at.0));
        assert!(verdict.closed);
        assert!(health.is_clean());
        assert!(fail(&mut health, 11).counted);
        assert_eq!(health.failures, 1);
    }

    #[test]
    fn failures_that_were_in_flight_when_the_circuit_tripped_do_not_count() {
        let mut health = Health::new(activation(1));
        assert!(health.take(&webhook(), &ended(1, None, Some("x"), 0)).counted);
        for n in 2..=20 {
            assert!(!health.take(&webhook(), &ended(n, None, Some("x"), 0)).counted);
        }
        assert_eq!(health.failures, 1);
    }

    #[test]
    fn a_failure_that_is_reported_twice_counts_once() {
        let mut health = Health::new(activation(1));
        fail(&mut health, 1);
        health.circuit = Circuit::Healthy;
        assert!(!health.take(&webhook(), &ended(1, None, Some("x"), 0)).counted);
    }

    #[test]
    fn a_failure_from_before_a_re_enabling_does_not_count_and_the_next_is_the_first() {
        let mut health = Health::new(activation(1));
        for n in 1..=11 {
            fail(&mut health, n);
        }
        let mut health = health.under(activation(2));
        assert!(health.is_clean());
        assert_eq!(health.outbox.len(), 2, "what is to be published stays");
        assert!(!health.take(&webhook(), &ended(12, None, Some("x"), 0)).counted);
        let next = Ended { activation: activation(2), ..ended(13, None, Some("x"), 0) };
        assert!(health.take(&webhook(), &next).counted);
        assert_eq!(health.failures, 1);
    }

    #[test]
    fn only_one_probe_at_a_time_and_a_dead_ones_lease_ends() {
        let mut health = Health::new(activation(1));
        fail(&mut health, 1);
        let lease = Duration::from_secs(15);
        let first = Uuid::from_u128(1);
        assert_eq!(health.permit(first, Millis(999), lease), Permission::Wait(Millis(1000)));
        assert_eq!(health.permit(first, Millis(1000), lease), Permission::Probe(first));
        assert_eq!(health.permit(Uuid::from_u128(2), Millis(1001), lease), Permission::Wait(Millis(16_000)));
        let second = Uuid::from_u128(2);
        assert_eq!(health.permit(second, Millis(16_000), lease), Permission::Probe(second));
        assert!(
            !health.take(&webhook(), &ended(2, Some(first), Some("x"), 16_001)).counted,
            "its lease is over"
        );
        assert!(health.take(&webhook(), &ended(3, Some(second), Some("x"), 16_002)).counted);
        assert!(
            !health.take(&webhook(), &ended(4, Some(first), Some("x"), 16_003)).counted,
            "and stays over"
        );
    }

    #[test]
    fn who_asks_again_since_the_answer_was_lost_has_the_lease() {
        let mut health = Health::new(activation(1));
        fail(&mut health, 1);
        let (token, lease) = (Uuid::from_u128(1), Duration::from_secs(15));
        assert_eq!(health.permit(token, Millis(1000), lease), Permission::Probe(token));
        assert_eq!(health.permit(token, Millis(1200), lease), Permission::Probe(token));
    }

    #[test]
    fn a_disabling_that_was_lost_holds_for_its_enabling_only() {
        let mut health = Health::new(activation(1));
        health.hold(activation(0), Millis(9));
        assert!(health.is_clean());
        health.hold(activation(1), Millis(9));
        assert_eq!(health.circuit, Circuit::Disabled { at: Millis(9) });
        health.hold(activation(1), Millis(10));
        assert_eq!(health.circuit, Circuit::Disabled { at: Millis(9) });
    }

    #[test]
    fn a_probe_that_does_not_count_gives_its_lease_back() {
        let mut health = Health::new(activation(1));
        fail(&mut health, 1);
        let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let lease = Duration::from_secs(15);
        assert_eq!(health.permit(first, Millis(1000), lease), Permission::Probe(first));
        assert!(!health.take(&webhook(), &ended(1, Some(first), Some("x"), 1001)).counted, "counted before");
        assert_eq!(health.permit(second, Millis(1002), lease), Permission::Probe(second));
    }

    #[test]
    fn a_warning_goes_out_at_most_once_a_day() {
        let mut health = Health::new(activation(1));
        for n in 1..=5 {
            fail(&mut health, n);
        }
        health.take(&webhook(), &Ended { error: None, ..ended(6, None, None, 99_000) });
        for n in 7..=11 {
            fail(&mut health, n);
        }
        assert_eq!(health.outbox.len(), 1);
    }

    #[test]
    fn the_stored_form_reads_back() {
        let mut health = Health::new(activation(1));
        for n in 1..=11 {
            fail(&mut health, n);
        }
        let json = serde_json::to_string(&health).unwrap();
        assert_eq!(serde_json::from_str::<Health>(&json).unwrap(), health);
    }
}

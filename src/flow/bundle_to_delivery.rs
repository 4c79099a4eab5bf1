//! A record of `bundles` becomes a delivery, unless it was taken in before or nobody wants it any more.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use uuid::Uuid;

use crate::model::{
    bundle::{BundleHead, Origin, Request, RequestKind},
    history::Directory,
    ids::BundleId,
    position::Highest,
    time::Millis,
};

/// So many deliveries that were asked for are remembered a partition, so that none is made twice.
const REMEMBERED: usize = 10_000;

/// A bundle on its way to its webhook.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Everything but the body.
    pub head: BundleHead,
    /// What is sent, byte for byte.
    pub body: Bytes,
    /// Partition of `bundles` that it stands in.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The broker's timestamp of its record.
    pub bundled_at: Millis,
    /// Attempts made so far.
    pub attempts: u32,
    /// How many of them the endpoint itself refused.
    pub refusals: u32,
}

/// What becomes of a bundle that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is to be delivered.
    Deliver,
    /// It is a test: sent at once, past everything that waits.
    Test,
    /// It, or a later one of its stream, was taken in before.
    Repeat,
    /// The webhook was deleted or switched off by its owner since.
    Dropped,
}

/// What was taken in of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TakenIn {
    /// Id of the source topic that the positions count in.
    pub topic: Option<String>,
    /// Highest position of each stream.
    pub highest: Highest,
}

impl TakenIn {
    /// Takes a bundle in. False if it is a repeat. Another source topic begins new sequences. What was asked for has no
    /// position, and changes nothing.
    pub fn advance(&mut self, head: &BundleHead) -> bool {
        let Origin::Messages { position, source, .. } = &head.origin else {
            return true;
        };
        if self.topic.as_deref() != Some(&source.topic_id) {
            *self = Self { topic: Some(source.topic_id.clone()), highest: Highest::default() };
        }
        self.highest.advance(position)
    }
}

/// The latest deliveries that were asked for. A command that is carried out twice gives the same request and bundle ids.
#[derive(Debug, Default)]
pub struct Requested {
    known: HashSet<(Uuid, BundleId)>,
    in_order: VecDeque<(Uuid, BundleId)>,
}

impl Requested {
    /// Takes one in. False if it is a repeat.
    pub fn advance(&mut self, request: &Request, bundle: BundleId) -> bool {
        let is_new = self.known.insert((request.id, bundle));
        if is_new {
            self.in_order.push_back((request.id, bundle));
        }
        if self.in_order.len() > REMEMBERED {
            let oldest = self.in_order.pop_front();
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        is_new
    }
}

/// Decides what becomes of a bundle.
pub fn admit(
    taken_in: &mut TakenIn,
    requested: &mut Requested,
    head: &BundleHead,
    directory: &Directory,
) -> Admission {
    if let Some(request) = head.request() {
        let is_new = requested.advance(request, head.bundle_id);
        return if is_new { admit_request(request, head, directory) } else { Admission::Repeat };
    }
    if !taken_in.advance(head) {
        Admission::Repeat
    } else if directory.owner_dropped(&head.webhook_id, head.arrived_at)
        || directory.current(&head.webhook_id).is_none()
    {
        Admission::Dropped
    } else {
        Admission::Deliver
    }
}

/// A test goes to every webhook that exists, since it is how its owner finds out whether it works. A re-send counts from
/// when it was asked for: only what its owner did after that drops it, but a webhook that is off gets none.
fn admit_request(request: &Request, head: &BundleHead, directory: &Directory) -> Admission {
    let current = directory.current(&head.webhook_id);
    let Some(webhook) = current.map(|current| current.webhook) else {
        return Admission::Dropped;
    };
    let dropped = || directory.owner_dropped(&head.webhook_id, head.arrived_at);
    match request.kind {
        _ if webhook.workspace_id != head.workspace_id => Admission::Dropped,
        RequestKind::Test => Admission::Test,
        RequestKind::Resend if !webhook.enabled || dropped() => Admission::Dropped,
        RequestKind::Resend => Admission::Deliver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            history::{Place, State},
            ids::WebhookId,
        },
        wire::{
            self,
            bundle::tests::{head, requested},
        },
    };

    /// What becomes of a bundle that is read first.
    fn admitted(head: &BundleHead, directory: &Directory) -> Admission {
        admit(&mut TakenIn::default(), &mut Requested::default(), head, directory)
    }

    fn place(at: i64) -> Place {
        Place { at: Millis(at), offset: at }
    }

    fn id() -> WebhookId {
        WebhookId::parse("wh-1").unwrap()
    }

    fn change(directory: &mut Directory, at: i64, workspace: &str, enabled: bool) {
        let json = serde_json::json!({
            "webhook_id": "wh-1", "workspace_id": workspace, "url": "https://hooks.example/x", "enabled": enabled,
            "owner": {"full_name": "A", "email": "a@acme.example"},
        });
        let webhook = wire::settings::decode(json.to_string().as_bytes()).unwrap();
        directory.change(place(at), &id(), Some(webhook));
    }

    /// The webhook of [`head`], on since long before its bundle.
    fn directory() -> Directory {
        let mut directory = Directory::default();
        change(&mut directory, 1_000, "ws-acme", true);
        directory
    }

    #[test]
    fn what_comes_again_is_a_repeat_until_another_topic_begins() {
        let mut taken_in = TakenIn::default();
        assert!(taken_in.advance(&head()));
        assert!(!taken_in.advance(&head()));
        let mut other = head();
        if let Origin::Messages { source, .. } = &mut other.origin {
            source.topic_id = "BBBB".to_owned();
        }
        assert!(taken_in.advance(&other));
    }

    #[test]
    fn a_bundle_of_a_webhook_that_is_gone_is_dropped() {
        for head in [head(), requested(RequestKind::Test), requested(RequestKind::Resend)] {
            assert_eq!(admitted(&head, &Directory::default()), Admission::Dropped);
        }
    }

    #[test]
    fn what_was_asked_for_is_no_repeat_of_what_stands_after_it_in_a_stream_but_of_the_same_request() {
        let (mut taken_in, mut known) = (TakenIn::default(), Requested::default());
        let (directory, resend) = (directory(), requested(RequestKind::Resend));
        let mut admit = |head: &BundleHead| admit(&mut taken_in, &mut known, head, &directory);
        assert_eq!(admit(&head()), Admission::Deliver);
        assert_eq!(admit(&resend), Admission::Deliver);
        assert_eq!(admit(&resend), Admission::Repeat);
        assert_eq!(admit(&head()), Admission::Repeat, "a request moves no stream on");
        let mut another = resend.clone();
        another.origin =
            Origin::Request(Request { id: Uuid::from_u128(6), ..resend.request().unwrap().clone() });
        assert_eq!(admit(&another), Admission::Deliver);
    }

    #[test]
    fn only_so_many_requests_are_remembered() {
        let mut requested = Requested::default();
        let request = Request { kind: RequestKind::Resend, id: Uuid::nil(), by: String::new() };
        for n in 0..=REMEMBERED as u128 {
            assert!(requested.advance(&request, BundleId(Uuid::from_u128(n))));
        }
        assert!(!requested.advance(&request, BundleId(Uuid::from_u128(1))));
        assert!(requested.advance(&request, BundleId(Uuid::from_u128(0))));
    }

    #[test]
    fn a_re_send_is_dropped_only_by_what_its_owner_did_after_it_was_asked_for() {
        let asked_at = head().arrived_at.0;
        let resend = requested(RequestKind::Resend);
        let mut before = directory();
        before.state(place(asked_at - 1), &id(), State::Cut(Millis(asked_at - 1)));
        assert_eq!(admitted(&resend, &before), Admission::Deliver);
        before.state(place(asked_at + 1), &id(), State::Cut(Millis(asked_at + 1)));
        assert_eq!(admitted(&resend, &before), Admission::Dropped);
    }

    #[test]
    fn a_webhook_that_is_off_gets_tests_but_nothing_again() {
        for at in [2_000, head().arrived_at.0 + 1] {
            let mut off = directory();
            change(&mut off, at, "ws-acme", false);
            assert_eq!(admitted(&requested(RequestKind::Test), &off), Admission::Test);
            assert_eq!(admitted(&requested(RequestKind::Resend), &off), Admission::Dropped);
        }
    }

    #[test]
    fn nothing_goes_to_a_webhook_that_has_moved_to_another_workspace() {
        let mut moved = directory();
        change(&mut moved, 2_000, "ws-other", true);
        for kind in [RequestKind::Test, RequestKind::Resend] {
            assert_eq!(admitted(&requested(kind), &moved), Admission::Dropped);
        }
    }
}

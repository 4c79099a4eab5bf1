//! A record of `bundles` becomes a delivery, unless it was taken in before or nobody wants it any more.

use bytes::Bytes;

use crate::model::{bundle::BundleHead, history::Directory, position::Highest, time::Millis};

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
    /// Takes a bundle in. False if it is a repeat. Another source topic begins new sequences.
    pub fn advance(&mut self, head: &BundleHead) -> bool {
        if self.topic.as_deref() != Some(&head.source.topic_id) {
            *self = Self { topic: Some(head.source.topic_id.clone()), highest: Highest::default() };
        }
        self.highest.advance(&head.position)
    }
}

/// Decides what becomes of a bundle.
pub fn admit(taken_in: &mut TakenIn, head: &BundleHead, directory: &Directory) -> Admission {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::bundle::tests::head;

    #[test]
    fn what_comes_again_is_a_repeat_until_another_topic_begins() {
        let mut taken_in = TakenIn::default();
        assert!(taken_in.advance(&head()));
        assert!(!taken_in.advance(&head()));
        let mut other = head();
        other.source.topic_id = "BBBB".to_owned();
        assert!(taken_in.advance(&other));
    }

    #[test]
    fn a_bundle_of_a_webhook_that_is_gone_is_dropped() {
        assert_eq!(admit(&mut TakenIn::default(), &head(), &Directory::default()), Admission::Dropped);
    }
}

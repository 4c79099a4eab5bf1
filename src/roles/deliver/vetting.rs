//! Which puts on `waiting-deliveries` count. A process that has lost a partition and does not know it yet may put what
//! it still holds; that stands behind the record of the claim that took the partition over, and is taken back by the
//! next one. Otherwise a rebuild would find deliveries waiting that were settled long ago.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::wire::waiting::WaitingDelivery;

/// What was seen of the claims of a partition, record by record.
pub(super) struct Vetting {
    /// Whose puts count now; everybody's if it is not known.
    current: Option<Uuid>,
    /// The last put of each bundle that does not count.
    pub late: BTreeMap<i64, WaitingDelivery>,
    /// Claims before the current one whose records still stand.
    pub former: BTreeSet<Uuid>,
}

impl Vetting {
    /// Begins where the puts of one claim count, if it is known which.
    pub fn new(current: Option<Uuid>) -> Self {
        Self { current, late: BTreeMap::new(), former: current.into_iter().collect() }
    }

    /// A claim begins.
    pub fn claim(&mut self, token: Uuid) {
        self.former.extend(self.current);
        self.former.remove(&token);
        self.current = Some(token);
    }

    /// The record of a former claim was taken away.
    pub fn forget(&mut self, token: Uuid) {
        self.former.remove(&token);
    }

    /// True if a put counts.
    pub fn counts(&mut self, put: &WaitingDelivery) -> bool {
        let counts = self.current.is_none_or(|current| current == put.token);
        if !counts {
            self.late.insert(put.parked().offset, put.clone());
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{
            ids::{BundleId, ChatId, WebhookId, WorkspaceId},
            parked::{Parked, Reason},
            time::Millis,
        },
        wire::waiting::Owner,
    };

    const OLD: Uuid = Uuid::from_u128(1);
    const NEW: Uuid = Uuid::from_u128(2);

    fn put(offset: i64, token: Uuid) -> WaitingDelivery {
        let owner = Owner {
            webhook_id: WebhookId::parse("wh").unwrap(),
            workspace_id: WorkspaceId::parse("ws").unwrap(),
            chat_id: ChatId::parse("c").unwrap(),
        };
        let now = Millis(0);
        let parked = Parked {
            offset,
            bundle_id: BundleId(Uuid::nil()),
            bytes: 1,
            bundled_at: now,
            arrived_at: now,
            waiting_since: now,
            attempts: 0,
            refusals: 0,
        };
        WaitingDelivery::new(&owner, &parked, 0, Reason::Retry, token)
    }

    #[test]
    fn what_another_claim_puts_behind_the_record_of_a_claim_does_not_count() {
        let mut vetting = Vetting::new(None);
        assert!(vetting.counts(&put(1, OLD)), "nothing is known of any claim");
        vetting.claim(OLD);
        assert!(vetting.counts(&put(2, OLD)));
        vetting.claim(NEW);
        assert!(vetting.counts(&put(3, NEW)));
        assert!(!vetting.counts(&put(2, OLD)));
        assert_eq!(vetting.late.keys().collect::<Vec<_>>(), [&2]);
        assert_eq!(vetting.former, BTreeSet::from([OLD]));
    }

    #[test]
    fn behind_a_claim_whose_record_was_read_before_only_its_own_puts_count() {
        let mut vetting = Vetting::new(Some(NEW));
        assert!(!vetting.counts(&put(1, OLD)));
        assert!(vetting.counts(&put(2, NEW)));
        vetting.forget(NEW);
        assert!(vetting.former.is_empty());
    }
}

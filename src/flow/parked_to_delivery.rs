//! A parked delivery goes on waiting, or ends without an attempt. Which of its webhook's are pulled next.

use crate::model::{
    history::{Directory, HOLD},
    ids::WebhookId,
    parked::{EXPIRES_AFTER, Parked},
    time::Millis,
};

/// What becomes of a delivery that is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It waits for its turn.
    Waits,
    /// The owner switched its webhook off, deleted it, or had what waits discarded.
    Dropped,
    /// It has waited too long.
    Expired,
}

impl Fate {
    /// The fate as a metric label, if it ends the waiting.
    #[must_use]
    pub fn result(self) -> Option<&'static str> {
        match self {
            Self::Waits => None,
            Self::Dropped => Some("dropped"),
            Self::Expired => Some("expired"),
        }
    }
}

/// Decides what becomes of a parked delivery of a webhook (spec, "Success, failure, disabling"): it expires 7 days after
/// the system disabled the webhook, or 13 days after its bundle, whichever is first.
#[must_use]
pub fn fate(parked: &Parked, webhook: &WebhookId, directory: &Directory, now: Millis) -> Fate {
    let Some(current) = directory.current(webhook) else {
        return Fate::Dropped;
    };
    if directory.owner_dropped(webhook, parked.arrived_at) {
        return Fate::Dropped;
    }
    let hold_is_over = current.disabled.is_some_and(|disabled| now >= disabled.at + HOLD);
    if hold_is_over || now >= parked.bundled_at + EXPIRES_AFTER { Fate::Expired } else { Fate::Waits }
}

/// How many of a page, which is in order, may be read back: as many as fit, but at least one.
#[must_use]
pub fn that_fit(page: &[Parked], bytes: u64) -> usize {
    let mut sum = 0;
    let fits = |parked: &&Parked| {
        sum += u64::from(parked.bytes);
        sum <= bytes
    };
    page.iter().take_while(fits).count().max(1).min(page.len())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        model::{
            history::{Disabled, Place, State},
            ids::BundleId,
        },
        wire,
    };

    const DAY: i64 = 86_400_000;

    fn parked(bytes: u32) -> Parked {
        Parked {
            offset: 7,
            bundle_id: BundleId(Uuid::from_u128(7)),
            bytes,
            bundled_at: Millis(100_000),
            arrived_at: Millis(90_000),
            waiting_since: Millis(100_010),
            attempts: 1,
            refusals: 0,
        }
    }

    fn id() -> WebhookId {
        WebhookId::parse("wh-1").unwrap()
    }

    fn directory() -> Directory {
        let mut directory = Directory::default();
        change(&mut directory, 1_000, true);
        directory
    }

    fn change(directory: &mut Directory, at: i64, enabled: bool) {
        let json = serde_json::json!({
            "webhook_id": "wh-1", "workspace_id": "ws", "url": "https://hooks.example/x", "enabled": enabled,
            "owner": {"full_name": "A", "email": "a@acme.example"},
        });
        let webhook = wire::settings::decode(json.to_string().as_bytes()).unwrap();
        directory.change(Place { at: Millis(at), offset: at }, &id(), Some(webhook));
    }

    fn fate_at(directory: &Directory, now: i64) -> Fate {
        fate(&parked(1), &id(), directory, Millis(now))
    }

    #[test]
    fn it_expires_13_days_after_its_bundle() {
        assert_eq!(fate_at(&directory(), 100_000 + 13 * DAY - 1), Fate::Waits);
        assert_eq!(fate_at(&directory(), 100_000 + 13 * DAY), Fate::Expired);
    }

    #[test]
    fn it_is_held_for_7_days_after_the_system_disabled_its_webhook() {
        let mut directory = directory();
        let activation = directory.current(&id()).unwrap().activation;
        let disabled = Disabled { activation, at: Millis(200_000) };
        directory.state(Place { at: Millis(200_000), offset: 1 }, &id(), State::Disabled(disabled));
        assert_eq!(fate_at(&directory, 200_000 + 7 * DAY - 1), Fate::Waits);
        assert_eq!(fate_at(&directory, 200_000 + 7 * DAY), Fate::Expired);
    }

    #[test]
    fn it_is_dropped_when_the_owner_switches_off_discards_or_deletes() {
        let mut off = directory();
        change(&mut off, 150_000, false);
        assert_eq!(fate_at(&off, 150_001), Fate::Dropped);
        let mut discarded = directory();
        let place = Place { at: Millis(150_000), offset: 1 };
        discarded.state(place, &id(), State::Cut(Millis(150_000)));
        assert_eq!(fate_at(&discarded, 150_001), Fate::Dropped);
        let mut deleted = directory();
        deleted.change(place, &id(), None);
        assert_eq!(fate_at(&deleted, 150_001), Fate::Dropped);
    }

    #[test]
    fn a_page_ends_where_its_bodies_outgrow_the_limit_but_has_at_least_one() {
        let page = [parked(100), parked(100), parked(300)];
        assert_eq!(that_fit(&page, 200), 2);
        assert_eq!(that_fit(&page, 1_000), 3);
        assert_eq!(that_fit(&page, 50), 1);
        assert_eq!(that_fit(&[], 50), 0);
    }
}

//! Edits by command: one at a time on the same base, so that none is overwritten unseen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{time::Millis, webhook::Activation};

/// A claim stands for so long: whoever made it has published by then, or never will.
pub const CLAIM_STANDS: Duration = Duration::from_secs(30);

/// Version of the form in which claims are stored.
pub const CLAIM_VERSION: u32 = 1;

/// What an edit is based on. It rises with each edit that Kafka holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(i64, i64, i64);

impl Revision {
    /// The settings whose record has this offset.
    #[must_use]
    pub fn of_settings(offset: i64) -> Self {
        Self(offset, 0, 0)
    }

    /// An activation.
    #[must_use]
    pub fn of_activation(activation: Activation) -> Self {
        Self(activation.at, activation.topic.into(), activation.offset)
    }
}

/// The right to publish the next edit on a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditClaim {
    /// [`CLAIM_VERSION`]; the first release wrote none.
    #[serde(default = "first_version")]
    pub v: u32,
    /// What the edit is based on.
    pub base: Revision,
    /// Who edits.
    pub by: String,
    /// What they do: `disable`, say.
    pub what: String,
    /// When it was claimed.
    pub at: Millis,
}

fn first_version() -> u32 {
    1
}

impl EditClaim {
    /// True if another edit on a base must not be published now: this one is on its way, or was made on a newer base. An
    /// older base means that Kafka holds the edit by now.
    #[must_use]
    pub fn excludes(&self, base: Revision, now: Millis) -> bool {
        self.base >= base && now.since(self.at) < CLAIM_STANDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_excludes_edits_on_its_base_and_older_ones_until_it_ends() {
        let base = Revision::of_settings(7);
        let claim = EditClaim {
            v: CLAIM_VERSION,
            base,
            by: "amnon".to_owned(),
            what: "disable".to_owned(),
            at: Millis(1_000),
        };
        assert!(claim.excludes(base, Millis(1_000)));
        assert!(claim.excludes(Revision::of_settings(6), Millis(30_999)));
        assert!(!claim.excludes(base, Millis(31_000)), "whoever made it died");
        assert!(!claim.excludes(Revision::of_settings(8), Millis(1_000)), "it was published");
    }

    #[test]
    fn revisions_of_activations_are_ordered_as_they_are() {
        let older = Activation { at: 5, topic: 0, offset: 9 };
        let newer = Activation { at: 5, topic: 1, offset: 2 };
        assert!(Revision::of_activation(older) < Revision::of_activation(newer));
    }
}

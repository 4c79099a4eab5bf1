//! A delivery that can't go now and waits in the queue of its partition: everything about it but its body.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ids::BundleId, time::Millis};

/// A delivery expires this long after its bundle's record: a day before the record itself is gone.
pub const EXPIRES_AFTER: Duration = Duration::from_hours(13 * 24);

/// A delivery that is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Of the bundle, in its partition of `bundles`.
    pub offset: i64,
    /// The bundle's id; a record at that offset with another one means that the body is gone.
    pub bundle_id: BundleId,
    /// Length of the body.
    pub bytes: u32,
    /// The broker's timestamp of the bundle's record.
    pub bundled_at: Millis,
    /// Arrival of the bundle's last message.
    pub arrived_at: Millis,
    /// When it was first parked.
    pub waiting_since: Millis,
    /// Attempts made so far.
    pub attempts: u32,
    /// How many of them the endpoint itself refused.
    pub refusals: u32,
}

/// Why a delivery waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its webhook's circuit is tripped.
    Tripped,
    /// The system disabled its webhook.
    Disabled,
    /// There is no room in memory, it waited there too long, or something of its webhook is parked before it.
    LaneFull,
    /// The webhook has a limit of deliveries a second.
    Rate,
    /// It failed.
    Retry,
}

impl Reason {
    /// Every reason, for metrics.
    pub const ALL: [Self; 5] = [Self::Tripped, Self::Disabled, Self::LaneFull, Self::Rate, Self::Retry];

    /// The reason as a metric label, and in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tripped => "tripped",
            Self::Disabled => "disabled",
            Self::LaneFull => "lane_full",
            Self::Rate => "rate",
            Self::Retry => "retry",
        }
    }
}

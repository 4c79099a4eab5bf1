//! The deliveries of a lane that are in flight, and those of them that were parked meanwhile.

use std::collections::HashMap;

use uuid::Uuid;

use super::{parking::Parking, queued::Queued};
use crate::{
    model::parked::{Parked, Reason},
    wire::waiting::Owner,
};

/// By the token of their claim and their offset.
#[derive(Default)]
pub(super) struct Flying(HashMap<(Uuid, i64), One>);

struct One {
    owner: Owner,
    parked: Parked,
    is_parked: bool,
}

fn place_of(queued: &Queued) -> (Uuid, i64) {
    (queued.parking.token(), queued.delivery.offset)
}

impl Flying {
    /// An attempt of a delivery begins.
    pub fn begin(&mut self, queued: &Queued) {
        let (owner, parked) = queued.to_park();
        self.0.insert(place_of(queued), One { owner, parked, is_parked: queued.is_parked() });
    }

    /// It has ended. The delivery learns whether it is parked by now.
    pub fn end(&mut self, queued: &mut Queued) {
        let one = self.0.remove(&place_of(queued));
        if let Some(one) = one.filter(|one| one.is_parked && !queued.is_parked()) {
            queued.set_parked(one.parked);
        }
    }

    /// Parks those of a claim that are not parked. `hold` is told of the offset of each, before anybody can find it
    /// parked.
    pub fn park(&mut self, parking: &Parking, reason: Reason, mut hold: impl FnMut(i64)) {
        for ((claim, offset), one) in &mut self.0 {
            if *claim == parking.token() && !std::mem::replace(&mut one.is_parked, true) {
                hold(*offset);
                parking.give_back(one.owner.clone(), one.parked, reason, true, None);
            }
        }
    }
}

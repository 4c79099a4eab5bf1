//! What of a partition's output is acknowledged, and what offset is safe therefore.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    io::{kafka::publisher::AckGroup, redis::windows::SealedPart},
    model::{position::ClosedWindow, time::Millis, window::WindowKey},
    wire::metadata::AggregateMetadata,
};

/// A page of closed windows whose bundles are published.
pub struct ClosedPage {
    pub boundary: Millis,
    pub windows: Vec<WindowKey>,
    /// The last of them.
    pub last: ClosedWindow,
    pub acks: AckGroup,
}

/// Output that is on its way, in the order of each stream.
#[derive(Default)]
pub struct Progress {
    /// The position after a batch, and its bundles and dead letters.
    pub at_once: VecDeque<(i64, AckGroup)>,
    /// Sealed parts that are published.
    pub parts: VecDeque<(SealedPart, AckGroup)>,
    /// Sealed parts that wait for closings before them.
    pub parts_waiting: VecDeque<SealedPart>,
    /// Closed windows.
    pub closings: VecDeque<ClosedPage>,
    /// Parts whose acknowledgement is to be committed before they are forgotten.
    pub parts_done: Vec<SealedPart>,
    /// Windows whose acknowledgement is to be committed before they are forgotten, by pages.
    pub windows_done: Vec<(Millis, Vec<WindowKey>)>,
    /// Windows that are committed as done, and not forgotten yet.
    pub windows_committed: VecDeque<(Millis, Vec<WindowKey>)>,
}

impl Progress {
    /// Takes in what was acknowledged: moves the done positions of the metadata on. Returns the pages that are done
    /// now.
    ///
    /// `parts_known_to` is the offset up to which all sealed parts are listed.
    pub fn collect(
        &mut self,
        metadata: &mut AggregateMetadata,
        parts_known_to: Option<i64>,
    ) -> Vec<ClosedPage> {
        while self.at_once.front().is_some_and(|(_, acks)| acks.is_complete()) {
            if let Some((next, _)) = self.at_once.pop_front() {
                metadata.none = metadata.none.max(next);
            }
        }
        while self.parts.front().is_some_and(|(_, acks)| acks.is_complete()) {
            self.parts_done.extend(self.parts.pop_front().map(|(part, _)| part));
        }
        // They go in the order of their positions, which need not be that of the offsets.
        let pending = self.parts.iter().map(|(part, _)| part).chain(&self.parts_waiting);
        if let Some(known_to) = parts_known_to {
            let done = pending.map(|part| part.by).min().unwrap_or(known_to);
            metadata.parts = metadata.parts.max(done);
        }
        let mut pages = Vec::new();
        while self.closings.front().is_some_and(|page| page.acks.is_complete()) {
            if let Some(page) = self.closings.pop_front() {
                metadata.closings = metadata.closings.max(Some(page.last));
                self.windows_done.push((page.boundary, page.windows.clone()));
                pages.push(page);
            }
        }
        pages
    }

    /// True if no closed window is left that is not forgotten.
    pub fn is_closed(&self) -> bool {
        self.closings.is_empty() && self.windows_done.is_empty() && self.windows_committed.is_empty()
    }

    /// True if nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.at_once.is_empty() && self.parts.is_empty() && self.closings.is_empty()
    }
}

/// The offset to commit: the first record of the oldest window that is not done with, but nothing of which output is
/// not acknowledged, and nothing that is not applied: while windows are rebuilt, what was done before lies ahead of
/// that.
pub fn safe_offset(metadata: &AggregateMetadata, open: &BTreeMap<Millis, i64>, applied: i64) -> i64 {
    let oldest = open.values().min().copied().unwrap_or(i64::MAX);
    oldest.min(metadata.none).min(metadata.parts).min(metadata.skips.unwrap_or(i64::MAX)).min(applied)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::model::window::{WindowRule, WindowRules};

    #[test]
    fn a_rebuild_does_not_move_the_safe_offset_past_what_it_has_applied() {
        let rule = WindowRule::new(Duration::from_hours(1), Duration::from_mins(1), Duration::ZERO);
        let rules = WindowRules::single(rule);
        let mut metadata = AggregateMetadata::new("topic".to_owned(), Uuid::nil(), 90, rules);
        let none_open = BTreeMap::new();
        assert_eq!(safe_offset(&metadata, &none_open, 40), 40);
        assert_eq!(safe_offset(&metadata, &none_open, 95), 90);
        assert_eq!(safe_offset(&metadata, &BTreeMap::from([(Millis(1), 30)]), 95), 30);
        metadata.skips = Some(70);
        assert_eq!(safe_offset(&metadata, &none_open, 95), 70);
    }
}

//! Committing: the safe offset, with what it takes to go on from there.

use std::time::Instant;

use super::{
    Trouble,
    partition::{Partition, TICK},
    progress::safe_offset,
};
use crate::{
    io::kafka::intake::{CommitError, PartitionFeed},
    ops::failpoint,
    wire::metadata::Metadata,
};

impl Partition<'_> {
    /// Commits the safe offset; Redis may forget then what is committed as done. False if that has to wait for a
    /// rebalance.
    pub(super) async fn commit(&mut self, feed: &PartitionFeed) -> Result<bool, Trouble> {
        self.next_commit = Instant::now() + TICK;
        let (safe, text) = self.safe()?;
        if (safe, &text) != (self.committed.0, &self.committed.1)
            && !self.commit_now(feed, safe, text).await?
        {
            return Ok(false);
        }
        self.note_committed().await?;
        Ok(true)
    }

    /// The safe offset, and what is to be committed with it.
    pub(super) fn safe(&mut self) -> Result<(i64, String), Trouble> {
        let safe = safe_offset(&self.metadata, &self.open, self.applied()).max(self.committed.0);
        self.metadata.boundaries.trim(safe);
        let text = self.metadata.encode().map_err(|error| Trouble::Fatal(error.to_string()))?;
        Ok((safe, text))
    }

    pub(super) async fn commit_now(
        &mut self,
        feed: &PartitionFeed,
        safe: i64,
        text: String,
    ) -> Result<bool, Trouble> {
        let metrics = &self.role.process.metrics;
        failpoint::reach("aggregate.committing");
        match feed.commit(safe, text.clone()).await {
            Ok(()) => {
                failpoint::reach("aggregate.committed");
                metrics.commits.with_label_values(&["aggregate"]).inc();
                self.committed = (safe, text);
                Ok(true)
            }
            Err(CommitError::Rebalancing(_)) => {
                metrics.commit_failures.with_label_values(&["aggregate", "rebalance"]).inc();
                Ok(false)
            }
            Err(CommitError::Failed(error)) => {
                metrics.commit_failures.with_label_values(&["aggregate", "broker"]).inc();
                Err(Trouble::Again(format!("the commit failed: {error}")))
            }
            Err(fenced) => {
                metrics.commit_failures.with_label_values(&["aggregate", "fenced"]).inc();
                Err(fenced.into())
            }
        }
    }
}

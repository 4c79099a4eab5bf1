//! While windows are rebuilt from a safe offset far back, what is sent at once must not wait: a second cursor goes on
//! with that stream from its own done position. Of the records it reads only that is published; everything else follows
//! when the rebuild gets there.

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Aggregate, Trouble, partition::Partition};
use crate::io::kafka::{
    cursor::Cursor,
    intake::{Record, RecordBatch},
    publisher::AckGroup,
};

/// What is less far back than this is rebuilt sooner than a second cursor would begin.
const FAR: i64 = 5_000;

/// The second cursor of a partition.
pub(super) struct Ahead {
    cursor: Cursor,
    /// What is sent at once is published below this offset.
    pub to: i64,
}

impl Ahead {
    /// Begins where what is sent at once is done, if that is far from where the rebuild begins.
    pub fn begin(role: &Aggregate, partition: i32, start: i64, done: i64) -> Option<Self> {
        if done - start < FAR {
            return None;
        }
        let process = &role.process;
        match Cursor::start(&process.kafka, &process.topics.message_events, partition, done) {
            Ok(cursor) => {
                info!(partition, from = done, "what is sent at once goes on while windows are rebuilt");
                Some(Self { cursor, to: done })
            }
            Err(error) => {
                warn!(partition, %error, "what is sent at once waits for the rebuild");
                None
            }
        }
    }

    /// The next batch. Waits for ever where there is no second cursor, or it can't go on.
    pub async fn next(ahead: &mut Option<Self>) -> RecordBatch {
        if let Some(ahead) = ahead
            && let Some(batch) = ahead.cursor.next().await
        {
            return batch;
        }
        std::future::pending().await
    }
}

impl Partition<'_> {
    /// Publishes what is sent at once of a batch of the second cursor. Repeats within ten minutes are not recognised
    /// here; they go out under the id of the first.
    pub(super) async fn take_ahead(
        &mut self,
        batch: &RecordBatch,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        let fresh = tokio::select! {
            fresh = self.role.process.tail.fresh_for(batch.polled_at) => fresh,
            () = stop.cancelled() => return Ok(()),
        };
        if !fresh {
            return Err(Trouble::Fatal("the settings are no longer read".to_owned()));
        }
        let Some(to) = self.ahead.as_ref().map(|ahead| ahead.to) else { return Ok(()) };
        let records: Vec<Record<'_>> = batch.iter().filter(|record| record.offset >= to).collect();
        let plan = self.plan(&records);
        let acks = AckGroup::waking(&self.wake);
        self.publish_from(to, &plan, &[], &records, &acks).await?;
        self.progress.at_once.push_back((batch.next_offset(), acks));
        if let Some(ahead) = &mut self.ahead {
            ahead.to = batch.next_offset();
        }
        Ok(())
    }

    /// What is sent at once is published below this offset, or on its way.
    pub(super) fn published_to(&self) -> i64 {
        self.ahead.as_ref().map_or(self.metadata.none, |ahead| ahead.to.max(self.metadata.none))
    }

    /// Ends the second cursor once the rebuild has reached it.
    pub(super) fn end_ahead(&mut self, position: i64) {
        if self.ahead.as_ref().is_some_and(|ahead| position >= ahead.to) {
            info!(partition = self.source.partition, position, "the rebuild has caught up");
            self.ahead = None;
        }
    }
}

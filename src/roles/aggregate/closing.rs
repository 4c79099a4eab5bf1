//! Closing: sealed parts and closed windows are read, published, and forgotten once that is committed. Bounded work,
//! in the order of positions, between which fresh records are applied.

use tracing::error;

use super::{Trouble, partition::Partition, progress::ClosedPage};
use crate::{
    flow::window_to_bundle::{Bundler, Bundles, Occasion, WindowContent},
    io::{clock, kafka::publisher::AckGroup, redis::windows::SealedPart},
    model::{position::ClosedWindow, time::Millis, window::WindowKey},
    ops::failpoint,
};

/// Windows closed in one step.
const PAGE: usize = 64;
/// At most so many steps wait for acknowledgements: what is sent at once waits behind them.
const PAGES_IN_FLIGHT: usize = 2;

impl Partition<'_> {
    /// Takes in acknowledgements.
    pub(super) fn collect(&mut self) {
        let metrics = &self.role.process.metrics;
        // While sealed parts are not listed, nothing can be said of how far they are done.
        let parts_known_to = (!self.parts_sealed).then_some(self.applied());
        for page in self.progress.collect(&mut self.metadata, parts_known_to) {
            let rule = self.metadata.rules.at(page.boundary);
            let due = Millis(page.boundary.0 + rule.grace_ms);
            metrics.close_lateness.observe(clock::now().since(due).as_secs_f64());
            for window in &page.windows {
                metrics.windows_closed.of(window.window.granularity).inc();
            }
        }
    }

    /// Publishes sealed parts in the order of their positions, each once its window's start is closed and all closings
    /// up to it are acknowledged: within the grace, the window before is still open.
    pub(super) async fn publish_parts(&mut self) -> Result<(), Trouble> {
        if self.parts_sealed {
            self.list_parts().await?;
        }
        while let Some(part) = self.progress.parts_waiting.front() {
            let start = part.key.window.start;
            let closing = self.pending.first().is_some_and(|boundary| *boundary <= start);
            if closing || self.last_closed < Some(start) {
                return Ok(());
            }
            let Some(part) = self.progress.parts_waiting.pop_front() else {
                return Ok(());
            };
            let log = self.store.read_part(&part).await?;
            let occasion = Occasion::Sealed { by: part.by, boundary: part.boundary };
            let bundles =
                self.bundles(&WindowContent { key: &part.key, part: part.part, occasion, log: &log })?;
            let acks = AckGroup::waking(&self.wake);
            self.publish_all(&bundles, &acks).await?;
            self.progress.parts.push_back((part, acks));
        }
        Ok(())
    }

    /// Lists the parts that are sealed but neither published by this claim nor called done by the metadata.
    async fn list_parts(&mut self) -> Result<(), Trouble> {
        let done = self.metadata.parts;
        for part in self.store.sealed_parts().await? {
            let published = self.progress.parts.iter().map(|(part, _)| part).chain(&self.progress.parts_done);
            if part.by < done {
                self.progress.parts_done.push(part);
            } else if !published.chain(&self.progress.parts_waiting).any(|known| known.name == part.name) {
                self.progress.parts_waiting.push_back(part);
            }
        }
        self.progress.parts_waiting.make_contiguous().sort_by_key(SealedPart::position);
        self.parts_sealed = false;
        Ok(())
    }

    /// Publishes the next windows of the first boundary that is closed. True if there is more to do at once.
    pub(super) async fn close_some(&mut self) -> Result<bool, Trouble> {
        let Some(&boundary) = self.pending.first() else {
            return Ok(false);
        };
        let parts_first = self.progress.parts_waiting.iter().any(|part| part.key.window.end <= boundary);
        if parts_first || self.progress.closings.len() >= PAGES_IN_FLIGHT {
            return Ok(false);
        }
        let page = self.store.due(boundary, self.rank, PAGE).await?;
        if page.is_empty() {
            let done = self.progress.is_closed();
            if done {
                self.finish(boundary);
            }
            return Ok(done && !self.pending.is_empty());
        }
        self.rank += page.len();
        self.close_page(boundary, page).await?;
        Ok(true)
    }

    /// Nothing of a boundary is left. The safe offset may move past the first messages of its windows now, so a rebuild
    /// could find the last ones only, which came within the grace.
    fn finish(&mut self, boundary: Millis) {
        self.metadata.closings = self.metadata.closings.max(Some(ClosedWindow::last_of(boundary)));
        self.open.remove(&boundary);
        self.pending.remove(&boundary);
        self.rank = 0;
    }

    async fn close_page(&mut self, boundary: Millis, page: Vec<(WindowKey, i64)>) -> Result<(), Trouble> {
        let closed = |(key, first_offset): &(WindowKey, i64)| ClosedWindow {
            boundary,
            first_offset: *first_offset,
            granularity: key.window.granularity,
        };
        let last = closed(&page[page.len() - 1]);
        let positions: Vec<ClosedWindow> = page.iter().map(closed).collect();
        let windows: Vec<WindowKey> = page.into_iter().map(|(key, _)| key).collect();
        let contents = self.store.read(&windows).await?;
        let acks = AckGroup::waking(&self.wake);
        for ((key, position), (log, parts)) in windows.iter().zip(&positions).zip(&contents) {
            if Some(*position) <= self.metadata.closings {
                continue;
            }
            let part = if *parts == 0 { 0 } else { parts + 1 };
            let occasion = Occasion::Closed(*position);
            let bundles = self.bundles(&WindowContent { key, part, occasion, log })?;
            self.publish_all(&bundles, &acks).await?;
            failpoint::reach("aggregate.closing");
        }
        self.progress.closings.push_back(ClosedPage { boundary, windows, last, acks });
        // A page without any bundle has nothing that would wake the loop.
        self.wake.notify_one();
        Ok(())
    }

    fn bundles(&self, content: &WindowContent<'_>) -> Result<Bundles, Trouble> {
        let directory = self.role.process.tail.directory();
        let product = &self.role.windows.permalink_product;
        let bundler = Bundler { directory: &directory, source: &self.source, product };
        bundler.bundles(content).map_err(|problem| {
            error!(partition = self.source.partition, window = %content.key.window.start, problem, "damaged window");
            Trouble::Fatal(format!("a window of partition {} is damaged: {problem}", self.source.partition))
        })
    }

    async fn publish_all(&self, bundles: &Bundles, acks: &AckGroup) -> Result<(), Trouble> {
        self.role.process.metrics.messages_dropped.with_label_values(&["owner"]).inc_by(bundles.dropped);
        for record in &bundles.records {
            self.publish_bundle(record, acks).await?;
        }
        Ok(())
    }

    /// Lets Redis forget the parts that are committed as done, and takes in which windows are.
    pub(super) async fn note_committed(&mut self) -> Result<(), Trouble> {
        self.progress.windows_committed.extend(self.progress.windows_done.drain(..));
        let parts: Vec<String> = self.progress.parts_done.drain(..).map(|part| part.name).collect();
        if !parts.is_empty() {
            self.store.forget_parts(&parts).await?;
        }
        Ok(())
    }

    /// Lets Redis forget a page of windows that are committed as done. True if there was one.
    pub(super) async fn forget_some(&mut self) -> Result<bool, Trouble> {
        let Some((boundary, windows)) = self.progress.windows_committed.pop_front() else {
            return Ok(false);
        };
        self.store.forget(boundary, &windows).await?;
        self.rank = self.rank.saturating_sub(windows.len());
        Ok(true)
    }
}

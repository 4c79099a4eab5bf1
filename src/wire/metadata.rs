//! The metadata of committed offsets (schemas/commit-metadata-*.json): what a new owner of a partition must know.
//!
//! Kafka keeps it with the offset, atomically, and allows 4,096 UTF-16 units.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    position::{ClosedWindow, Highest},
    time::Millis,
    window::WindowRules,
};

/// Version of both forms.
const VERSION: u32 = 1;

/// Most UTF-16 units that a broker takes by default (`offset.metadata.max.bytes`).
pub const MAX_UNITS: usize = 4_096;

/// What aggregate commits with the safe offset of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AggregateMetadata {
    v: u32,
    /// Kafka's id of the source topic.
    pub topic: String,
    /// The accepted claim.
    pub token: Uuid,
    /// All output of the stream `none` of lower offsets is acknowledged.
    pub none: i64,
    /// All parts sealed by lower offsets are acknowledged.
    pub parts: i64,
    /// All skips of lower offsets are in `message-skips`; none in the metadata of an earlier release.
    #[serde(default)]
    pub skips: Option<i64>,
    /// All closings up to this window are acknowledged.
    pub closings: Option<ClosedWindow>,
    /// Which boundary was closed before which offset.
    pub boundaries: BoundaryTable,
    /// The rules in force.
    pub rules: WindowRules,
}

impl AggregateMetadata {
    /// The metadata of a partition of which nothing is done.
    #[must_use]
    pub fn new(topic: String, token: Uuid, offset: i64, rules: WindowRules) -> Self {
        let boundaries = BoundaryTable::default();
        let (none, parts, skips) = (offset, offset, Some(offset));
        Self { v: VERSION, topic, token, none, parts, skips, closings: None, boundaries, rules }
    }
}

/// Which boundary was the last one closed before which offset: rising in both. Once an entry is committed, a replay
/// closes at the same place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoundaryTable(Vec<(Millis, i64)>);

impl BoundaryTable {
    /// Notes that a boundary is closed before the record at an offset. One entry an offset: the highest boundary.
    pub fn close(&mut self, boundary: Millis, offset: i64) {
        match self.0.last_mut() {
            Some(last) if last.0 >= boundary => {}
            Some(last) if last.1 == offset => last.0 = boundary,
            _ => self.0.push((boundary, offset)),
        }
    }

    /// Each boundary with the offset before which it was closed.
    #[must_use]
    pub fn entries(&self) -> &[(Millis, i64)] {
        &self.0
    }

    /// The last boundary closed before the record at an offset is applied.
    #[must_use]
    pub fn closed_before(&self, offset: i64) -> Option<Millis> {
        self.0.iter().rev().find(|(_, at)| *at <= offset).map(|(boundary, _)| *boundary)
    }

    /// Forgets what no replay from the safe offset needs: all but the last entry at or below it.
    pub fn trim(&mut self, safe: i64) {
        if let Some(last) = self.0.iter().rposition(|(_, at)| *at <= safe) {
            self.0.drain(..last);
        }
    }
}

/// What deliver commits with the offset of a partition of `bundles`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverMetadata {
    v: u32,
    /// The accepted claim.
    pub token: Uuid,
    /// Kafka's id of the source topic that the positions count in.
    topic: Option<String>,
    none: Option<String>,
    parts: Option<String>,
    closings: Option<String>,
    /// Offset of `delivery-attempts`, same partition, to replay from.
    pub attempts: i64,
}

impl DeliverMetadata {
    /// The metadata for what was taken in below the committed offset.
    #[must_use]
    pub fn new(token: Uuid, topic: Option<String>, highest: &Highest, attempts: i64) -> Self {
        Self {
            v: VERSION,
            token,
            topic,
            none: highest.none.as_ref().map(ToString::to_string),
            parts: highest.parts.as_ref().map(ToString::to_string),
            closings: highest.closings.as_ref().map(ToString::to_string),
            attempts,
        }
    }

    /// The source topic's id and the highest position of each stream.
    ///
    /// # Errors
    /// [`MetadataError`] if a position can't be read.
    pub fn highest(&self) -> Result<(Option<String>, Highest), MetadataError> {
        fn parse<T: std::str::FromStr<Err = crate::model::position::PositionError>>(
            text: Option<&String>,
        ) -> Result<Option<T>, MetadataError> {
            text.map(|text| text.parse()).transpose().map_err(|error| MetadataError(format!("{error}")))
        }
        let highest = Highest {
            none: parse(self.none.as_ref())?,
            parts: parse(self.parts.as_ref())?,
            closings: parse(self.closings.as_ref())?,
        };
        Ok((self.topic.clone(), highest))
    }
}

/// Metadata that this release can't read, or that is too large to commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata of the committed offset is unusable: {0}")]
pub struct MetadataError(String);

/// A form of commit metadata.
pub trait Metadata: Serialize + for<'de> Deserialize<'de> {
    /// The version the text claims.
    fn version(&self) -> u32;

    /// Writes the text.
    ///
    /// # Errors
    /// [`MetadataError`] if it is longer than a broker takes.
    fn encode(&self) -> Result<String, MetadataError> {
        let text = serde_json::to_string(self).map_err(|error| MetadataError(error.to_string()))?;
        match text.encode_utf16().count() {
            units if units > MAX_UNITS => {
                Err(MetadataError(format!("{units} units, expected at most {MAX_UNITS}")))
            }
            _ => Ok(text),
        }
    }

    /// Reads the text.
    ///
    /// # Errors
    /// [`MetadataError`] if it is no metadata of a known version.
    fn decode(text: &str) -> Result<Self, MetadataError> {
        let read: Self = serde_json::from_str(text).map_err(|error| MetadataError(error.to_string()))?;
        match read.version() {
            VERSION => Ok(read),
            other => Err(MetadataError(format!("version {other}, expected {VERSION}"))),
        }
    }
}

impl Metadata for AggregateMetadata {
    fn version(&self) -> u32 {
        self.v
    }
}

impl Metadata for DeliverMetadata {
    fn version(&self) -> u32 {
        self.v
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        position::Position,
        window::{Granularity, WindowRule},
    };

    fn metadata() -> AggregateMetadata {
        let rule =
            WindowRule::new(Duration::from_hours(1), Duration::from_mins(1), Duration::from_hours(168));
        AggregateMetadata::new("x".repeat(22), Uuid::from_u128(1), 5, WindowRules::single(rule))
    }

    #[test]
    fn the_last_boundary_at_or_below_an_offset_decides() {
        let mut table = BoundaryTable::default();
        table.close(Millis(100), 5);
        table.close(Millis(200), 9);
        table.close(Millis(300), 9);
        assert_eq!(table.closed_before(4), None);
        assert_eq!(table.closed_before(5), Some(Millis(100)));
        assert_eq!(table.closed_before(9), Some(Millis(300)));
        table.trim(8);
        assert_eq!(table.closed_before(8), Some(Millis(100)));
        table.trim(20);
        assert_eq!(table, BoundaryTable(vec![(Millis(300), 9)]));
    }

    #[test]
    fn two_days_of_boundaries_fit() {
        let mut metadata = metadata();
        for hour in 0..50 {
            metadata.boundaries.close(Millis(1_614_182_400_000 + hour * 3_600_000), i64::MAX / 2 + hour);
        }
        metadata.closings = Some(ClosedWindow {
            boundary: Millis(i64::MAX),
            first_offset: i64::MAX,
            granularity: Granularity::Day,
        });
        let text = metadata.encode().unwrap();
        assert!(text.len() < 3_000, "{}", text.len());
        assert_eq!(AggregateMetadata::decode(&text), Ok(metadata));
    }

    #[test]
    fn what_deliver_took_in_reads_back() {
        let mut highest = Highest::default();
        highest.advance(&Position::parse("none", "5/wh").unwrap());
        highest.advance(&Position::parse("closings", "5/6/1h/wh").unwrap());
        let metadata = DeliverMetadata::new(Uuid::nil(), Some("t".to_owned()), &highest, 17);
        let read = DeliverMetadata::decode(&metadata.encode().unwrap()).unwrap();
        assert_eq!(read.highest().unwrap(), (Some("t".to_owned()), highest));
        assert_eq!(read.attempts, 17);
    }

    #[test]
    fn another_version_is_refused() {
        let text = metadata().encode().unwrap().replacen("\"v\":1", "\"v\":9", 1);
        assert!(AggregateMetadata::decode(&text).unwrap_err().to_string().contains("version 9"));
        assert!(AggregateMetadata::decode("").is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_decoder_panic(text in ".{0,200}") {
            let _ = AggregateMetadata::decode(&text);
            let _ = DeliverMetadata::decode(&text);
        }
    }
}

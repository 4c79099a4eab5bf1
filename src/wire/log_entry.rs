//! Entries of a webhook's log as they stand in Redis: an attempt in short.

use super::attempt::AttemptRecord;
use crate::model::{
    statistics::LogEntry,
    time::{Millis, parse_timestamp},
};

/// The entry of a record of `delivery-attempts`. None if the record does not say when the attempt began.
#[must_use]
pub fn of_record(record: &AttemptRecord, partition: i32, offset: i64) -> Option<LogEntry> {
    Some(LogEntry {
        at: parse_timestamp(&record.started_at).map(Millis::from).ok()?,
        partition,
        offset,
        bundle_offset: record.bundle.offset,
        bundle_id: record.bundle.bundle_id,
        messages: record.bundle.messages,
        kind: record.kind.clone(),
        attempt: record.attempt,
        outcome: record.outcome,
        status: record.response.as_ref().map(|response| response.status),
        duration_ms: record.duration_ms,
        settled: record.settled.clone(),
    })
}

/// Bytes of the place in front of an entry.
const PLACE: usize = 12;

/// The form in Redis: about 70 bytes. It begins with partition and offset, so that Redis, which puts what has the same
/// time into the order of its bytes, keeps the attempts that are newest by time and place.
#[must_use]
pub fn encode(entry: &LogEntry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(80);
    bytes.extend(entry.partition.to_be_bytes());
    bytes.extend(entry.offset.to_be_bytes());
    postcard::to_extend(entry, bytes).expect("numbers and texts always serialise")
}

/// Reads the form in Redis.
///
/// # Errors
/// If it is not of that form.
pub fn decode(bytes: &[u8]) -> Result<LogEntry, postcard::Error> {
    postcard::from_bytes(bytes.get(PLACE..).ok_or(postcard::Error::DeserializeUnexpectedEnd)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_short_and_reads_back() {
        let schema = include_str!("../../schemas/delivery-attempt.json");
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        let record: AttemptRecord = serde_json::from_value(schema["examples"][0].clone()).unwrap();
        let entry = of_record(&record, 3, 1 << 40).unwrap();
        assert_eq!((entry.bundle_offset, entry.status), (1207, Some(503)));
        let bytes = encode(&entry);
        assert!(bytes.len() <= 76, "{}", bytes.len());
        assert_eq!(decode(&bytes), Ok(entry.clone()));
        assert!(decode(&bytes[..PLACE - 1]).is_err());

        let places = [(0, 7), (0, 255), (0, 256), (1, 0), (1, 127), (1, 128), (300, 1 << 40)];
        let at = |(partition, offset)| encode(&LogEntry { partition, offset, ..entry.clone() });
        assert!(places.map(at).is_sorted());
    }
}

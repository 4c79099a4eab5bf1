//! Batches of records, each copied once from librdkafka's memory.

use std::time::Instant;

use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};

use crate::{io::clock, model::time::Millis};

/// Records of one partition, in order, copied once.
#[derive(Debug)]
pub struct RecordBatch {
    /// Just before the last of them were polled.
    pub polled_at: Instant,
    bytes: Vec<u8>,
    records: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    offset: i64,
    arrived: Millis,
    key: Option<usize>,
    value: Option<usize>,
    /// Lengths of name and value of each header.
    headers: Vec<(usize, usize)>,
}

/// One record of a batch.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    pub offset: i64,
    /// The broker's timestamp.
    pub arrived: Millis,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<(&'a str, &'a [u8])>,
}

impl RecordBatch {
    pub(in crate::io::kafka) fn new() -> Self {
        Self { polled_at: Instant::now(), bytes: Vec::new(), records: Vec::new() }
    }

    pub(in crate::io::kafka) fn push(&mut self, message: &BorrowedMessage<'_>) {
        let mut take = |part: &[u8]| {
            self.bytes.extend_from_slice(part);
            part.len()
        };
        let key = message.key().map(&mut take);
        let value = message.payload().map(&mut take);
        let headers = message.headers().map(|headers| {
            let sizes = |header: rdkafka::message::Header<'_, &[u8]>| {
                (take(header.key.as_bytes()), take(header.value.unwrap_or_default()))
            };
            headers.iter().map(sizes).collect()
        });
        let arrived = Millis(message.timestamp().to_millis().unwrap_or_else(|| clock::now().0));
        let headers = headers.unwrap_or_default();
        self.records.push(Entry { offset: message.offset(), arrived, key, value, headers });
    }

    /// Adds the records that follow.
    pub(super) fn append(&mut self, next: Self) {
        self.polled_at = next.polled_at;
        self.bytes.extend_from_slice(&next.bytes);
        self.records.extend(next.records);
    }

    /// The records, in the order of their offsets.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut at = 0;
        self.records.iter().map(move |entry| {
            let mut next = |len: usize| {
                at += len;
                &self.bytes[at - len..at]
            };
            let key = entry.key.map(&mut next);
            let value = entry.value.map(&mut next);
            let mut header = |(name, value): &(usize, usize)| {
                (std::str::from_utf8(next(*name)).unwrap_or_default(), next(*value))
            };
            let headers = entry.headers.iter().map(&mut header).collect();
            Record { offset: entry.offset, arrived: entry.arrived, key, value, headers }
        })
    }

    /// Bytes of keys, values and headers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many there are; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// False: an empty batch is never handed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The position after it.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.records.last().map_or(0, |record| record.offset + 1)
    }
}

//! What Redis and Kafka keep for us and may give back damaged: states, metadata of commits, entries and frames. The first
//! character, a digit, says which.
#![no_main]

use bundlehook::wire::{
    attempt, health, log_entry,
    metadata::{AggregateMetadata, DeliverMetadata, Metadata},
    skips::SkipRecord,
    state,
    waiting::{self, WaitingDelivery},
    window_log::{self, Frame, LoggedMessage},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    match which.wrapping_sub(b'0') {
        0 => {
            for frame in window_log::decode(bytes).unwrap_or_default() {
                if let Frame::MessageV1(message) = frame {
                    drop(LoggedMessage::try_from(message));
                }
            }
        }
        1 => {
            if let Ok(entry) = log_entry::decode(bytes) {
                assert_eq!(log_entry::decode(&log_entry::encode(&entry)), Ok(entry));
            }
        }
        2 => {
            if let Ok(parked) = waiting::decode_parked(bytes) {
                assert_eq!(waiting::decode_parked(&waiting::encode_parked(&parked)), Ok(parked));
            }
        }
        3 => drop(health::decode(bytes)),
        4 => drop(state::decode(bytes)),
        5 => drop(state::decode_key(bytes)),
        6 => {
            if let Ok(waiting) = WaitingDelivery::decode(bytes) {
                let _ = (waiting.owner(), waiting.parked());
            }
        }
        7 => drop(SkipRecord::decode(bytes)),
        8 => drop(attempt::decode(bytes)),
        _ => {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            drop(AggregateMetadata::decode(text));
            if let Ok(metadata) = DeliverMetadata::decode(text) {
                drop(metadata.highest());
            }
        }
    }
});

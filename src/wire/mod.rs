//! Bytes to model and back: one file per stored or sent format. The schemas of those that leave the process are in
//! `schemas/`.

pub mod attempt;
pub mod body;
pub mod bundle;
pub mod change;
pub mod event;
pub mod health;
pub mod log_entry;
pub mod mail_metadata;
pub mod metadata;
pub mod notice;
pub mod poison;
mod rfc3339;
pub mod sealing;
pub mod settings;
pub mod skips;
pub mod state;
mod text;
pub mod waiting;
pub mod window_log;

pub use poison::{DeadLetterHead, Poison, PoisonReason, dead_letter_headers, decode_dead_letter};

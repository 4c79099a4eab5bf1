//! Pure nouns and rules: no async, no clock, no randomness, no logging. Whatever depends on time gets it as an argument.

pub mod address;
pub mod aggregation;
pub mod bundle;
pub mod delivery;
pub mod edit;
pub mod endpoint;
pub mod event;
pub mod health;
pub mod history;
pub mod ids;
pub mod parked;
pub mod position;
pub mod progress;
pub mod ramp;
pub mod retry;
pub mod statistics;
pub mod time;
pub mod webhook;
pub mod window;

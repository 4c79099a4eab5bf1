//! The only code that touches the network, the disk or the clock.

pub mod attempt_log;
pub mod clock;
pub mod http;
pub mod kafka;
pub mod redis;
pub mod sealing_keys;
pub mod smtp;

pub use self::redis::{Redis, StoreError};

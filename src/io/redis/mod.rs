//! Redis: a fast view of what Kafka holds. Each method of a store is one atomic operation.

pub mod connection;
pub mod edits;
pub mod facts;
pub mod health;
mod master;
pub mod queue;
pub mod server;
mod tls;
pub mod turns;
pub mod views;
pub mod windows;

pub use connection::{Redis, StoreError};

//! Kafka: clients, the intake of a consumer group, the publisher, the tail of the settings' topics.

pub mod admin;
pub mod arrivals;
pub mod client;
pub mod cursor;
pub mod edits;
pub mod embedded;
pub mod follow;
pub mod health_log;
pub mod intake;
pub mod live;
pub mod onlooker;
pub mod publisher;
pub mod reader;
pub mod replay;
pub mod tail;
pub mod topic_id;
pub mod topics;

pub use client::{Topics, client_config};

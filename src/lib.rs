//! Bundlehook brings `WhatsApp` messages from Kafka to customers' webhooks, at once or bundled per chat and window.

pub mod flow;
pub mod model;
pub mod wire;

#[cfg(feature = "io")]
pub mod commands;
#[cfg(feature = "io")]
pub mod config;
#[cfg(feature = "io")]
pub mod console;
#[cfg(feature = "io")]
pub mod io;
#[cfg(feature = "io")]
pub mod ops;
#[cfg(feature = "io")]
pub mod roles;
#[cfg(feature = "io")]
pub mod tools;

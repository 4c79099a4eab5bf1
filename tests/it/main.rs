//! Integration tests: the product against Kafka, Redis and HTTP receivers, one program for all of them.

mod support;

mod addresses;
mod crashes;
mod delivery;
mod failures;
mod hostile;
mod messages;
mod operations;
mod oracle;
mod parking;
mod queue;
mod rig;
mod schemas;
mod secrets;
mod settings;
mod signatures;
mod skips;
mod tools;

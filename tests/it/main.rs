//! Integration tests: the product against Kafka, Redis and HTTP receivers, one program for all of them.

mod support;

mod crashes;
mod dead_letters;
mod delivery;
mod doctor;
mod failures;
mod log;
mod messages;
mod operations;
mod oracle;
mod parking;
mod partitions;
mod queue;
mod rig;
mod schemas;
mod settings;
mod skips;
mod tools;
mod views;

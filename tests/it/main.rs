//! Integration tests: the product against Kafka, Redis and HTTP receivers, one program for all of them.

mod support;

mod brokers;
mod commands;
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
mod requests;
mod rig;
mod schemas;
mod settings;
mod skips;
mod stalls;
mod tools;
mod topologies;
mod trouble;
mod views;

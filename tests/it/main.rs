//! Integration tests: the product against Kafka, Redis and HTTP receivers, one program for all of them.

mod support;

mod addresses;
mod brokers;
mod commands;
mod crashes;
mod dead_letters;
mod delivery;
mod doctor;
mod failpoints;
mod failures;
mod hostile;
mod log;
mod messages;
mod offsets;
mod operations;
mod oracle;
mod outages;
mod parking;
mod partitions;
mod queue;
mod requests;
mod rig;
mod schemas;
mod secrets;
mod settings;
mod signatures;
mod skips;
mod stalls;
mod standstills;
mod tools;
mod topologies;
mod trouble;
mod views;

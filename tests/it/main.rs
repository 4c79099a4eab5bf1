//! Integration tests: the product against Kafka, Redis and HTTP receivers, one program for all of them.

mod support;

mod rig;
mod tools;

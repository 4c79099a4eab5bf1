//! The pipeline, one file an arrow. Pure steps: what they need comes as arguments, what must happen comes out as
//! values; the roles connect them to Kafka, Redis and HTTP.

pub mod bundle_to_delivery;
pub mod delivery_to_outcome;
pub mod event_to_window;
pub mod outcome_to_notice;
pub mod parked_to_delivery;
pub mod request_to_bundle;
pub mod window_to_bundle;

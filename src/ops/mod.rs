//! What operators see: metrics, probes, logs; and how a process stops or begins anew.

pub mod anew;
pub mod failpoint;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod probes;
pub mod runtime_delay;
pub mod shutdown;

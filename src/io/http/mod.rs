//! HTTP to the customers' endpoints.

pub mod client;
mod connection;
mod connector;
mod name_server;
mod proxy;
mod resolver;
mod tls;

pub use client::{HttpClient, HttpOptions};
pub use proxy::Proxy;
pub use tls::check as check_ca_bundle;

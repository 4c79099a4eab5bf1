//! HTTP to the customers' endpoints.

pub mod client;
pub mod connector;

pub use client::HttpClient;

//! HTTP to the customers' endpoints.

pub mod client;
mod connection;
mod connector;
mod resolver;
mod tls;

pub use client::{HttpClient, HttpOptions};

//! HTTP to customers.

//! The API: who may do what, and what it does.

mod callers;
mod described;
mod live;
mod settings;

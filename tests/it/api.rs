//! The API: who may do what, and what it does.

mod callers;
mod described;
mod embedded;
mod keys;
mod live;
mod moved;
mod pages;
mod settings;

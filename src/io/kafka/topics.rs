//! Creating and checking topics.

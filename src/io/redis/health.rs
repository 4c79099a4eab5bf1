//! The health of webhooks: one slot each, changed by compare-and-set.

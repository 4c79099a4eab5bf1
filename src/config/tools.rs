use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::value;

/// What `topics` does.
#[derive(Debug, Clone, clap::Args)]
pub struct TopicsSettings {
    /// Partitions of the topics that it creates; those of settings and notices have one.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Replicas of the topics that it creates; -1 takes the broker's default.
    #[arg(long, default_value_t = -1, value_parser = clap::value_parser!(i32).range(-1..=100), allow_negative_numbers = true)]
    pub replication_factor: i32,
    /// Only check: create nothing, exit 1 if something is missing or differs.
    #[arg(long)]
    pub check: bool,
}

/// What `produce` publishes.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false, args = ["file", "settings"])]
pub struct ProduceSettings {
    /// JSONL file of message events, one a line; `-` is standard input.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// JSONL file of webhook settings, one webhook a line; `-` is standard input.
    #[arg(long)]
    pub settings: Option<PathBuf>,
    /// At most so many records a second.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// How `receive` answers.
#[derive(Debug, Clone, clap::Args)]
pub struct ReceiveSettings {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9000")]
    pub addr: SocketAddr,
    /// Status to answer with.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: u16,
    /// How long to wait before answering.
    #[arg(long, default_value = "0", value_parser = value::duration_or_zero)]
    pub delay: Duration,
    /// Append every request as a JSON line to this file.
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What `dev` starts with.
#[derive(Debug, Clone, clap::Args)]
pub struct DevSettings {
    /// Webhook settings to begin with, one JSON object a line.
    #[arg(long, env = "BUNDLEHOOK_DEV_SETTINGS")]
    pub settings: Option<PathBuf>,
    /// Message events to publish once everything runs, one a line.
    #[arg(long, env = "BUNDLEHOOK_DEV_FILE")]
    pub file: Option<PathBuf>,
}

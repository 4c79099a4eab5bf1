use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::value;

/// What `topics` does.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Topics")]
pub struct TopicsSettings {
    /// Partitions of the topics that it creates; those of settings, states, health and notices get one.
    #[arg(
        long,
        env = "BUNDLEHOOK_TOPICS_PARTITIONS",
        default_value_t = 12,
        value_parser = value::number::<i32>(1..=10_000)
    )]
    pub partitions: i32,
    /// Replicas of the topics that it creates; -1 takes the broker's default.
    #[arg(
        long,
        env = "BUNDLEHOOK_TOPICS_REPLICATION_FACTOR",
        default_value_t = -1,
        value_parser = value::replication_factor,
        allow_negative_numbers = true
    )]
    pub replication_factor: i32,
    /// Only check: create nothing, exit 1 if something is missing or differs.
    #[arg(long, env = "BUNDLEHOOK_TOPICS_CHECK", value_parser = value::switch)]
    pub check: bool,
}

/// What `produce` publishes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Input")]
#[group(skip)]
#[command(group = clap::ArgGroup::new("input").args(["file", "settings"]).required(true))]
pub struct ProduceSettings {
    /// JSONL file of message events, one a line; `-` is standard input.
    #[arg(long, env = "BUNDLEHOOK_PRODUCE_FILE")]
    pub file: Option<PathBuf>,
    /// JSONL file of webhook settings, one webhook a line; `-` is standard input. A line
    /// `{"webhook_id": "wh-1", "deleted": true}` deletes a webhook. Ends when the settings count, 5 s after they
    /// were published.
    #[arg(long, env = "BUNDLEHOOK_PRODUCE_SETTINGS", value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// A file with the keys that seal secrets and header values of webhook settings, a line `ID:BASE64` each, 32 bytes.
    /// The first one seals. Without it settings that hold secrets are refused.
    #[arg(long, env = "BUNDLEHOOK_SEALING_KEYS", value_name = "FILE")]
    pub sealing_keys: Option<PathBuf>,
    /// Publish secrets as they are; for `dev`, whose broker forgets everything.
    #[arg(skip)]
    pub plain: bool,
    /// At most so many records a second; as fast as the broker takes them unless set.
    #[arg(long, env = "BUNDLEHOOK_PRODUCE_RATE", value_parser = value::number::<u32>(1..=10_000_000))]
    pub rate: Option<u32>,
}

/// How `receive` answers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Receiver")]
pub struct ReceiveSettings {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, env = "BUNDLEHOOK_RECEIVE_ADDR", default_value = "127.0.0.1:9000", value_parser = value::socket_addr)]
    pub addr: SocketAddr,
    /// Status to answer with.
    #[arg(long, env = "BUNDLEHOOK_RECEIVE_STATUS", default_value_t = 200, value_parser = value::number::<u16>(200..=599))]
    pub status: u16,
    /// How long to wait before answering, such as `500ms`.
    #[arg(long, env = "BUNDLEHOOK_RECEIVE_DELAY", default_value = "0", value_parser = value::duration_or_zero)]
    pub delay: Duration,
    /// Append every request as a JSON line to this file, before it is answered.
    #[arg(long, env = "BUNDLEHOOK_RECEIVE_OUT", value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What `dev` starts with.
#[derive(Debug, Clone, clap::Args)]
pub struct DevSettings {
    /// Webhook settings to begin with, one JSON object a line.
    #[arg(long, env = "BUNDLEHOOK_DEV_SETTINGS")]
    pub settings: Option<PathBuf>,
}

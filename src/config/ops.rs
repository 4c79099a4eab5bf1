use std::{net::SocketAddr, time::Duration};

use super::value;

/// What operators see.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Operations")]
pub struct OpsSettings {
    /// Address for `/metrics`, `/livez` and `/readyz`.
    #[arg(
        long = "http-addr",
        env = "BUNDLEHOOK_HTTP_ADDR",
        default_value = "127.0.0.1:9090",
        value_parser = value::socket_addr
    )]
    pub http_addr: SocketAddr,
    /// A process begins anew, under the same process id, where a file has changed that is read only at the start. It does
    /// so at a random moment within this time, so that not all do at once; `0`: it never does.
    #[arg(
        long,
        env = "BUNDLEHOOK_RELOAD_WITHIN",
        default_value = "1m",
        value_parser = value::duration_or_zero
    )]
    pub reload_within: Duration,
}

/// What is logged, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogSettings {
    /// Form of the log on standard error.
    #[arg(long, env = "BUNDLEHOOK_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// What to log: a level, or directives like `info,bundlehook=debug`.
    #[arg(long, env = "BUNDLEHOOK_LOG", default_value = "info", global = true, value_parser = value::log_filter)]
    pub log: String,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A JSON object a line.
    Json,
    /// For people.
    Text,
}

use std::time::Duration;

use url::Url;

use super::value;

/// How to reach Redis.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisSettings {
    /// Server, `redis://`, `rediss://` (TLS) or `redis+unix://`.
    #[arg(long = "redis-url", env = "BUNDLEHOOK_REDIS_URL", value_parser = value::redis_url, hide_env_values = true)]
    pub url: Url,
    /// How long to wait for an answer before the call counts as failed, though it may have been carried out.
    #[arg(long = "redis-timeout", env = "BUNDLEHOOK_REDIS_TIMEOUT", default_value = "5s", value_parser = value::duration)]
    pub timeout: Duration,
}

use super::value;

/// Which settings of webhooks count as usable.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct SealedSettings {
    /// Refuse records of webhook settings that hold secrets in the clear; all roles and tools alike.
    #[arg(long, env = "BUNDLEHOOK_REQUIRE_SEALED", value_parser = value::switch)]
    pub require_sealed: bool,
}

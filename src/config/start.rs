use super::value;

/// Where a role starts, and what it accepts.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Start")]
pub struct StartSettings {
    /// Where to start reading a partition that has no committed offset although output of it exists.
    #[arg(long, env = "BUNDLEHOOK_FROM")]
    pub from: Option<StartFrom>,
    /// Refuse records of webhook settings that hold secrets in the clear; all roles alike.
    #[arg(long, env = "BUNDLEHOOK_REQUIRE_SEALED", value_parser = value::switch)]
    pub require_sealed: bool,
}

/// Where to start without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StartFrom {
    /// At the oldest record there is.
    Beginning,
    /// After the newest.
    End,
}

use super::SealedSettings;

/// Where a role starts, and what it accepts.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(next_help_heading = "Start")]
pub struct StartSettings {
    /// Where to start reading a partition that has no committed offset although output of it exists.
    #[arg(long, env = "BUNDLEHOOK_FROM")]
    pub from: Option<StartFrom>,
    #[command(flatten)]
    pub sealed: SealedSettings,
}

/// Where to start without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StartFrom {
    /// At the oldest record there is.
    Beginning,
    /// After the newest.
    End,
}

use clap::Subcommand;

use super::{KafkaSettings, RedisSettings, SealedSettings, SignInSettings, value};
use crate::model::time::Millis;

/// Settings of `doctor`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Exit code: 0 if all is well, 1 with warnings only, 2 if something fails.")]
pub struct DoctorCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub sealed: SealedSettings,
    #[command(flatten)]
    pub sign_in: SignInSettings,
    #[command(flatten)]
    pub output: OutputSettings,
}

/// Settings of `inspect`.
#[derive(Debug, Clone, clap::Args)]
pub struct InspectCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub output: OutputSettings,
}

/// What is printed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputSettings {
    /// Print JSON.
    #[arg(long, env = "BUNDLEHOOK_JSON", value_parser = value::switch)]
    pub json: bool,
}

/// What to do with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersCommand {
    /// Lists dead letters, the newest last.
    List(ListCommand),
    /// Shows one dead letter in full.
    Show(ShowCommand),
    /// Publishes dead letters again as they were, to the topic they came from.
    ///
    /// Only messages can be published again: a settings record of the past would undo what came after it. The
    /// dead letters stay where they are, and whoever redrives them once more repeats them. A message counts as
    /// arriving anew: windows of the past stay closed, and what is older than the age limit is skipped.
    Redrive(RedriveCommand),
}

/// Settings of `dead-letters list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// At most so many, the newest.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_LIMIT", default_value_t = 100, value_parser = value::number::<u32>(1..=1_000_000))]
    pub limit: u32,
    #[command(flatten)]
    pub output: OutputSettings,
}

/// Settings of `dead-letters show`.
#[derive(Debug, Clone, clap::Args)]
pub struct ShowCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Which: `3/17`, its partition and offset in `dead-letters`, or `message-events/0/1041`, those of its source.
    #[arg(value_parser = value::letter_place)]
    pub place: LetterPlace,
    /// Write its value only, byte for byte.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_RAW", value_parser = value::switch)]
    pub raw: bool,
}

/// Settings of `dead-letters redrive`.
#[derive(Debug, Clone, clap::Args)]
pub struct RedriveCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    /// Which: `3/17`, partition and offset in `dead-letters`, or `message-events/0/1041`, those of the source.
    #[arg(value_parser = value::letter_place)]
    pub places: Vec<LetterPlace>,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// All of them.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_ALL", value_parser = value::switch)]
    pub all: bool,
    /// Only say what would be published.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_DRY_RUN", value_parser = value::switch)]
    pub dry_run: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Selection")]
pub struct LetterFilter {
    /// Only those with this reason, such as `invalid_field`.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_REASON")]
    pub reason: Option<String>,
    /// Only those that came from this topic, named without the prefix.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_TOPIC")]
    pub topic: Option<String>,
    /// Only those of this time or later, such as `2026-01-31T08:00:00Z`.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_SINCE", value_name = "TIME", value_parser = value::instant)]
    pub since: Option<Millis>,
    /// Only those before this time.
    #[arg(long, env = "BUNDLEHOOK_DEAD_LETTERS_UNTIL", value_name = "TIME", value_parser = value::instant)]
    pub until: Option<Millis>,
}

impl LetterFilter {
    /// True if it lets everything pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reason.is_none() && self.topic.is_none() && self.since.is_none() && self.until.is_none()
    }
}

/// Names a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterPlace {
    /// The topic it came from; none: partition and offset are those of `dead-letters` itself.
    pub source: Option<String>,
    pub partition: i32,
    pub offset: i64,
}

//! The command line: every setting is a flag and an environment variable `BUNDLEHOOK_*`, from one definition.
//!
//! Each role and tool flattens the sections it needs, so that no stage sees settings it has no use for.

mod delivery;
mod kafka;
mod ops;
mod redis;
mod tools;
mod value;
mod windows;

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand, error::ContextKind};

pub use self::{
    delivery::DeliverySettings,
    kafka::{KafkaSettings, TopicSettings},
    ops::{LogFormat, LogSettings, OpsSettings},
    redis::RedisSettings,
    tools::{DevSettings, ProduceSettings, ReceiveSettings, TopicsSettings},
    windows::{StartFrom, WindowSettings},
};

/// Exit code for a wrong setting (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: i32 = 64;

/// Brings `WhatsApp` messages from Kafka to customers' webhooks, at once or bundled per chat and window.
#[derive(Debug, Parser)]
#[command(name = "bundlehook", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogSettings,
    #[command(subcommand)]
    pub command: Command,
}

/// The roles and tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Role: reads `message-events`, keeps windows in Redis, writes bundles to `bundles`.
    Aggregate(AggregateCommand),
    /// Role: reads `bundles` and POSTs each one at its webhook's URL.
    Deliver(DeliverCommand),
    /// All roles in one process.
    All(AllCommand),
    /// All roles in one process with an embedded broker and a Redis of its own: nothing to set up.
    Dev(DevCommand),
    /// Creates missing topics with the right settings and says what differs in existing ones.
    Topics(TopicsCommand),
    /// Publishes events or webhook settings from a JSONL file.
    Produce(ProduceCommand),
    /// A local receiver: prints each POST, answers it, and can record it.
    Receive(ReceiveCommand),
}

/// Settings of the role `aggregate`.
#[derive(Debug, Clone, clap::Args)]
pub struct AggregateCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub windows: WindowSettings,
    #[command(flatten)]
    pub ops: OpsSettings,
}

/// Settings of the role `deliver`.
#[derive(Debug, Clone, clap::Args)]
pub struct DeliverCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub delivery: DeliverySettings,
    #[command(flatten)]
    pub ops: OpsSettings,
}

/// Settings of all roles.
#[derive(Debug, Clone, clap::Args)]
pub struct AllCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub windows: WindowSettings,
    #[command(flatten)]
    pub delivery: DeliverySettings,
    #[command(flatten)]
    pub ops: OpsSettings,
}

/// Settings of `dev`.
#[derive(Debug, Clone, clap::Args)]
pub struct DevCommand {
    #[command(flatten)]
    pub dev: DevSettings,
    #[command(flatten)]
    pub windows: WindowSettings,
    #[command(flatten)]
    pub delivery: DeliverySettings,
    #[command(flatten)]
    pub ops: OpsSettings,
}

/// Settings of `topics`.
#[derive(Debug, Clone, clap::Args)]
pub struct TopicsCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub topics: TopicsSettings,
}

/// Settings of `produce`.
#[derive(Debug, Clone, clap::Args)]
pub struct ProduceCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub produce: ProduceSettings,
}

/// Settings of `receive`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReceiveCommand {
    #[command(flatten)]
    pub receive: ReceiveSettings,
}

/// A text for the terminal and the code to exit with.
#[derive(Debug)]
pub struct Exit {
    /// What to print: to standard output for code 0, else to standard error.
    pub text: String,
    /// 0 for `--help` and `--version`, 64 for a wrong setting.
    pub code: i32,
}

/// Reads the command line and the environment.
///
/// # Errors
/// [`Exit`] with the help, the version, or a text that names the setting, the value and what is expected.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Exit> {
    Cli::try_parse_from(args).map_err(|error| {
        if !error.use_stderr() {
            return Exit {
                text: error.to_string(),
                code: 0,
            };
        }
        let mut text = error.to_string();
        if let Some(variable) = variable_of(&error) {
            text.push_str(&format!(
                "\nThe setting can also come from the environment variable {variable}.\n"
            ));
        }
        Exit {
            text,
            code: EXIT_USAGE,
        }
    })
}

/// The environment variable of the setting that an error is about.
fn variable_of(error: &clap::Error) -> Option<String> {
    let context = error.get(ContextKind::InvalidArg)?.to_string();
    let flag = context.split_whitespace().next()?.strip_prefix("--")?;
    let command = Cli::command();
    let mut arguments = command
        .get_arguments()
        .chain(command.get_subcommands().flat_map(clap::Command::get_arguments));
    let argument = arguments.find(|argument| argument.get_long() == Some(flag))?;
    Some(argument.get_env()?.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Cli, Exit> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_an_environment_variable_and_a_help_text() {
        let command = Cli::command();
        for subcommand in command.get_subcommands() {
            for argument in subcommand
                .get_arguments()
                .filter(|argument| argument.get_long().is_some())
            {
                let name = argument.get_long().unwrap_or_default();
                assert!(argument.get_help().is_some(), "--{name} has no help");
                let variable = argument
                    .get_env()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let own = [
                    "file",
                    "settings",
                    "rate",
                    "addr",
                    "status",
                    "delay",
                    "out",
                    "check",
                    "partitions",
                    "replication-factor",
                ];
                assert!(
                    variable.starts_with("BUNDLEHOOK_") || own.contains(&name),
                    "--{name} has no variable"
                );
            }
        }
    }

    #[test]
    fn a_wrong_value_names_the_setting_the_value_and_what_is_expected() {
        let exit = parse_line("bundlehook aggregate --kafka-brokers=x:1 --redis-url=redis://x --hour=abc")
            .unwrap_err();
        assert_eq!(exit.code, EXIT_USAGE);
        for part in ["--hour", "'abc'", "expected a duration", "BUNDLEHOOK_HOUR"] {
            assert!(exit.text.contains(part), "{part} in {}", exit.text);
        }
    }

    #[test]
    fn help_is_no_error() {
        assert_eq!(parse_line("bundlehook --help").unwrap_err().code, 0);
    }
}

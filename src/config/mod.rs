//! The command line: every setting is a flag and an environment variable `BUNDLEHOOK_*`, from one definition.
//!
//! Each role and tool flattens the sections it needs, so that no stage sees settings it has no use for.

mod delivery;
mod effective;
mod given;
mod inspection;
mod kafka;
mod mail;
mod ops;
mod read_once;
mod redis;
mod sealed;
mod serve;
mod start;
mod tools;
mod value;
mod webhook;
mod windows;

use std::ffi::{OsStr, OsString};

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

pub use self::{
    delivery::{DeliverySettings, ProxyUrl},
    effective::{EffectiveSetting, Origin, effective},
    given::{Given, InFile},
    inspection::{
        DeadLettersCommand, DoctorCommand, InspectCommand, LetterFilter, LetterPlace, ListCommand,
        OutputSettings, RedriveCommand, ShowCommand,
    },
    kafka::{KafkaSettings, TopicSettings},
    mail::{MailSettings, OptionalSmtpSettings, SmtpSettings, SmtpTls, SmtpUrl},
    ops::{LogFormat, LogSettings, OpsSettings},
    read_once::ReadOnce,
    redis::{RedisServers, RedisSettings, RedisTls},
    sealed::SealedSettings,
    serve::{ForwardedHeader, SealingSettings, ServeSettings, SettingsBy, SignInSettings},
    start::{StartFrom, StartSettings},
    tools::{DevSettings, ProduceSettings, ReceiveSettings, TopicsSettings},
    webhook::{
        DisableWebhook, EnableWebhook, ListWebhooks, LogWebhook, ResendWebhook, ShowWebhook, TestWebhook,
        WebhookAction, WebhookCommand, WebhookCommon,
    },
    windows::WindowSettings,
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
    /// Role: reads `notifications` and sends e-mails to the owners of webhooks.
    Notify(NotifyCommand),
    /// Role: serves the console and the API.
    Serve(Box<ServeCommand>),
    /// All roles in one process.
    All(Box<AllCommand>),
    /// All roles in one process with an embedded broker and a Redis of its own: nothing to set up.
    Dev(Box<DevCommand>),
    /// Creates missing topics with the right settings and says what differs in existing ones.
    Topics(TopicsCommand),
    /// Publishes events or webhook settings from a JSONL file.
    Produce(ProduceCommand),
    /// Looks at webhooks, switches them on and off, tries them out, sends again.
    Webhook(WebhookCommand),
    /// A local receiver: prints each POST, answers it, and can record it.
    Receive(ReceiveCommand),
    /// Checks Kafka, its topics, Redis, the settings and the clocks; says what is wrong and how to mend it.
    Doctor(DoctorCommand),
    /// Shows positions, open windows and waiting deliveries of each partition. Changes nothing.
    Inspect(InspectCommand),
    /// Shows the settings that a role would run with, and where each comes from. Passwords are masked.
    Config(ConfigCommand),
    /// Lists, shows and publishes again what could not be processed.
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
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
    #[command(flatten)]
    pub start: StartSettings,
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
    #[command(flatten)]
    pub start: StartSettings,
}

/// Settings of the role `notify`.
#[derive(Debug, Clone, clap::Args)]
pub struct NotifyCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub smtp: SmtpSettings,
    #[command(flatten)]
    pub mail: MailSettings,
    #[command(flatten)]
    pub ops: OpsSettings,
    #[command(flatten)]
    pub start: StartSettings,
}

/// Settings of the role `serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeCommand {
    #[command(flatten)]
    pub kafka: KafkaSettings,
    #[command(flatten)]
    pub redis: RedisSettings,
    #[command(flatten)]
    pub serve: ServeSettings,
    #[command(flatten)]
    pub sealing: SealingSettings,
    #[command(flatten)]
    pub windows: WindowSettings,
    #[command(flatten)]
    pub ops: OpsSettings,
    #[command(flatten)]
    pub sealed: SealedSettings,
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
    pub serve: ServeSettings,
    #[command(flatten)]
    pub smtp: OptionalSmtpSettings,
    #[command(flatten)]
    pub mail: MailSettings,
    #[command(flatten)]
    pub ops: OpsSettings,
    #[command(flatten)]
    pub start: StartSettings,
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
    pub serve: ServeSettings,
    #[command(flatten)]
    pub mail: MailSettings,
    #[command(flatten)]
    pub ops: OpsSettings,
}

/// Settings of `config`.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigCommand {
    #[command(flatten)]
    pub output: OutputSettings,
    #[command(subcommand)]
    pub role: ConfiguredRole,
}

/// The roles whose settings can be shown: each takes the flags and variables that it would run with.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfiguredRole {
    /// Settings of `aggregate`.
    Aggregate(AggregateCommand),
    /// Settings of `deliver`.
    Deliver(DeliverCommand),
    /// Settings of `notify`.
    Notify(NotifyCommand),
    /// Settings of `serve`.
    Serve(Box<ServeCommand>),
    /// Settings of `all`.
    All(Box<AllCommand>),
    /// Settings of `dev`.
    Dev(Box<DevCommand>),
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
    let args: Vec<OsString> = args.into_iter().collect();
    Cli::try_parse_from(&args).map_err(|error| {
        if error.use_stderr() {
            Exit { text: explain(&error, &args), code: EXIT_USAGE }
        } else {
            Exit { text: error.to_string(), code: 0 }
        }
    })
}

/// The error with the variables of the settings that it is about, and without what may hold a password.
fn explain(error: &clap::Error, args: &[OsString]) -> String {
    let mut text = error.to_string();
    let command = Cli::command();
    let settings = settings_of(error, &command, args);
    let value = error.get(ContextKind::InvalidValue).map(|value| format!("'{value}'"));
    if let Some(value) = value.filter(|_| settings.iter().any(|setting| setting.is_hide_env_values_set())) {
        text = text.replace(&value, "'***'");
    }
    let variables: Vec<_> =
        settings.iter().filter_map(|setting| setting.get_env()).map(OsStr::to_string_lossy).collect();
    match variables.as_slice() {
        [] => text,
        [one] => text + &format!("\nThe setting can also come from the environment variable {one}.\n"),
        many => text + &format!("\nThe settings can also come from the environment: {}.\n", many.join(", ")),
    }
}

/// The settings that an error is about. The same flag may mean another setting in another subcommand.
fn settings_of<'a>(error: &clap::Error, command: &'a clap::Command, args: &[OsString]) -> Vec<&'a clap::Arg> {
    let chosen =
        |command: &'a clap::Command| args.iter().skip(1).find_map(|arg| command.find_subcommand(arg));
    let mut subcommand = chosen(command);
    while let Some(nested) = subcommand.and_then(chosen) {
        subcommand = Some(nested);
    }
    let arguments =
        || subcommand.into_iter().flat_map(clap::Command::get_arguments).chain(command.get_arguments());
    if error.kind() == ErrorKind::InvalidUtf8 {
        let is_text = |name: &OsStr| std::env::var_os(name).is_none_or(|value| value.to_str().is_some());
        return arguments()
            .filter(|argument| argument.get_env().is_some_and(|name| !is_text(name)))
            .collect();
    }
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(one)) => std::slice::from_ref(one),
        Some(ContextValue::Strings(many)) => many,
        _ => &[],
    };
    let flags = [ContextKind::InvalidArg, ContextKind::PriorArg]
        .into_iter()
        .flat_map(named)
        .flat_map(|usage| usage.split(['<', '>', '|', ' ']).filter_map(|word| word.strip_prefix("--")));
    flags.filter_map(|flag| arguments().find(|argument| argument.get_long() == Some(flag))).collect()
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
        // What a command on a webhook is about is given with it, not set.
        let is_set = |command: &clap::Command| command.get_name() != "webhook";
        let nested = command.get_subcommands().filter(|command| is_set(command));
        let nested = nested.flat_map(clap::Command::get_subcommands);
        for subcommand in command.get_subcommands().chain(nested) {
            for argument in subcommand.get_arguments().filter(|argument| argument.get_long().is_some()) {
                let name = argument.get_long().unwrap_or_default();
                assert!(argument.get_help().is_some(), "--{name} has no help");
                let variable = argument.get_env().unwrap_or_default().to_string_lossy().into_owned();
                assert!(variable.starts_with("BUNDLEHOOK_"), "--{name} has no variable");
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
    fn a_wrong_value_that_may_hold_a_password_is_not_shown() {
        for wrong in ["--redis-url=http://:s3cret@x/", "--kafka-properties=sasl.password=s3cret,nonsense=1"] {
            let exit = parse_line(&format!("bundlehook aggregate --kafka-brokers=x:1 {wrong}")).unwrap_err();
            assert!(exit.text.contains("'***'") && !exit.text.contains("s3cret"), "{}", exit.text);
        }
    }

    #[test]
    fn missing_settings_are_named_with_their_variables() {
        let exit = parse_line("bundlehook deliver").unwrap_err();
        assert!(exit.text.contains("BUNDLEHOOK_KAFKA_BROKERS, BUNDLEHOOK_REDIS_URL"), "{}", exit.text);
        let exit = parse_line("bundlehook produce --kafka-brokers=x:1").unwrap_err();
        assert!(exit.text.contains("BUNDLEHOOK_PRODUCE_FILE, BUNDLEHOOK_PRODUCE_SETTINGS"), "{}", exit.text);
    }

    #[test]
    fn every_subcommand_is_read_with_its_defaults() {
        let (kafka, redis) = ("--kafka-brokers=x:1", "--redis-url=redis://x");
        for line in [
            &format!("aggregate {kafka} {redis}"),
            &format!("deliver {kafka} {redis}"),
            &format!("notify {kafka} {redis} --smtp-url=smtp://mail.example.com"),
            &format!("serve {kafka} {redis}"),
            &format!("all {kafka} {redis}"),
            "dev",
            &format!("topics {kafka}"),
            &format!("produce {kafka} --file=a"),
            "receive",
            &format!("doctor {kafka} {redis}"),
            &format!("inspect {kafka} {redis} --json"),
            &format!("dead-letters list {kafka} --reason=invalid_json --since=2026-01-31T08:00:00Z"),
            &format!("dead-letters show {kafka} 3/17"),
            &format!("dead-letters redrive {kafka} 3/17 message-events/0/1041 --dry-run"),
            &format!("webhook list {kafka} {redis}"),
            &format!("webhook log wh-1 {kafka} {redis}"),
            &format!("webhook enable wh-1 --send {kafka} {redis}"),
            &format!("webhook resend wh-1 --from=2021-02-24T16:00:00Z {kafka} {redis}"),
        ] {
            let read = parse_line(&format!("bundlehook {line}"));
            assert!(read.is_ok(), "{line}: {read:?}");
        }
    }

    #[test]
    fn produce_takes_one_input_and_a_rate() {
        let line = "bundlehook produce --kafka-brokers=x:1 --rate=5";
        assert!(parse_line(line).is_err());
        assert!(parse_line(&format!("{line} --file=a")).is_ok());
        assert!(parse_line(&format!("{line} --settings=a")).is_ok());
        assert!(parse_line(&format!("{line} --file=a --settings=a")).is_err());
    }

    #[test]
    fn a_command_on_a_webhook_names_what_is_wrong() {
        let connection = "--kafka-brokers=x:1 --redis-url=redis://x";
        for (line, part) in [
            ("show", "<ID>"),
            ("resend wh-1", "--delivery"),
            ("resend wh-1 --delivery=7", "expected a UUID"),
            ("resend wh-1 --from=yesterday", "expected a timestamp"),
            ("enable wh-1 --send --discard", "cannot be used with"),
            ("log wh-1 --count=101", "expected a whole number from 1 to 100"),
            ("list --timeout=soon", "BUNDLEHOOK_WEBHOOK_TIMEOUT"),
        ] {
            let exit = parse_line(&format!("bundlehook webhook {line} {connection}")).unwrap_err();
            assert_eq!(exit.code, EXIT_USAGE, "{line}");
            assert!(exit.text.contains(part), "{line}: {}", exit.text);
        }
    }

    #[test]
    fn help_is_no_error() {
        assert_eq!(parse_line("bundlehook --help").unwrap_err().code, 0);
    }
}

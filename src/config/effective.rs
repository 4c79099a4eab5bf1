//! The settings that a role would run with, where each comes from, and what of them may be shown.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, CommandFactory, parser::ValueSource};
use serde::Serialize;

use super::{Cli, Exit, parse};

/// What stands for a password.
const MASK: &str = "***";

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveSetting {
    /// The variable that it can come from.
    pub variable: String,
    /// The flag, without dashes.
    pub flag: String,
    /// Its text, with passwords masked; none if it is not set.
    pub value: Option<String>,
    pub origin: Origin,
    /// The file that it was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Flag,
    Environment,
    /// A file that a flag or a variable names.
    File,
    Default,
    /// It has no value.
    Unset,
}

/// The settings of the role that a line `bundlehook config ROLE` names.
///
/// # Errors
/// As [`parse`].
pub fn effective(args: impl IntoIterator<Item = OsString>) -> Result<Vec<EffectiveSetting>, Exit> {
    let args: Vec<OsString> = args.into_iter().collect();
    parse(args.clone())?;
    let mut command = Cli::command();
    command.build();
    let exit = |error: clap::Error| Exit { text: error.to_string(), code: super::EXIT_USAGE };
    let matches = command.clone().try_get_matches_from(args).map_err(exit)?;
    let (mut command, mut matches) = (&command, &matches);
    while let Some((name, nested)) = matches.subcommand()
        && let Some(found) = command.find_subcommand(name)
    {
        (command, matches) = (found, nested);
    }
    let is_setting = |argument: &&Arg| argument.get_env().is_some() && base(command, argument).is_none();
    Ok(command.get_arguments().filter(is_setting).map(|argument| look(command, argument, matches)).collect())
}

/// The setting that an argument names a file for.
fn base<'a>(command: &'a Command, argument: &Arg) -> Option<&'a Arg> {
    let of = argument.get_long()?.strip_suffix("-file")?;
    command.get_arguments().find(|other| other.get_long() == Some(of))
}

fn look(command: &Command, argument: &Arg, matches: &ArgMatches) -> EffectiveSetting {
    let in_file = command
        .get_arguments()
        .find(|other| base(command, other).is_some_and(|of| of.get_id() == argument.get_id()))
        .and_then(|other| text(matches, other));
    let (value, origin) = match (&in_file, matches.value_source(argument.get_id().as_str())) {
        // What it holds was read a moment ago.
        (Some(path), _) => (std::fs::read_to_string(path).ok(), Origin::File),
        (None, Some(ValueSource::CommandLine)) => (text(matches, argument), Origin::Flag),
        (None, Some(ValueSource::EnvVariable)) => (text(matches, argument), Origin::Environment),
        (None, Some(_)) => (text(matches, argument), Origin::Default),
        (None, None) => (None, Origin::Unset),
    };
    let shown = |value: String| {
        if argument.is_hide_env_values_set() { masked(value.trim_end_matches(['\r', '\n'])) } else { value }
    };
    EffectiveSetting {
        variable: argument.get_env().unwrap_or_default().to_string_lossy().into_owned(),
        flag: argument.get_long().unwrap_or_default().to_owned(),
        value: value.map(shown),
        origin,
        file: in_file,
    }
}

fn text(matches: &ArgMatches, argument: &Arg) -> Option<String> {
    let values = matches.get_raw(argument.get_id().as_str())?;
    Some(values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(","))
}

/// A URL or a list of properties without its passwords.
fn masked(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('=') => format!("{scheme}://{}", masked_url(rest)),
        _ => text.split([',', '\n']).map(|pair| masked_pair(pair, is_secret)).collect::<Vec<_>>().join(","),
    }
}

/// What follows a URL's scheme.
fn masked_url(rest: &str) -> String {
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let login = match login.split_once(':') {
        Some((name, _)) => format!("{name}:{MASK}@"),
        None if login.is_empty() => String::new(),
        None => format!("{login}@"),
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let place = format!("{hosts}{path}");
    let query: Vec<_> =
        query.split('&').map(|pair| masked_pair(pair, |name| name.contains("pass"))).collect();
    let query = query.join("&");
    if query.is_empty() { format!("{login}{place}") } else { format!("{login}{place}?{query}") }
}

fn masked_pair(pair: &str, is_secret: impl Fn(&str) -> bool) -> String {
    match pair.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
        _ => pair.to_owned(),
    }
}

/// True if a property of librdkafka may hold a password or a key.
fn is_secret(name: &str) -> bool {
    let parts = ["password", "passphrase", "secret", "pem", "token", "oauthbearer.config", "kinit"];
    parts.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_and_the_rest_is_shown() {
        for (text, shown) in [
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("rediss://ann:s3cret@host:1/0", "rediss://ann:***@host:1/0"),
            ("rediss://ann:s3@cret@host:1/0", "rediss://ann:***@host:1/0"),
            ("redis+unix:///x.sock?db=1&pass=s3cret", "redis+unix:///x.sock?db=1&pass=***"),
            (
                "redis+sentinel://:s3cret@a:1,b:2/main?sentinel_password=s3@cret&sentinel_username=s",
                "redis+sentinel://:***@a:1,b:2/main?sentinel_password=***&sentinel_username=s",
            ),
            (
                "smtp://ann%40x:s3cret@mail.example:587?tls=none",
                "smtp://ann%40x:***@mail.example:587?tls=none",
            ),
            (
                "sasl.username=ann,sasl.password=s3cret\nssl.key.pem=s3cret,linger.ms=5",
                "sasl.username=ann,sasl.password=***,ssl.key.pem=***,linger.ms=5",
            ),
            ("sasl.password=a://s3cret@x", "sasl.password=***"),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}

//! `docs/configuration.md` is written by the definition of the command line.

use std::{any::TypeId, fmt::Write, fs, time::Duration};

use bundlehook::config::Cli;
use clap::{
    Arg, Command, CommandFactory,
    error::{ContextKind, ContextValue},
};

/// How to write it anew.
const COMMAND: &str = "WRITE_DOCS=1 cargo test --test docs configuration";

#[test]
fn the_reference_of_all_settings_is_that_of_the_command_line() {
    let path = super::root().join("docs/configuration.md");
    let expected = reference();
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(&path, &expected).expect("the folder is there");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let line = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        found == expected,
        "docs/configuration.md is not as the command line: {line:?}; write it anew: {COMMAND}"
    );
}

fn reference() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = format!(
        "# Configuration\n\n\
         Every setting of every role and tool. This page is written by the definition of the command line:\n\n\
         ```sh\n{COMMAND}\n```\n\n\
         A flag wins over its variable. `bundlehook config deliver` shows what that role would run with, and where each value comes \
         from. What may hold a password can be given by the name of a file instead, as the flag or variable of that name that \
         ends in `-file` or `_FILE`; to give both is an error, and so is a file that is empty or can't be read. Ends of lines \
         after the value do not count.\n\n\
         The form is that of a value; where it is a number, its unit stands in the meaning.\n"
    );
    for found in command.get_subcommands().filter(|found| !["help", "config"].contains(&found.get_name())) {
        section(&mut text, found, found.get_name());
    }
    text
}

fn section(text: &mut String, command: &Command, name: &str) {
    if command.has_subcommands() {
        for nested in command.get_subcommands().filter(|nested| nested.get_name() != "help") {
            section(text, nested, &format!("{name} {}", nested.get_name()));
        }
        return;
    }
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = about.trim_end_matches('.');
    let _ = write!(
        text,
        "\n## `{name}`\n\n{about}.\n\n| variable | flag | meaning | default | unit or form |\n|---|---|---|---|---|\n"
    );
    let required = required(name);
    let is_setting =
        |argument: &&Arg| argument.get_long().is_some_and(|flag| !["help", "version"].contains(&flag));
    for argument in command.get_arguments().filter(is_setting) {
        let _ = writeln!(text, "{}", row(argument, &required));
    }
}

/// The flags that a subcommand asks for if it is given none.
fn required(name: &str) -> Vec<String> {
    let line = ["bundlehook"].into_iter().chain(name.split(' '));
    let error = Cli::command().try_get_matches_from(line).err();
    let missing = error.and_then(|error| error.get(ContextKind::InvalidArg).cloned());
    let Some(ContextValue::Strings(missing)) = missing else { return Vec::new() };
    let flag = |usage: String| usage.split([' ', '=']).next()?.strip_prefix("--").map(str::to_owned);
    missing.into_iter().filter_map(flag).collect()
}

fn row(argument: &Arg, required: &[String]) -> String {
    let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let flag = argument.get_long().unwrap_or_default();
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match defaults.join(",") {
        _ if required.iter().any(|of| of == flag) => "required".to_owned(),
        none if none.is_empty() => "(none)".to_owned(),
        value => format!("`{value}`"),
    };
    let help = if help.ends_with('.') { help } else { help + "." };
    format!(
        "| {} | `--{flag}` | {help} | {default} | {} |",
        variable.unwrap_or_default(),
        form(argument).replace('|', "\\|")
    )
}

/// What a value looks like.
fn form(argument: &Arg) -> String {
    if !argument.get_action().takes_values() {
        return "`true` or `false`".to_owned();
    }
    let possible: Vec<_> =
        argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    if !possible.is_empty() {
        return possible.join(", ");
    }
    let name = argument.get_value_names().unwrap_or_default().first().map(ToString::to_string);
    let type_id = argument.get_value_parser().type_id();
    match name.as_deref() {
        _ if type_id == TypeId::of::<Duration>() => "duration, like `10s`".to_owned(),
        Some("MIB") => "MiB".to_owned(),
        _ if [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<i32>()]
            .iter()
            .any(|of| type_id == *of) =>
        {
            "number".to_owned()
        }
        Some("FILE") => "path of a file".to_owned(),
        Some(name) => format!("`{name}`"),
        None => String::new(),
    }
}

//! `bundlehook config`: the settings that a role would run with.

use super::{
    say,
    table::{headings, table},
};
use crate::config::{self, EffectiveSetting, Origin, OutputSettings};

/// Prints the settings of the role that this process's command line names.
///
/// # Errors
/// If standard output can't be written.
pub fn run(output: &OutputSettings) -> anyhow::Result<()> {
    let settings = config::effective(std::env::args_os()).map_err(|exit| anyhow::anyhow!(exit.text))?;
    say(&if output.json { serde_json::to_string_pretty(&settings)? } else { rows(&settings) })
}

fn rows(settings: &[EffectiveSetting]) -> String {
    let row = |setting: &EffectiveSetting| {
        let origin = match (setting.origin, &setting.file) {
            (_, Some(file)) => format!("file {file}"),
            (Origin::Flag, _) => format!("flag --{}", setting.flag),
            (Origin::Environment, _) => "environment".to_owned(),
            (Origin::Default, _) => "default".to_owned(),
            (Origin::Unset | Origin::File, _) => "not set".to_owned(),
        };
        vec![setting.variable.clone(), setting.value.clone().unwrap_or_default(), origin]
    };
    let rows: Vec<_> =
        [headings(["variable", "value", "origin"])].into_iter().chain(settings.iter().map(row)).collect();
    table(&rows)
}

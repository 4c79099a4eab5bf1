//! A check, and how all of them are shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::tools::table::{headings, table};

/// How bad it is; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok = 0,
    /// It works, but may not for long, or not as well as it should.
    Warn = 1,
    /// Something does not work, or messages will be lost.
    Fail = 2,
}

/// What was looked at, and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    pub level: Level,
    pub seen: String,
    pub expected: String,
    /// What to do; none if all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Check {
    /// Nothing to do.
    pub fn ok(name: impl Into<String>, seen: impl Into<String>, expected: impl Into<String>) -> Self {
        let (name, seen, expected) = (name.into(), seen.into(), expected.into());
        Self { name, level: Level::Ok, seen, expected, remedy: None }
    }

    /// Makes it a finding.
    #[must_use]
    pub fn found(self, level: Level, remedy: impl Into<String>) -> Self {
        Self { level, remedy: Some(remedy.into()), ..self }
    }

    /// Makes it a finding if something is so.
    #[must_use]
    pub fn found_if(self, is_so: bool, level: Level, remedy: impl Into<String>) -> Self {
        if is_so { self.found(level, remedy) } else { self }
    }
}

/// The worst level of all.
pub fn worst(checks: &[Check]) -> Level {
    checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
}

#[derive(Serialize)]
struct Report<'a> {
    level: Level,
    checks: &'a [Check],
}

/// All checks as a table with the remedies below, or as JSON.
pub fn show(checks: &[Check], json: bool) -> serde_json::Result<String> {
    if json {
        return serde_json::to_string_pretty(&Report { level: worst(checks), checks });
    }
    let row = |check: &Check| {
        let level = format!("{:?}", check.level).to_lowercase();
        vec![level, check.name.clone(), check.seen.clone()]
    };
    let rows: Vec<_> =
        std::iter::once(headings(["STATE", "CHECK", "SEEN"])).chain(checks.iter().map(row)).collect();
    let mut text = table(&rows);
    for check in checks.iter().filter(|check| check.level > Level::Ok) {
        let Check { name, seen, expected, .. } = check;
        let remedy = check.remedy.as_deref().unwrap_or_default().replace('\n', "\n  ");
        // Writing to a string can't fail.
        let _ = write!(text, "\n\n{name}: {seen}; expected {expected}.\n  {remedy}");
    }
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let (warnings, failures) = (count(Level::Warn), count(Level::Fail));
    let _ = write!(text, "\n\n{} checks, warnings: {warnings}, failures: {failures}", checks.len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_check_decides_and_findings_stand_with_their_remedy() {
        let good = Check::ok("a", "1", "1");
        let bad = Check::ok("b", "2", "3").found(Level::Warn, "add one\nthen look");
        assert_eq!(worst(std::slice::from_ref(&good)), Level::Ok);
        let checks = [good, bad];
        assert_eq!(worst(&checks), Level::Warn);
        let text = show(&checks, false).unwrap();
        assert_eq!(
            text,
            "STATE  CHECK  SEEN\nok     a      1\nwarn   b      2\n\nb: 2; expected 3.\n  add one\n  then look\n\n\
             2 checks, warnings: 1, failures: 0"
        );
        let json: serde_json::Value = serde_json::from_str(&show(&checks, true).unwrap()).unwrap();
        assert_eq!(json["level"], "warn");
        assert_eq!(json["checks"][1]["remedy"], "add one\nthen look");
    }
}

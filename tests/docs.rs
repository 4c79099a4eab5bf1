//! The documentation names only what is there: metrics, variables, files, targets of `make`, commands.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

#[path = "docs/configuration.rs"]
mod configuration;

use bundlehook::model::delivery::Outcome;
use serde_json::Value;

/// Every role and tool.
const SUBCOMMANDS: &[&str] = &[
    "aggregate",
    "deliver",
    "notify",
    "serve",
    "all",
    "dev",
    "topics",
    "produce",
    "receive",
    "doctor",
    "inspect",
    "config",
    "config aggregate",
    "config deliver",
    "config notify",
    "config serve",
    "config all",
    "config dev",
    "dead-letters list",
    "dead-letters show",
    "dead-letters redrive",
    "webhook",
    "webhook list",
    "webhook show",
    "webhook log",
    "webhook test",
    "webhook enable",
    "webhook disable",
    "webhook resend",
];

/// Folders whose files the documentation names by their path from the root.
const FOLDERS: [&str; 6] = ["src/", "tests/", "docs/", "schemas/", "deploy/", ".ci/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A page of the documentation.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    /// What stands in code: spans between backticks, and the lines of fenced blocks.
    fn code(&self) -> Vec<&str> {
        let (mut code, mut fenced) = (Vec::new(), false);
        for line in self.text.lines() {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if fenced {
                code.push(line);
            } else {
                code.extend(line.split('`').skip(1).step_by(2));
            }
        }
        code
    }

    /// Targets of links, without those that lead out of the repository.
    fn links(&self) -> impl Iterator<Item = &str> {
        let targets = self.text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        targets.map(|(target, _)| target).filter(|target| !target.contains("://"))
    }
}

/// The pages at the top and all below `docs/`.
fn pages() -> Vec<Page> {
    let top = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    let mut paths = top.to_vec();
    for folder in ["docs", "docs/decisions"] {
        let entries = fs::read_dir(root().join(folder)).expect("the folder is there").flatten();
        paths.extend(
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
        );
    }
    paths.into_iter().map(|path| Page { text: read(&path), path }).collect()
}

/// The help of each subcommand.
fn helps() -> BTreeMap<&'static str, String> {
    let help = |name: &'static str| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_bundlehook")).args(name.split(' ')).arg("--help").output();
        let output = output.expect("the program is built");
        (name, String::from_utf8(output.stdout).expect("a help text is UTF-8"))
    };
    SUBCOMMANDS.iter().copied().map(help).collect()
}

/// Fails with what was found.
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The words of a text that begin with something and go on with certain characters.
fn words<'a>(text: &'a str, start: &str, goes_on: impl Fn(char) -> bool + Copy) -> Vec<&'a str> {
    let word = |(at, _): (usize, &str)| {
        let rest = &text[at + start.len()..];
        let length = rest.find(|c| !goes_on(c)).unwrap_or(rest.len());
        (length > 0).then(|| &text[at..at + start.len() + length])
    };
    text.match_indices(start).filter_map(word).collect()
}

fn variables(text: &str) -> BTreeSet<String> {
    let names = words(text, "BUNDLEHOOK_", |c| c.is_ascii_uppercase() || c == '_');
    names.into_iter().map(str::to_owned).collect()
}

/// The rows that the table of metrics must have, from their definitions.
fn metric_rows() -> Vec<String> {
    let source = read(&root().join("src/ops/metrics.rs"));
    let (_, definitions) = source.split_once("\nmetrics! {").expect("the metrics are defined by a macro");
    let (definitions, _) = definitions.split_once("\n}").expect("the macro's call ends");
    let (mut rows, mut help) = (Vec::new(), Vec::new());
    for line in definitions.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.strip_prefix("///") {
            Some(text) => help.push(text.trim()),
            None => rows.push(metric_row(line, &std::mem::take(&mut help).join(" "))),
        }
    }
    rows
}

/// A row from a definition such as `lag: IntGaugeVec = "lag_records" &["role"];`.
fn metric_row(definition: &str, help: &str) -> String {
    let (field, rest) = definition.split_once(" = \"").unwrap_or_else(|| panic!("no metric: {definition}"));
    let (name, shape) = rest.split_once('"').expect("the name ends");
    let kind = ["Counter", "Gauge", "Histogram"].into_iter().find(|kind| field.contains(kind));
    let labels =
        shape.split_once("&[").and_then(|(_, labels)| labels.split_once(']')).map(|(labels, _)| labels);
    let labels: Vec<String> = labels
        .into_iter()
        .flat_map(|labels| labels.split('"').skip(1).step_by(2))
        .map(|l| format!("`{l}`"))
        .collect();
    let kind = kind.expect("a kind of metric").to_lowercase();
    format!("| `bundlehook_{name}` | {kind} | {} | {help} |", labels.join(", "))
}

#[test]
fn the_table_of_metrics_is_what_the_program_has() {
    let page = read(&root().join("docs/metrics.md"));
    let written: Vec<&str> = page.lines().filter(|line| line.starts_with("| `bundlehook_")).collect();
    let defined = metric_rows();
    assert!(defined.len() > 20, "the definitions were not understood");
    let missing =
        defined.iter().filter(|row| !written.contains(&row.as_str())).map(|row| format!("missing: {row}"));
    let surplus = written
        .iter()
        .filter(|row| !defined.iter().any(|d| d == *row))
        .map(|row| format!("not defined: {row}"));
    assert_none(&missing.chain(surplus).collect::<Vec<_>>());
}

/// The words for what comes of an attempt are one closed set: in the program, so in the metrics and in the log, in the
/// schema of attempts, and in what customers and operators read.
#[test]
fn the_outcomes_are_the_same_everywhere() {
    let outcomes: BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.as_str().to_owned()).collect();
    let schema: Value =
        serde_json::from_str(&read(&root().join("schemas/delivery-attempt.json"))).expect("a schema is JSON");
    let in_schema = schema["properties"]["outcome"]["enum"].as_array().expect("it is a closed set");
    let in_schema: BTreeSet<_> =
        in_schema.iter().map(|outcome| outcome.as_str().expect("it is a text").to_owned()).collect();
    assert_eq!(in_schema, outcomes);
    let first_code = |row: &str| row.split('`').nth(1).map(str::to_owned);
    let delivery = read(&root().join("docs/delivery.md"));
    let table = delivery.split("| outcome |").nth(1).expect("the page has the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    assert_eq!(rows.filter_map(first_code).collect::<BTreeSet<_>>(), outcomes);
    let metrics = read(&root().join("docs/metrics.md"));
    let row = metrics.lines().find(|line| line.starts_with("| `outcome` |")).expect("the page has the label");
    let named: BTreeSet<_> = row.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert_eq!(named, outcomes);
}

#[test]
fn every_metric_that_is_named_exists() {
    let table = read(&root().join("docs/metrics.md"));
    let mut problems = Vec::new();
    for page in pages() {
        for name in words(&page.text, "`bundlehook_", |c| c.is_ascii_lowercase() || c == '_') {
            if !table.contains(&format!("| {name}` |")) {
                problems.push(format!("{}: {name}`", page.path.display()));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_variable_that_is_named_exists() {
    let known: BTreeSet<String> = helps().values().flat_map(|help| variables(help)).collect();
    let mut problems = Vec::new();
    for page in pages() {
        let unknown = variables(&page.text).into_iter().filter(|name| !known.contains(name));
        problems.extend(unknown.map(|name| format!("{}: {name}", page.path.display())));
    }
    assert_none(&problems);
}

#[test]
fn every_file_that_is_named_exists() {
    let mut problems = Vec::new();
    for page in pages() {
        let folder = page.path.parent().expect("a page lies in a folder");
        let linked = page.links().filter_map(|link| link.split('#').next()).filter(|link| !link.is_empty());
        let linked = linked.map(|link| folder.join(link));
        let code = page.code();
        let named = code.iter().flat_map(|code| code.split([' ', '=', '"'])).filter(|word| is_path(word));
        let named = named.map(|word| root().join(word));
        problems.extend(
            linked
                .chain(named)
                .filter(|path| !path.exists())
                .map(|path| format!("{}: {}", page.path.display(), path.display())),
        );
    }
    assert_none(&problems);
}

/// True for a path from the root, without those that stand for several.
fn is_path(word: &str) -> bool {
    FOLDERS.iter().any(|folder| word.starts_with(folder))
        && !word.contains(['*', '<', '{', '…'])
        && !word.contains("NNNN")
}

#[test]
fn every_target_of_make_that_is_named_exists() {
    let makefile = read(&root().join("Makefile"));
    let known: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    let mut problems = Vec::new();
    for page in pages() {
        for code in page.code() {
            for target in words(code, "make ", |c| c.is_ascii_lowercase() || c == '-') {
                if !known.contains(&target["make ".len()..]) {
                    problems.push(format!("{}: {target}", page.path.display()));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_command_that_is_shown_exists_with_its_flags() {
    let helps = helps();
    let mut problems = Vec::new();
    for page in pages() {
        for code in page.code() {
            let Some(arguments) = code.trim_start().strip_prefix("bundlehook ") else { continue };
            let arguments = arguments.split_whitespace().filter(|word| *word != "help");
            let mut arguments = arguments.peekable();
            let mut name = arguments.next().unwrap_or_default().to_owned();
            let is_group = helps.keys().any(|known| known.starts_with(&format!("{name} ")));
            if let Some(command) = arguments.next_if(|_| is_group) {
                name = format!("{name} {command}");
            }
            let Some(help) = helps.get(&*name) else {
                problems.push(format!("{}: bundlehook {name}", page.path.display()));
                continue;
            };
            let unknown = arguments.filter(|word| {
                word.starts_with("--")
                    && !help.contains(&format!("{word} "))
                    && !help.contains(&format!("{word}\n"))
            });
            problems.extend(unknown.map(|flag| format!("{}: bundlehook {name} {flag}", page.path.display())));
        }
    }
    assert_none(&problems);
}

#[test]
fn code_and_links_are_found_in_a_page() {
    let text = "see `a b`, [c](d.md#e)\n```sh\nmake x\n```\n`f` [g](https://h)".to_owned();
    let page = Page { path: PathBuf::new(), text };
    assert_eq!(page.code(), ["a b", "make x", "f"]);
    assert_eq!(page.links().collect::<Vec<_>>(), ["d.md#e"]);
    assert_eq!(
        words("BUNDLEHOOK_* BUNDLEHOOK_HOUR,", "BUNDLEHOOK_", |c| c.is_ascii_uppercase()),
        ["BUNDLEHOOK_HOUR"]
    );
}

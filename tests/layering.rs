//! Holds the import rule: `model` imports nothing of ours, `wire` imports `model`, `flow` imports both, `io` implements
//! what they need, `roles` and `tools` connect, and only `main` imports `roles`.

use std::{fs, path::Path};

/// Each layer with the layers it may import.
const RULES: [(&str, &[&str]); 10] = [
    ("model", &["model"]),
    ("wire", &["wire", "model"]),
    ("flow", &["flow", "wire", "model"]),
    ("config", &["config", "model"]),
    ("io", &["io", "flow", "wire", "model", "config"]),
    ("commands", &["commands", "io", "flow", "wire", "model", "config", "ops"]),
    ("console", &["console", "commands", "io", "flow", "wire", "model", "config", "ops"]),
    ("ops", &["ops", "io", "wire", "model", "config"]),
    ("tools", &["tools", "console", "commands", "io", "wire", "model", "config"]),
    ("roles", &["roles", "console", "tools", "commands", "io", "flow", "wire", "model", "config", "ops"]),
];

#[test]
fn every_layer_imports_only_what_lies_below_it() {
    let mut violations = Vec::new();
    for (layer, allowed) in RULES {
        for file in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(layer)) {
            let text = fs::read_to_string(&file).expect("a source file is readable");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for used in imports(code) {
                if !allowed.contains(&used.as_str()) {
                    violations.push(format!("{} imports `{used}`", file.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

#[test]
fn every_folder_of_the_program_has_a_rule() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).expect("src is there").flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(RULES.iter().any(|(layer, _)| *layer == name), "src/{name} has no rule");
    }
}

#[test]
fn a_tree_of_imports_is_seen_through() {
    let code = "use crate::{\n    flow::a::{b, c},\n    model::{d},\n};\nlet x = crate::io::clock::now();";
    assert_eq!(imports(code), ["flow", "model", "io"]);
}

/// The layers that a file names: `crate::layer` anywhere, and the first names inside `crate::{…}`.
fn imports(code: &str) -> Vec<String> {
    let mut layers = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => layers.extend(first_name(rest)),
            Some(tree) => layers.extend(branches(tree)),
        }
    }
    layers
}

/// The first names of the branches of an import tree, which begins after its brace.
fn branches(tree: &str) -> Vec<String> {
    let (mut depth, mut at_branch, mut names) = (0, true, Vec::new());
    for (index, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_branch = true,
            c if depth == 0 && at_branch && !c.is_whitespace() => {
                names.extend(first_name(&tree[index..]));
                at_branch = false;
            }
            _ => {}
        }
    }
    names
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    name.starts_with(char::is_lowercase).then_some(name)
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => sources(&path),
            path if path.extension().is_some_and(|extension| extension == "rs") => vec![path],
            _ => Vec::new(),
        })
        .collect()
}

//! The API is as its description says: schemathesis makes requests up from it, and checks the answers.

use std::path::Path;

use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{ADMIN, ok, receiver};

#[tokio::test]
async fn whatever_is_asked_is_answered_as_described() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[("BUNDLEHOOK_MAX_WEBHOOKS", "5")]).await;
    let described = console.call("GET", "/api/v1/openapi.json", "", &Value::Null).await.json();
    assert!(described["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")), "{described}");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local/target/python/bin/schemathesis");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let run = tokio::process::Command::new(program)
        .current_dir(folder.path())
        .args(["run", &console.url("/api/v1/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {ADMIN}")])
        // It never ends.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-examples", "8", "--seed", "1"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,response_headers_conformance"])
        .args(["--request-timeout", "60", "--no-color"])
        .output()
        .await
        .expect("it can be started");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(console.process.exit_status().is_none());
}

#[tokio::test]
async fn the_lines_of_the_documentation_work() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let text = include_str!("../../../docs/api.md");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 18);
    for line in lines {
        let run = tokio::process::Command::new("bash")
            .args(["-c", line])
            .env("CONSOLE", console.url(""))
            .env("TOKEN", crate::support::token("ws", "editor"))
            .output()
            .await
            .expect("bash can be started");
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{line}\n{said}\n{}", String::from_utf8_lossy(&run.stderr));
    }
}

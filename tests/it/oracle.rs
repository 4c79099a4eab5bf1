//! Every POST, byte for byte, as a separate program computes it from the contract alone.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Record, Request, ok, process, receiver, system};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle");
const HOUR: u64 = 500;
const EVENTS: usize = 3_000;

/// Runs one of the oracle's programs in a folder; what it says if it fails.
async fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<String, String> {
    let output = tokio::process::Command::new("python3")
        .arg(Path::new(FOLDER).join(program))
        .args(arguments)
        .current_dir(folder)
        .output()
        .await
        .expect("python3 can be started");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(said) } else { Err(format!("{program}: {said}")) }
}

fn lines(file: PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(file).expect("it was written");
    text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

fn write_lines(file: PathBuf, values: impl IntoIterator<Item = Value>) {
    let mut text = String::new();
    for value in values {
        writeln!(text, "{value}").expect("text can be written");
    }
    fs::write(file, text).expect("the folder can be written");
}

fn record(record: &Record) -> Value {
    json!({
        "partition": record.partition, "offset": record.offset, "timestamp": record.timestamp,
        "key": record.key(), "value": record.value.as_ref().map(|_| record.text()),
    })
}

fn request(request: &Request) -> Value {
    let headers: serde_json::Map<String, Value> = request
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("a header is text").into()))
        .collect();
    json!({
        "method": request.method, "path": request.path, "headers": headers, "body": request.text(), "status": 200,
    })
}

/// Boundaries that were closed by the clock, as the log of `aggregate` tells.
fn boundaries(log: &str) -> Vec<Value> {
    let closed = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let by_clock = closed.filter(|line| line["message"] == "boundary closed" && line["by"] == "clock");
    let boundary = |line: Value| {
        let at = line["boundary"].as_str().and_then(|at| bundlehook::model::time::parse_timestamp(at).ok());
        let at = at.expect("a boundary is a time").timestamp_millis();
        json!({"partition": line["partition"], "boundary": at, "offset": line["offset"]})
    };
    by_clock.map(boundary).collect()
}

#[tokio::test]
async fn every_post_is_what_the_oracle_computes() {
    let folder = tempfile::tempdir().expect("there is room for files");
    let folder = folder.path();
    let receiver = receiver(ok());
    let (url, events) = (receiver.url(""), EVENTS.to_string());
    let settings = ["--base-url", &url, "--workspaces", "2", "--out", "settings.jsonl"];
    run("settings.py", &settings, folder).await.expect("settings are written");
    let setup =
        system(HOUR).partitions(3).env("BUNDLEHOOK_MAX_AGE", "7d").env("BUNDLEHOOK_LOG_FORMAT", "json");
    let Some(system) = setup.start(&lines(folder.join("settings.jsonl"))).await else { return };
    let generate = [
        "--seed",
        "7",
        "--events",
        &events,
        "--chats",
        "60",
        "--workspaces",
        "2",
        "--max-ahead",
        "2000",
        "--out",
        "events.jsonl",
    ];
    run("generate.py", &generate, folder).await.expect("events are written");

    // In some batches over some windows, so that boundaries close both by records and by the clock.
    let text = fs::read_to_string(folder.join("events.jsonl")).expect("it was written");
    let generated: Vec<&str> = text.lines().collect();
    for batch in generated.chunks(EVENTS / 6) {
        let published = process("produce")
            .args(["--file", "-"])
            .env("BUNDLEHOOK_KAFKA_BROKERS", system.kafka.servers())
            .env("BUNDLEHOOK_TOPIC_PREFIX", &system.prefix)
            .input(batch.join("\n"))
            .run()
            .await;
        assert!(published.status.success(), "{published:?}");
    }

    system.wait_done().await;
    write_lines(folder.join("records.jsonl"), system.records("message-events").await.iter().map(record));
    write_lines(
        folder.join("settings-records.jsonl"),
        system.records("webhook-settings").await.iter().map(record),
    );
    write_lines(folder.join("received.jsonl"), receiver.requests().iter().map(request));
    let by_clock = boundaries(&system.aggregate.process.stderr());
    assert!(!by_clock.is_empty());
    write_lines(folder.join("boundaries.jsonl"), by_clock);
    let hour = format!("{HOUR}ms");
    let expected = [
        "--records",
        "records.jsonl",
        "--settings",
        "settings-records.jsonl",
        "--boundaries",
        "boundaries.jsonl",
        "--hour",
        &hour,
        "--grace",
        "200ms",
        "--out",
        "expected.jsonl",
        "--summary",
        "summary.json",
    ];
    run("expected.py", &expected, folder).await.expect("the oracle computes");
    let compared =
        run("compare.py", &["--expected", "expected.jsonl", "--received", "received.jsonl"], folder).await;
    assert!(compared.is_ok(), "{}", compared.unwrap_err());
    assert!(lines(folder.join("expected.jsonl")).len() > 1_000);
}

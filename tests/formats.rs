//! What any release has stored can be read by this one, or is refused by name: recordings of each format, with what they
//! mean. A recording is never changed; a new version of a format gets recordings of its own. `tests/it/recordings.rs` has
//! those of whole states in Redis.

#![allow(clippy::format_collect, reason = "a recording is short")]
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]

use std::{collections::BTreeMap, fmt::Debug, fs, path::PathBuf, time::Duration};

use bundlehook::{
    flow::window_to_bundle::{Bundler, Occasion, WindowContent},
    model::{
        bundle::Source,
        edit::EditClaim,
        health::{Health, Notice, NoticeKind},
        history::{Directory, Place},
        ids::WebhookId,
        time::Millis,
        webhook::Activation,
        window::{Granularity, WindowKey, WindowRule},
    },
    wire::{
        attempt, bundle,
        change::Change,
        dead_letter_headers, decode_dead_letter, event, health, log_entry,
        mail_metadata::MailMetadata,
        metadata::{AggregateMetadata, DeliverMetadata, Metadata},
        notice,
        sealing::Keys,
        settings,
        skips::SkipRecord,
        state,
        waiting::{self, WaitingDelivery},
        window_log,
    },
};
use secrecy::ExposeSecret;
use serde_json::Value;

/// What a recorded value means, or why it is refused.
type Meaning = Result<String, String>;

/// Reads a format that is a text.
type ReadText = fn(&str) -> Meaning;
/// Reads one that is bytes.
type ReadBytes = fn(&[u8]) -> Meaning;

fn meaning<T: Debug, E: ToString>(read: Result<T, E>) -> Meaning {
    read.map(|read| format!("{read:#?}")).map_err(|error| error.to_string())
}

fn known<T: Debug>(read: Option<T>) -> Meaning {
    meaning(read.ok_or("not of a known version"))
}

/// Each format that is a text of JSON, by the file of its recordings, with its reader and the field of its version.
/// What upstream writes has none: its fields are only ever added.
const TEXTS: &[(&str, ReadText, Option<&str>)] = &[
    ("message-events", |text| meaning(event::decode(Some(text.as_bytes()))), None),
    ("webhook-settings", |text| meaning(settings::decode(text.as_bytes())), None),
    ("webhook-states", |text| meaning(state::decode(text.as_bytes())), Some("v")),
    ("webhook-health", |text| meaning(health::decode(text.as_bytes())), Some("v")),
    ("message-skips", |text| meaning(SkipRecord::decode(text.as_bytes())), Some("v")),
    ("bundles-headers", read_headers, Some("bundlehook-version")),
    ("waiting-deliveries", |text| meaning(WaitingDelivery::decode(text.as_bytes())), Some("v")),
    ("delivery-attempts", |text| meaning(attempt::decode(text.as_bytes())), Some("v")),
    ("webhook-changes", |text| known(Change::decode(text.as_bytes())), Some("v")),
    ("notifications", |text| meaning(notice::decode_notification(text.as_bytes())), Some("v")),
    ("commit-metadata-aggregate", |text| meaning(AggregateMetadata::decode(text)), Some("v")),
    ("commit-metadata-deliver", |text| meaning(DeliverMetadata::decode(text)), Some("v")),
    ("commit-metadata-notify", |text| known(MailMetadata::decode(text)), Some("v")),
    ("dead-letters-headers", read_dead_letter, Some("bundlehook-version")),
    // In Redis. What reads them there looks at the version.
    ("redis-health", |text| meaning(serde_json::from_str::<Health>(text)), None),
    ("redis-edit-claim", |text| meaning(serde_json::from_str::<EditClaim>(text)), None),
];

/// Each format that is bytes, in hexadecimal digits. All are in Redis. Those of windows and the first are versioned by the
/// state of their partition, the log's entries by the name of their key.
const BYTES: &[(&str, ReadBytes)] = &[
    ("redis-parked", |bytes| meaning(waiting::decode_parked(bytes))),
    ("redis-log-entry", |bytes| meaning(log_entry::decode(bytes))),
    ("redis-window", |bytes| meaning(window_log::decode(bytes))),
    ("redis-window-2", |bytes| meaning(window_log::decode(bytes))),
];

fn read_headers(text: &str) -> Meaning {
    let headers: serde_json::Map<String, Value> = serde_json::from_str(text).unwrap();
    meaning(bundle::decode(headers.iter().map(|(name, value)| (&**name, value.as_str().unwrap().as_bytes()))))
}

fn read_dead_letter(text: &str) -> Meaning {
    let headers: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
    meaning(decode_dead_letter(|name| headers.get(name).map(String::as_str)))
}

fn file(name: &str, ending: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/formats/{name}.{ending}"))
}

fn recording(name: &str, ending: &str) -> Vec<String> {
    let path = file(name, ending);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(!text.is_empty(), "{name}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn recorded_texts_mean_what_they_meant() {
    for (name, read, _) in TEXTS {
        let read: Vec<_> = recording(name, "jsonl").iter().map(|text| read(text).unwrap()).collect();
        insta::assert_snapshot!(*name, read.join("\n"));
    }
}

#[test]
fn recorded_bytes_mean_what_they_meant() {
    for (name, read) in BYTES {
        let bytes = |line: &String| digits_to_bytes(line);
        let read: Vec<_> = recording(name, "hex").iter().map(|line| read(&bytes(line)).unwrap()).collect();
        insta::assert_snapshot!(*name, read.join("\n"));
    }
}

#[test]
fn a_later_version_is_refused_by_name_even_if_nothing_else_differs() {
    for (name, read, field) in TEXTS {
        let Some(field) = field else { continue };
        for text in recording(name, "jsonl") {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            value[field] = if value[field].is_number() { 2.into() } else { "2".into() };
            let refused = read(&value.to_string()).expect_err(name);
            assert!(refused.contains("version") || refused.contains("`v` is `2`"), "{name}: {refused}");
        }
    }
}

/// What is secret in settings is stored sealed: a recording with its key, which is one of this test alone.
#[test]
fn a_recorded_secret_opens_and_one_of_a_later_version_is_refused_and_not_taken_for_plain() {
    for line in recording("sealed-secrets", "jsonl") {
        let record: Value = serde_json::from_str(&line).unwrap();
        let text = |field: &str| record[field].as_str().unwrap();
        let webhook = WebhookId::parse(text("webhook_id")).unwrap();
        let opened = Keys::parse(text("key")).unwrap().open(&webhook, text("field"), text("sealed")).unwrap();
        assert_eq!(opened.expose_secret(), text("text"));

        let later = text("sealed").replace("sealed:v1:", "sealed:v2:");
        let mut settings: Value = serde_json::from_str(&recording("webhook-settings", "jsonl")[0]).unwrap();
        settings["headers"]["authorization"] = later.into();
        let refused = settings::decode(settings.to_string().as_bytes()).unwrap_err();
        assert!(refused.detail.contains("expected `sealed:v1:"), "{}", refused.detail);
    }
}

fn bytes_to_digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digits_to_bytes(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// What has no recording yet gets one.
#[test]
fn what_is_written_now_reads_as_its_recording() {
    let attempt = attempt::decode(recording("delivery-attempts", "jsonl")[0].as_bytes()).unwrap();
    let entry = log_entry::of_record(&attempt, 3, 1 << 40).unwrap();
    let waiting = WaitingDelivery::decode(recording("waiting-deliveries", "jsonl")[0].as_bytes()).unwrap();
    let events = recording("message-events", "jsonl");
    // The second one is skipped.
    let window: Vec<u8> = events.iter().take(1).enumerate().flat_map(|(at, text)| frames(at, text)).collect();
    for (name, written) in [
        ("redis-parked", waiting::encode_parked(&waiting.parked())),
        ("redis-log-entry", log_entry::encode(&entry)),
        ("redis-window-2", window),
    ] {
        let written = bytes_to_digits(&written);
        if !file(name, "hex").exists() {
            fs::write(file(name, "hex"), format!("{written}\n")).unwrap();
        }
        assert_eq!(recording(name, "hex"), [written], "{name}");
    }
}

/// The same for what this program only writes, and others read.
#[test]
fn what_is_written_for_others_is_as_its_recording() {
    let id = "6f1c2b1e-5d0a-5c7e-9b47-0c3e2a7f9d11".parse().unwrap();
    let settings = settings::decode(recording("webhook-settings", "jsonl")[0].as_bytes()).unwrap();
    let notice = Notice {
        id,
        kind: NoticeKind::Disabled,
        activation: Activation { at: 1_614_182_400_000, topic: 0, offset: 12 },
        at: Millis(1_614_183_929_123),
        failures: 11,
        last_error: "endpoint answered `503`".to_owned(),
    };
    let (headers, value) = notice::encode_event(&settings, &notice);
    let headers: BTreeMap<_, _> = headers.into_iter().collect();
    let poison = event::decode(Some(b"{\"no")).unwrap_err();
    let dead_letter: BTreeMap<_, _> =
        dead_letter_headers(&poison, "message-events", 3, 1_041, Millis(1_614_184_882_000)).into();
    for (name, written) in [
        ("webhook-events", String::from_utf8(value).unwrap()),
        ("webhook-events-headers", serde_json::to_string(&headers).unwrap()),
        ("waiting-claim", String::from_utf8(waiting::encode_claim(id)).unwrap()),
        ("dead-letters-headers", serde_json::to_string(&dead_letter).unwrap()),
    ] {
        if !file(name, "jsonl").exists() {
            fs::write(file(name, "jsonl"), format!("{written}\n")).unwrap();
        }
        assert_eq!(recording(name, "jsonl").last(), Some(&written), "{name}");
    }
}

fn frames(at: usize, text: &str) -> Vec<u8> {
    let Ok(event::Decoded::Event(event)) = event::decode(Some(text.as_bytes())) else { panic!("{text}") };
    let message =
        window_log::LoggedMessage::new(&event, i64::try_from(at).unwrap(), Millis(1_614_183_930_000));
    [window_log::Frame::ChatV1(window_log::ChatDetails::of(&event)), window_log::Frame::MessageV2(message)]
        .iter()
        .flat_map(window_log::encode)
        .collect()
}

#[test]
fn a_log_of_version_1_becomes_the_same_bundle() {
    let webhook = r#"{"webhook_id": "wh", "workspace_id": "ws-acme", "url": "https://crm.example/", "granularity": "1h",
        "owner": {"full_name": "Amnon", "email": "amnon@acme.example"}}"#;
    let webhook = settings::decode(webhook.as_bytes()).unwrap();
    let mut directory = Directory::default();
    directory.change(Place { at: Millis(0), offset: 0 }, &webhook.webhook_id.clone(), Some(webhook));
    let source = Source { topic_id: "topic".to_owned(), partition: 3 };
    let bundler = Bundler { directory: &directory, source: &source, product: "TimelinesAI" };
    let arrived = Millis(1_614_183_930_000);
    let key = WindowKey {
        window: WindowRule::new(Duration::from_hours(1), Duration::ZERO, Duration::ZERO)
            .window(Granularity::OneHour, arrived),
        workspace: "ws-acme".to_owned(),
        chat: "10010001".to_owned(),
    };
    let bundle_of = |log: &[u8]| {
        let occasion = Occasion::Sealed { by: 9, boundary: key.window.start };
        let content = WindowContent { key: &key, part: 0, occasion, log };
        bundler.bundles(&content).unwrap().records.remove(0)
    };
    let logs = ["redis-window", "redis-window-2"].map(|name| digits_to_bytes(&recording(name, "hex")[0]));
    let [first, second] = [0, 1].map(|version: usize| bundle_of(&logs[version]));
    assert_eq!((first.head, first.body), (second.head, second.body));
    let both = bundle_of(&logs.concat());
    let body: Value = serde_json::from_slice(&both.body).unwrap();
    assert_eq!((both.head.messages, &body["messages"][0]), (2, &body["messages"][1]));
}

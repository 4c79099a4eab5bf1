//! What the program writes is valid by the schemas.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jsonschema::{Registry, Validator};
use serde_json::{Value, json};

use crate::support::{Answer, Outgoing, Record, Request, answer, committed, tenant};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas");

/// All schemas by name, each of which may refer to the others.
struct Schemas(BTreeMap<String, (Value, Validator)>);

impl Schemas {
    fn load() -> Self {
        let files = fs::read_dir(Path::new(FOLDER)).expect("the folder can be read").flatten();
        let names = files.map(|file| file.file_name().into_string().expect("the name is text"));
        let read = |name: &str| -> Value {
            let text =
                fs::read_to_string(Path::new(FOLDER).join(format!("{name}.json"))).expect("it can be read");
            serde_json::from_str(&text).expect("a schema is JSON")
        };
        let schemas: BTreeMap<String, Value> = names
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .map(|name| (name.clone(), read(&name)))
            .collect();
        let mut registry = Registry::new();
        for schema in schemas.values() {
            let id = schema["$id"].as_str().expect("a schema has an id").to_owned();
            registry = registry.add(id, schema.clone()).expect("the id is a URI");
        }
        let registry = registry.prepare().expect("each schema is sound");
        let build = |(name, schema): (String, Value)| {
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.with_registry(&registry).build(&schema);
            let validator = validator.unwrap_or_else(|error| panic!("`{name}` is no schema: {error}"));
            (name, (schema, validator))
        };
        Self(schemas.into_iter().map(build).collect())
    }

    fn check(&self, name: &str, value: &Value) {
        let errors: Vec<_> = self.0[name]
            .1
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "not valid by `{name}`: {errors:#?}\n{value:#}");
    }

    fn check_values(&self, name: &str, records: &[Record]) {
        let written: Vec<_> = records.iter().filter(|record| record.value.is_some()).collect();
        assert!(!written.is_empty(), "nothing to be checked by `{name}`");
        for record in written {
            self.check(name, &record.json());
        }
    }

    fn check_headers(&self, name: &str, records: &[Record]) {
        assert!(!records.is_empty(), "nothing to be checked by `{name}`");
        for record in records {
            let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("a header is text");
            let headers: BTreeMap<_, _> =
                record.headers.iter().map(|(key, value)| (key, text(value))).collect();
            self.check(name, &json!(headers));
        }
    }
}

#[test]
fn the_examples_in_every_schema_are_valid() {
    let schemas = Schemas::load();
    assert!(schemas.0.len() >= 17);
    for (name, (schema, _)) in &schemas.0 {
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("`{name}` has no examples"));
        assert!(!examples.is_empty(), "`{name}` has no examples");
        for example in examples {
            schemas.check(name, example);
        }
    }
}

#[test]
fn the_examples_of_the_contract_are_valid() {
    let schemas = Schemas::load();
    let parse = |text: &str| -> Value { serde_json::from_str(text).expect("an example is JSON") };
    for line in include_str!("../examples/events.jsonl").lines() {
        schemas.check("message-event", &parse(line));
    }
    schemas.check("body-single", &parse(include_str!("../examples/message.json")));
    schemas.check("body-aggregated", &parse(include_str!("../examples/bundle.json")));
    schemas.check("body-aggregated", &parse(include_str!("../examples/group.json")));
}

/// Checks all that the shared system has written so far, whichever test made it write that.
#[tokio::test]
async fn everything_that_is_written_is_valid() {
    let Some(tenant) = tenant().await else { return };
    tenant
        .receiver
        .set(answer(|request| Answer::status(if request.path == "/none" { 500 } else { 200 }).body("said")))
        .await;
    let system = tenant.system;
    system.produce("message-events", [Outgoing::new("c", "not JSON")]).await;
    let mut photo = tenant.event("c", "3");
    photo["message"]["attachments"] = json!([{}]);
    system.publish(&[tenant.event("c", "1"), tenant.event("d", "2"), photo]).await;
    let posts: Vec<Request> = tenant.wait_posts("/1h", 2).await;
    let id = tenant.webhook_id("none");
    let is_disabled = |record: &Record| {
        record.value.is_some() && record.json()["kind"] == "disabled" && record.json()["webhook_id"] == *id
    };
    let states = system.wait_records("webhook-states", |records| records.iter().any(is_disabled)).await;
    system.wait_records("message-skips", |records| !records.is_empty()).await;

    let sent_again = posts[0].header("webhook-id").expect("a POST has an id");
    for args in [
        &["enable", &id, "--discard"][..],
        &["test", &tenant.webhook_id("1h")],
        &["resend", &tenant.webhook_id("1h"), "--delivery", sent_again, "--new-id"],
    ] {
        let finished = system.webhook(args).await;
        assert!(finished.status.success(), "{finished:?}");
    }
    tenant.wait_posts("/1h", 4).await;
    tenant.wait_records_of("delivery-attempts", "1h", 4).await;
    let states = system.wait_records("webhook-states", |records| records.len() > states.len() + 1).await;

    let schemas = Schemas::load();
    schemas.check("body-aggregated", &posts[0].json());
    schemas.check("body-single", &tenant.posts("/none")[0].json());
    schemas.check_values("webhook-state", &states);
    schemas.check_values("webhook-settings", &usable(system.records("webhook-settings").await));
    for (schema, topic) in [
        ("delivery-attempt", "delivery-attempts"),
        ("message-skips", "message-skips"),
        ("webhook-event", "webhook-events"),
        ("notification", "notifications"),
        ("webhook-health", "webhook-health"),
    ] {
        schemas.check_values(schema, &system.records(topic).await);
    }
    let bundles = system.records("bundles").await;
    schemas.check_headers("bundle-headers", &bundles);
    let (at_once, windowed): (Vec<_>, Vec<_>) =
        bundles.into_iter().partition(|bundle| bundle.header("granularity") == Some("none"));
    schemas.check_values("body-single", &at_once);
    schemas.check_values("body-aggregated", &windowed);
    schemas.check_headers("dead-letter-headers", &system.records("dead-letters").await);
    schemas.check_headers("webhook-event-headers", &system.records("webhook-events").await);
    for (schema, role, topic) in [
        ("commit-metadata-aggregate", "aggregate", "message-events"),
        ("commit-metadata-deliver", "deliver", "bundles"),
    ] {
        let group = format!("{}bundlehook-{role}", system.prefix);
        for partition in committed(system.kafka.servers(), &group, &system.topic(topic)).await {
            schemas.check(schema, &serde_json::from_str(&partition.metadata).expect("it is JSON"));
        }
    }
}

/// A test makes one that is not.
fn usable(mut settings: Vec<Record>) -> Vec<Record> {
    settings.retain(|record| record.value.is_some() && !record.text().contains("ftp://"));
    settings
}

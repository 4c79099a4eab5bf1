//! Kafka by TLS: with certificates, with passwords, and with no more rights than each role needs.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{PASSWORD, assert_all_came, events, webhooks};
use crate::mails::{dead_letters, notification, notify, publish};
use crate::support::authority::{Identity, text};
use crate::support::console::token;
use crate::support::{
    Authority, HeldPort, Kafka, LIMIT, Outgoing, System, event, mail_server, ok, process, receiver, status,
    system, wait_until, webhook,
};

/// What each role may do, as an operator would grant it.
const ACLS: &str = include_str!("../../../deploy/kafka/acls.tsv");
pub(super) const PREFIX: &str = "secure-";
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required;";

/// A broker that is reached by TLS with a certificate, or with a name and a password; nobody may do anything but those
/// whom the list of rights names. The rig itself comes in by a listener without all that.
pub(super) struct SecureKafka {
    pub(super) kafka: Kafka,
    pub(super) sasl: HeldPort,
    mutual: HeldPort,
    pub(super) authority: Authority,
}

impl SecureKafka {
    /// Grants the rights of these roles: each takes a moment.
    pub(super) async fn start(roles: &[&str]) -> Option<Self> {
        let (authority, sasl, mutual) = (Authority::new(), HeldPort::new(), HeldPort::new());
        let server = authority.identity("server");
        let listeners = format!("SASL://{},MUTUAL://{}", sasl.addr(), mutual.addr());
        let settings = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL\n\
             ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.mutual.ssl.client.auth=required\n\
             ssl.principal.mapping.rules=RULE:^CN=(bundlehook-.*)$/$1/,DEFAULT\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_bundlehook-aggregate=\"{PASSWORD}\" \
             user_bundlehook-serve=\"{PASSWORD}\" user_bundlehook-notify=\"{PASSWORD}\" \
             user_bundlehook-topics=\"{PASSWORD}\";\n\
             listener.name.sasl.scram-sha-256.sasl.jaas.config={SCRAM}\n\
             listener.name.sasl.scram-sha-512.sasl.jaas.config={SCRAM}\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n",
            text(&server.both()),
            text(&authority.bundle()),
        );
        let users = [("SCRAM-SHA-512", "deliver"), ("SCRAM-SHA-256", "notify"), ("SCRAM-SHA-512", "tools")];
        let users = users
            .map(|(mechanism, user)| format!("{mechanism}=[name=bundlehook-{user},password={PASSWORD}]"));
        let users: Vec<&str> = users.iter().flat_map(|user| ["--add-scram", user]).collect();
        let kafka = Kafka::start_with(&listeners, &settings, &users).await?;
        for line in ACLS.lines().filter(|line| !line.starts_with('#')) {
            let [role, operations, kind, names] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("`{line}` has not four fields")
            };
            if !roles.contains(&role) {
                continue;
            }
            let principal = format!("User:bundlehook-{role}");
            let mut arguments = vec!["--add".to_owned(), "--allow-principal".to_owned(), principal];
            arguments
                .extend(operations.split(' ').flat_map(|one| ["--operation".to_owned(), one.to_owned()]));
            arguments
                .extend(names.split(' ').flat_map(|name| [format!("--{kind}"), format!("{PREFIX}{name}")]));
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            kafka.tool("org.apache.kafka.tools.AclCommand", &arguments).await;
        }
        let upstream = ["--add", "--allow-principal", "User:CN=upstream", "--operation", "Write", "--topic"];
        let topic = format!("{PREFIX}message-events");
        kafka.tool("org.apache.kafka.tools.AclCommand", &[&upstream[..], &[&topic]].concat()).await;
        Some(Self { kafka, sasl, mutual, authority })
    }

    pub(super) fn by_password(&self, mechanism: &str, user: &str) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("security.protocol", "SASL_SSL".to_owned()),
            ("sasl.mechanisms", mechanism.to_owned()),
            ("sasl.username", user.to_owned()),
            ("sasl.password", PASSWORD.to_owned()),
            ("ssl.ca.location", text(&self.authority.bundle()).to_owned()),
        ])
    }

    fn by_certificate(&self, identity: &Identity) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("security.protocol", "SSL".to_owned()),
            ("ssl.ca.location", text(&self.authority.bundle()).to_owned()),
            ("ssl.certificate.location", text(&identity.certificate).to_owned()),
            ("ssl.key.location", text(&identity.key).to_owned()),
        ])
    }
}

pub(super) fn properties(properties: &BTreeMap<&'static str, String>) -> String {
    properties.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn each_role_does_its_work_in_kafka_by_tls_as_a_user_with_no_more_rights_than_listed() {
    let Some(secure) = SecureKafka::start(&["aggregate", "deliver"]).await else { return };
    let endpoint = receiver(ok());
    let addr = secure.sasl.addr().to_string();
    let mutual = secure.mutual.addr().to_string();
    let by_certificate = |name| properties(&secure.by_certificate(&secure.authority.identity(name)));
    let (aggregate, upstream) = (by_certificate("bundlehook-aggregate"), by_certificate("upstream"));
    let deliver = properties(&secure.by_password("SCRAM-SHA-512", "bundlehook-deliver"));
    let setup = system(2_000)
        .prefix(PREFIX)
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_BROKERS", &mutual)
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_PROPERTIES", &aggregate)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_BROKERS", &addr)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_PROPERTIES", &deliver)
        .kafka(secure.kafka);
    let Some(system) = setup.start(&webhooks(&endpoint)).await else { return };

    // Upstream comes with a certificate.
    let produce = |brokers: &str, properties: &str| {
        let lines: Vec<String> = events().iter().map(Value::to_string).collect();
        process("produce")
            .args(["--file", "-"])
            .env("BUNDLEHOOK_KAFKA_BROKERS", brokers)
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", properties)
            .env("BUNDLEHOOK_TOPIC_PREFIX", PREFIX)
            .input(lines.join("\n") + "\n")
            .run()
    };
    let produced = produce(&mutual, &upstream).await;
    assert!(produced.status.success(), "{produced:?}");
    system.wait_done().await;
    assert_all_came(&endpoint);
    assert_nothing_was_denied(&system);

    // Nobody has the rights of another.
    let refused = produce(&addr, &deliver).await;
    assert!(!refused.status.success() && refused.stderr.contains("may not be seen"), "{refused:?}");
}

#[track_caller]
fn assert_nothing_was_denied(system: &System) {
    let log = system.kafka.log();
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("Denied")).collect();
    assert!(denied.is_empty(), "rights are missing: {denied:#?}");
}

#[tokio::test]
async fn the_console_and_the_mailer_do_all_their_work_as_users_with_no_more_rights_than_listed() {
    let Some(secure) = SecureKafka::start(&["serve", "notify"]).await else { return };
    let broker = secure.sasl.addr().to_string();
    let serve = properties(&secure.by_password("PLAIN", "bundlehook-serve"));
    let mailer = properties(&secure.by_password("SCRAM-SHA-256", "bundlehook-notify"));
    let as_user = |properties| {
        [("BUNDLEHOOK_KAFKA_BROKERS", broker.as_str()), ("BUNDLEHOOK_KAFKA_PROPERTIES", properties)]
    };
    let failing = receiver(status(500));
    let setup = system(1_000).prefix(PREFIX).env("BUNDLEHOOK_RETRY_SCHEDULE", "50ms").kafka(secure.kafka);
    let webhooks = [webhook("wh", "ws", &failing.url("/wh"), json!({}))];
    let Some(system) = setup.start(&webhooks).await else { return };
    let console = system.console(&as_user(&serve)).await;
    let server = mail_server().await;
    let sender = notify(&system, &server, &as_user(&mailer)).await;
    let call = async |method: &str, path: &str, body: Value| {
        let answered =
            console.call(method, &format!("/api/v1/webhooks{path}"), &token("ws", "editor"), &body).await;
        assert!((200..300).contains(&answered.status), "{method} {path}: {}", answered.text());
        answered.json()
    };

    // Until it is disabled, and on again: e-mails, events, states.
    system.publish(&[event("ws", "c", "1"), event("ws", "c", "2")]).await;
    wait_until("the disabling", LIMIT, async || {
        console.get("/api/v1/webhooks/wh").await["state"] == "disabled"
    })
    .await;
    failing.set(ok()).await;
    call("POST", "/wh/enable", json!({"held": "send"})).await;
    system.wait_delivered().await;
    server.wait_for(3).await;
    server.set("refuse");
    publish(&system, &notification(1, "nobody@acme.example")).await;
    dead_letters(&system, 1).await;

    // Every other command, and every look.
    call("POST", "/wh/test", json!({})).await;
    let log = console.get("/api/v1/webhooks/wh/log?count=100").await;
    let log = log.as_array().expect("it is a list");
    let delivered =
        log.iter().find(|attempt| attempt["settled"] == "delivered" && attempt["kind"] == "bundle");
    let delivery = delivered.expect("something was delivered")["bundle"]["bundle_id"].clone();
    call("POST", "/wh/resend", json!({"delivery": delivery})).await;
    let version = console.get("/api/v1/webhooks/wh").await["version"].clone();
    call("PATCH", "/wh", json!({"version": version, "label": "renamed"})).await;
    console.get("/api/v1/webhooks/wh/statistics").await;
    console.get("/api/v1/changes").await;
    let created = call("POST", "", json!({"url": failing.url("/new")})).await;
    let deleted = format!("/api/v1/webhooks/{}", created["webhook_id"].as_str().expect("it has an id"));
    let deleted = console.call("DELETE", &deleted, &token("ws", "editor"), &Value::Null).await;
    assert!((200..300).contains(&deleted.status), "{}", deleted.text());
    console.process.sigterm();
    assert!(console.process.wait_exit(LIMIT).await.success());
    sender.sigterm();
    assert!(sender.wait_exit(LIMIT).await.success());
    assert_nothing_was_denied(&system);
}

#[tokio::test]
async fn the_job_makes_and_checks_all_topics_as_a_user_with_no_more_rights_than_listed() {
    let Some(secure) = SecureKafka::start(&["topics"]).await else { return };
    for _ in 0..2 {
        let made = process("topics")
            .env("BUNDLEHOOK_KAFKA_BROKERS", secure.sasl.addr().to_string())
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", properties(&secure.by_password("PLAIN", "bundlehook-topics")))
            .env("BUNDLEHOOK_TOPIC_PREFIX", PREFIX)
            .run()
            .await;
        assert!(made.status.success(), "{made:?}");
    }
    let log = secure.kafka.log();
    assert!(!log.contains("Denied"), "rights are missing: {log}");
}

#[tokio::test]
async fn the_tools_do_all_their_work_as_a_user_with_no_more_rights_than_listed() {
    let Some(secure) = SecureKafka::start(&["tools"]).await else { return };
    let broker = secure.sasl.addr().to_string();
    let tools = properties(&secure.by_password("SCRAM-SHA-512", "bundlehook-tools"));
    let failing = receiver(status(500));
    let setup = system(1_000).prefix(PREFIX).env("BUNDLEHOOK_RETRY_SCHEDULE", "50ms").kafka(secure.kafka);
    let webhooks = [webhook("wh", "ws", &failing.url("/wh"), json!({}))];
    let Some(system) = setup.start(&webhooks).await else { return };
    let tool = async |name: &'static str, arguments: &[&str], input: &str| {
        let launch = system
            .launch(name)
            .args(arguments.iter().copied())
            .env("BUNDLEHOOK_KAFKA_BROKERS", &broker)
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", &tools)
            .input(input);
        let ended = launch.run().await;
        // What is not well is told by 1, what can't be known by 2.
        let most = i32::from(name == "doctor");
        assert!(ended.status.code().is_some_and(|code| code <= most), "{name} {arguments:?}: {ended:?}");
        ended.stdout
    };

    tool("produce", &["--file", "-"], &format!("{}\n", event("ws", "c", "1"))).await;
    system.produce("message-events", [Outgoing::new("c", "no message")]).await;
    wait_until("the disabling", LIMIT, async || {
        tool("webhook", &["show", "wh", "--json"], "").await.contains("disabled")
    })
    .await;
    failing.set(ok()).await;
    tool("webhook", &["enable", "wh", "--send"], "").await;
    system.wait_delivered().await;
    tool("webhook", &["disable", "wh"], "").await;
    tool("webhook", &["enable", "wh"], "").await;
    tool("webhook", &["test", "wh"], "").await;
    tool("webhook", &["list"], "").await;
    tool("webhook", &["log", "wh"], "").await;
    tool("webhook", &["resend", "wh", "--from", "2021-01-01T00:00:00Z"], "").await;
    wait_until("the dead letter", LIMIT, async || {
        tool("dead-letters", &["list"], "").await.contains("invalid_json")
    })
    .await;
    tool("dead-letters", &["show", "0/0"], "").await;
    tool("dead-letters", &["redrive", "--all"], "").await;
    tool("inspect", &[], "").await;
    tool("doctor", &[], "").await;
    assert_nothing_was_denied(&system);
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_or_does_not_trust_us_is_named_with_the_cause() {
    let Some(secure) = SecureKafka::start(&[]).await else { return };
    let stranger = Authority::new();
    let (sasl, mutual) = (secure.sasl.addr().to_string(), secure.mutual.addr().to_string());
    let by_plain = secure.by_password("PLAIN", "bundlehook-aggregate");
    let by_scram = |mechanism| secure.by_password(mechanism, "bundlehook-tools");
    let changed = |properties: &BTreeMap<_, _>, name, value: &str| {
        let mut changed = properties.clone();
        changed.insert(name, value.to_owned());
        changed
    };
    let own = secure.authority.identity("bundlehook-aggregate");
    let by_certificate = secure.by_certificate(&own);
    let forged = secure.by_certificate(&stranger.identity("bundlehook-aggregate"));
    let none = by_certificate
        .iter()
        .filter(|(name, _)| !name.contains("certificate") && !name.contains("key"))
        .map(|(name, value)| (*name, value.clone()))
        .collect();
    let rows = [
        (
            "another authority",
            &sasl,
            changed(&by_plain, "ssl.ca.location", text(&stranger.bundle())),
            "certificate verify failed",
        ),
        ("another password", &sasl, changed(&by_plain, "sasl.password", "battery"), "Authentication failed"),
        (
            "another password, by SCRAM",
            &sasl,
            changed(&by_scram("SCRAM-SHA-512"), "sasl.password", "battery"),
            "invalid credentials",
        ),
        ("a user of another mechanism", &sasl, by_scram("SCRAM-SHA-256"), "invalid credentials"),
        ("plain text", &sasl, BTreeMap::new(), "expect `security.protocol=plaintext`"),
        ("a certificate of another authority", &mutual, forged, "alert bad certificate"),
        ("no certificate", &mutual, none, "alert bad certificate"),
        (
            "another authority, with a certificate",
            &mutual,
            changed(&by_certificate, "ssl.ca.location", text(&stranger.bundle())),
            "certificate verify failed",
        ),
        ("plain text where a certificate is asked for", &mutual, BTreeMap::new(), "security.protocol"),
    ];
    // Side by side: each waits for ten seconds.
    let runs = rows.iter().map(|(_, broker, settings, _)| {
        process("doctor")
            .env("BUNDLEHOOK_KAFKA_BROKERS", *broker)
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", properties(settings))
            .env("BUNDLEHOOK_REDIS_URL", "redis://127.0.0.1:1")
            .run()
    });
    let mut wrong = Vec::new();
    for ((name, .., expected), ended) in rows.iter().zip(join_all(runs).await) {
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!told.contains(PASSWORD), "{name}: {told}");
        if ended.status.code() != Some(2) || !told.contains(expected) {
            wrong.push(format!("---- {name}: `{expected}` is not in\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

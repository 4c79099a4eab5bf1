//! Connections that are encrypted, and servers that ask who we are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::authority::{Identity, text};
use crate::support::{
    Authority, HeldPort, Kafka, Redis, RedisKind, event, message_ids, ok, process, receiver, redis_with,
    system, webhook,
};

/// All that Bundlehook asks of Redis, as in docs/operations.md.
const RIGHTS: &str =
    "~* +@read +@write +@scripting +@connection +info +time +config|get -@dangerous +info +config|get";
const PASSWORD: &str = "correct-horse";

/// A Redis that listens with TLS at a second port, asks for certificates of an authority, and knows one user.
struct SecureRedis {
    redis: Redis,
    port: HeldPort,
    authority: Authority,
    client: Identity,
}

impl SecureRedis {
    async fn start() -> Self {
        let (authority, port) = (Authority::new(), HeldPort::new());
        let (server, client) = (authority.identity("server"), authority.identity("bundlehook"));
        let number = port.number().to_string();
        let user = format!("--user bundlehook on >{PASSWORD} {RIGHTS}");
        let bundle = authority.bundle();
        let mut settings = vec!["--tls-port", &number, "--tls-auth-clients", "yes"];
        settings.extend(["--tls-cert-file", text(&server.certificate), "--tls-key-file", text(&server.key)]);
        settings.extend(["--tls-ca-cert-file", text(&bundle)]);
        settings.extend(user.split(' '));
        let redis = redis_with(RedisKind::Single, &settings).await;
        Self { redis, port, authority, client }
    }

    fn url(&self, scheme: &str, password: &str) -> String {
        format!("{scheme}://bundlehook:{password}@{}/", self.port.addr())
    }

    /// What the product is told.
    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BUNDLEHOOK_REDIS_URL", self.url("rediss", PASSWORD)),
            ("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&self.authority.bundle()).to_owned()),
            ("BUNDLEHOOK_REDIS_CERTIFICATE", text(&self.client.certificate).to_owned()),
            ("BUNDLEHOOK_REDIS_CERTIFICATE_KEY", text(&self.client.key).to_owned()),
        ]
    }
}

#[tokio::test]
async fn all_goes_on_over_tls_with_a_certificate_of_ours_and_a_redis_user_with_few_rights() {
    let secure = SecureRedis::start().await;
    let endpoint = receiver(ok());
    let webhooks = [
        webhook("once", "ws", &endpoint.url("/once"), json!({})),
        webhook("hour", "ws", &endpoint.url("/hour"), json!({"granularity": "1h"})),
    ];
    let setup =
        secure.settings().into_iter().fold(system(2_000), |setup, (name, value)| setup.env(name, &value));
    let Some(system) = setup.start(&webhooks).await else { return };
    let events: Vec<Value> =
        (0..50).map(|n| event("ws", &format!("c{}", n % 5), &format!("{n:02}"))).collect();
    system.publish(&events).await;
    system.wait_done().await;
    for path in ["/once", "/hour"] {
        let requests = endpoint.requests();
        let mut ids: Vec<String> =
            requests.iter().filter(|request| request.path == path).flat_map(message_ids).collect();
        ids.sort();
        let all: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        assert_eq!(ids, all, "{path}");
    }
    let doctor = system.launch("doctor").arg("--json").run().await;
    let found: Value = serde_json::from_str(&doctor.stdout).expect("it is JSON");
    let redis = found["checks"].as_array().expect("a list").iter().filter(|check| check["name"] == "redis");
    assert!(redis.clone().count() == 1 && redis.clone().all(|check| check["level"] == "ok"), "{found:#}");
    let refused: Vec<String> = secure.redis.command(&["ACL", "LOG"]).await;
    assert!(refused.is_empty(), "a right is missing: {refused:?}");
}

#[tokio::test]
async fn a_wrong_authority_password_or_certificate_and_plain_text_are_refused_by_name() {
    let secure = SecureRedis::start().await;
    let stranger = Authority::new();
    let (bundle, forged) = (stranger.bundle(), stranger.identity("bundlehook"));
    let rows = [
        (
            "another authority",
            vec![("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&bundle).to_owned())],
            "UnknownIssuer",
        ),
        (
            "a certificate of another authority",
            vec![
                ("BUNDLEHOOK_REDIS_CERTIFICATE", text(&forged.certificate).to_owned()),
                ("BUNDLEHOOK_REDIS_CERTIFICATE_KEY", text(&forged.key).to_owned()),
            ],
            "UnknownCA",
        ),
        (
            "another password",
            vec![("BUNDLEHOOK_REDIS_URL", secure.url("rediss", "battery"))],
            "Password authentication failed",
        ),
        ("plain text", vec![("BUNDLEHOOK_REDIS_URL", secure.url("redis", PASSWORD))], "os error"),
        (
            "no file",
            vec![("BUNDLEHOOK_REDIS_CA_BUNDLE", "/nowhere/ca.pem".to_owned())],
            "`/nowhere/ca.pem`: No such file",
        ),
        (
            "no certificate",
            vec![("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&secure.client.key).to_owned())],
            "UnknownIssuer",
        ),
    ];
    let Some(kafka) = crate::support::kafka().await else { return };
    let mut wrong = Vec::new();
    for (name, changes, expected) in rows {
        let mut settings = secure.settings();
        settings.extend(changes);
        let launch = process("doctor")
            .arg("--json")
            .env("BUNDLEHOOK_KAFKA_BROKERS", kafka.servers())
            .env("BUNDLEHOOK_TOPIC_PREFIX", "nothing-");
        let launch = settings.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
        let ended = launch.run().await;
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!told.contains(PASSWORD), "{name}: {told}");
        if ended.status.code() != Some(2) || !told.contains(expected) {
            wrong.push(format!("{name}: `{expected}` is not in {told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What each role may do, as an operator would grant it.
const ACLS: &str = include_str!("../../deploy/kafka/acls.tsv");
const PREFIX: &str = "secure-";

/// A broker that is reached by TLS with a certificate, or with a name and a password; nobody may do anything but those
/// whom the list of rights names. The rig itself comes in by a listener without all that.
struct SecureKafka {
    kafka: Kafka,
    sasl: HeldPort,
    mutual: HeldPort,
    authority: Authority,
}

impl SecureKafka {
    async fn start() -> Option<Self> {
        let (authority, sasl, mutual) = (Authority::new(), HeldPort::new(), HeldPort::new());
        let server = authority.identity("server");
        let listeners = format!("SASL://{},MUTUAL://{}", sasl.addr(), mutual.addr());
        let settings = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL\n\
             ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.mutual.ssl.client.auth=required\n\
             sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512\n\
             listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_bundlehook-aggregate=\"{PASSWORD}\";\n\
             listener.name.sasl.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
             super.users=User:ANONYMOUS\n",
            text(&server.both()),
            text(&authority.bundle()),
        );
        let user = format!("SCRAM-SHA-512=[name=bundlehook-deliver,password={PASSWORD}]");
        let kafka = Kafka::start_with(&listeners, &settings, &["--add-scram", &user]).await?;
        for line in ACLS.lines().filter(|line| !line.starts_with('#')) {
            let [role, operations, kind, names] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("`{line}` has not four fields")
            };
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

    fn by_password(&self, mechanism: &str, user: &str) -> BTreeMap<&'static str, String> {
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

fn properties(properties: &BTreeMap<&'static str, String>) -> String {
    properties.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn each_role_does_its_work_in_kafka_by_tls_as_a_user_with_no_more_rights_than_listed() {
    let Some(secure) = SecureKafka::start().await else { return };
    let endpoint = receiver(ok());
    let webhooks = [
        webhook("once", "ws", &endpoint.url("/once"), json!({})),
        webhook("hour", "ws", &endpoint.url("/hour"), json!({"granularity": "1h"})),
    ];
    let addr = secure.sasl.addr().to_string();
    let aggregate = properties(&secure.by_password("PLAIN", "bundlehook-aggregate"));
    let deliver = properties(&secure.by_password("SCRAM-SHA-512", "bundlehook-deliver"));
    let upstream = secure.authority.identity("upstream");
    let upstream = properties(&secure.by_certificate(&upstream));
    let mutual = secure.mutual.addr().to_string();
    let setup = system(2_000)
        .prefix(PREFIX)
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_BROKERS", &addr)
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_PROPERTIES", &aggregate)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_BROKERS", &addr)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_PROPERTIES", &deliver)
        .kafka(secure.kafka);
    let Some(system) = setup.start(&webhooks).await else { return };

    // Upstream comes with a certificate.
    let produce = |brokers: &str, properties: &str| {
        let lines: Vec<String> =
            (0..50).map(|n| event("ws", &format!("c{}", n % 5), &format!("{n:02}")).to_string()).collect();
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
    for path in ["/once", "/hour"] {
        let requests = endpoint.requests();
        let mut ids: Vec<String> =
            requests.iter().filter(|request| request.path == path).flat_map(message_ids).collect();
        ids.sort();
        let all: Vec<String> = (0..50).map(|n| format!("{n:02}")).collect();
        assert_eq!(ids, all, "{path}");
    }
    let log = system.kafka.log();
    let denied: Vec<&str> = log.lines().filter(|line| line.contains("Denied")).collect();
    assert!(denied.is_empty(), "rights are missing: {denied:#?}");

    // Nobody has the rights of another.
    let refused = produce(&addr, &deliver).await;
    assert!(!refused.status.success() && refused.stderr.contains("may not be seen"), "{refused:?}");
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_or_does_not_trust_us_is_named_with_the_cause() {
    let Some(secure) = SecureKafka::start().await else { return };
    let stranger = Authority::new();
    let (sasl, mutual) = (secure.sasl.addr().to_string(), secure.mutual.addr().to_string());
    let by_password = secure.by_password("PLAIN", "bundlehook-aggregate");
    let changed = |name, value: &str| {
        let mut changed = by_password.clone();
        changed.insert(name, value.to_owned());
        changed
    };
    let forged = secure.by_certificate(&stranger.identity("upstream"));
    let rows = [
        (
            "another authority",
            &sasl,
            changed("ssl.ca.location", text(&stranger.bundle())),
            "certificate verify failed",
        ),
        ("another password", &sasl, changed("sasl.password", "battery"), "Authentication failed"),
        ("plain text", &sasl, BTreeMap::new(), "security.protocol"),
        ("a certificate of another authority", &mutual, forged, "unknown ca"),
    ];
    let mut wrong = Vec::new();
    for (name, broker, settings, expected) in rows {
        let launch = process("doctor")
            .env("BUNDLEHOOK_KAFKA_BROKERS", broker)
            .env("BUNDLEHOOK_KAFKA_PROPERTIES", properties(&settings))
            .env("BUNDLEHOOK_REDIS_URL", "redis://127.0.0.1:1");
        let ended = launch.run().await;
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!told.contains(PASSWORD), "{name}: {told}");
        if ended.status.code() != Some(2) || !told.contains(expected) {
            wrong.push(format!("---- {name}: `{expected}` is not in\n{told}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

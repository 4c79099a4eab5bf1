//! Redis by TLS, with a certificate of ours and a user with few rights.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{MESSAGES, PASSWORD, assert_all_came, events, webhooks};
use crate::support::authority::{Identity, text};
use crate::support::{
    Authority, HeldPort, Redis, RedisKind, kafka, ok, process, receiver, redis_with, system,
};

/// All that Bundlehook asks of Redis, as in docs/operations.md.
const RIGHTS: &str =
    "~* +@read +@write +@scripting +@connection +info +time +config|get -@dangerous +info +config|get";

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
    let setup =
        secure.settings().into_iter().fold(system(2_000), |setup, (name, value)| setup.env(name, &value));
    let Some(system) = setup.start(&webhooks(&endpoint)).await else { return };
    system.publish(&events()).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
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
    let Some(kafka) = kafka().await else { return };
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

/// What a rotation of secrets writes into the files that the product was told of.
fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).expect("the rig's folder can be written");
}

#[tokio::test]
async fn a_password_an_authority_and_certificates_that_change_need_no_restart() {
    let secure = SecureRedis::start().await;
    let url = secure.authority.bundle().with_file_name("redis-url");
    write(&url, secure.url("rediss", PASSWORD) + "\n");
    let endpoint = receiver(ok());
    let mut setup =
        system(2_000).env("BUNDLEHOOK_REDIS_URL_FILE", text(&url)).without("BUNDLEHOOK_REDIS_URL");
    for (name, value) in &secure.settings()[1..] {
        setup = setup.env(name, value);
    }
    let Some(system) = setup.start(&webhooks(&endpoint)).await else { return };
    system.publish(&events()[..MESSAGES / 2]).await;
    system.wait_done().await;

    // All that a connection begins with is replaced, at the server and in the product's files.
    let authority = Authority::new();
    let (server, client) = (authority.identity("server"), authority.identity("bundlehook"));
    let (bundle, files) = (authority.bundle(), [&server.certificate, &server.key]);
    let mut change = vec!["CONFIG", "SET", "tls-ca-cert-file", text(&bundle)];
    change.extend(["tls-cert-file", text(files[0]), "tls-key-file", text(files[1])]);
    let () = secure.redis.command(&change).await;
    let () = secure.redis.command(&["ACL", "SETUSER", "bundlehook", "resetpass", ">battery"]).await;
    write(&url, secure.url("rediss", "battery"));
    write(&secure.authority.bundle(), fs::read(&bundle).expect("it is there"));
    write(&secure.client.certificate, fs::read(&client.certificate).expect("it is there"));
    write(&secure.client.key, fs::read(&client.key).expect("it is there"));
    let killed: u32 = secure.redis.command(&["CLIENT", "KILL", "USER", "bundlehook"]).await;
    assert!(killed >= 2, "each role had a connection, and {killed} were cut");

    system.publish(&events()[MESSAGES / 2..]).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
}

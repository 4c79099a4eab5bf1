//! Redis by TLS, with a certificate of ours and a user with few rights: one server, Sentinel, and a Cluster.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{MESSAGES, PASSWORD, assert_all_came, events, webhooks};
use crate::support::authority::{Identity, text};
use crate::support::{
    Authority, LIMIT, Redis, RedisKind, Setup, kafka, ok, process, receiver, redis_by_tls, system, wait_until,
};

/// All that Bundlehook asks of one server, as in docs/operations.md.
const RIGHTS: &str =
    "~* +@read +@write +@scripting +@connection +info +time +config|get -@dangerous +info +config|get";
/// What it asks for beyond that.
const RIGHTS_OF_SENTINEL: &str = "+role";
const RIGHTS_OF_CLUSTER: &str = "+cluster|slots";
/// What it asks sentinels.
const RIGHTS_AT_SENTINELS: &str = "+@connection +role +sentinel|masters +sentinel|slaves";

/// Servers that listen with TLS at a second port, ask for certificates of an authority, and know one user.
pub(super) struct SecureRedis {
    pub(super) redis: Redis,
    pub(super) authority: Authority,
    pub(super) client: Identity,
}

impl SecureRedis {
    pub(super) async fn start(kind: RedisKind) -> Self {
        let authority = Authority::new();
        let client = authority.identity("bundlehook");
        let more = match kind {
            RedisKind::Single => "",
            RedisKind::Sentinel => RIGHTS_OF_SENTINEL,
            RedisKind::Cluster => RIGHTS_OF_CLUSTER,
        };
        let user = format!("--user bundlehook on >{PASSWORD} {RIGHTS} {more}");
        let settings: Vec<&str> = user.split_whitespace().collect();
        let sentinels = format!("user bundlehook on >{PASSWORD} {RIGHTS_AT_SENTINELS}\n");
        let redis = redis_by_tls(kind, &authority, &settings, &sentinels).await;
        Self { redis, authority, client }
    }

    pub(super) fn url(&self, scheme: &str, password: &str) -> String {
        self.redis.setting_by_tls(scheme, &format!("bundlehook:{password}"))
    }

    /// What the product is told.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BUNDLEHOOK_REDIS_URL", self.url("rediss", PASSWORD)),
            ("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&self.authority.bundle()).to_owned()),
            ("BUNDLEHOOK_REDIS_CERTIFICATE", text(&self.client.certificate).to_owned()),
            ("BUNDLEHOOK_REDIS_CERTIFICATE_KEY", text(&self.client.key).to_owned()),
        ]
    }

    /// A system of the product that is told so.
    pub(super) fn system(&self) -> Setup {
        self.settings().into_iter().fold(system(2_000), |setup, (name, value)| setup.env(name, &value))
    }

    /// Everything that was asked for was allowed.
    async fn assert_nothing_was_denied(&self) {
        for log in self.redis.ask_all::<Vec<redis::Value>>(&["ACL", "LOG"]).await {
            let refused = log.expect("a server tells what it refused");
            assert!(refused.is_empty(), "a right is missing: {refused:?}");
        }
    }
}

#[tokio::test]
async fn all_goes_on_over_tls_with_a_certificate_of_ours_and_a_redis_user_with_few_rights() {
    let secure = SecureRedis::start(RedisKind::Single).await;
    let endpoint = receiver(ok());
    let Some(system) = secure.system().start(&webhooks(&endpoint)).await else { return };
    system.publish(&events()).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
    let doctor = system.launch("doctor").arg("--json").run().await;
    let found: Value = serde_json::from_str(&doctor.stdout).expect("it is JSON");
    let redis = found["checks"].as_array().expect("a list").iter().filter(|check| check["name"] == "redis");
    assert!(redis.clone().count() == 1 && redis.clone().all(|check| check["level"] == "ok"), "{found:#}");
    secure.assert_nothing_was_denied().await;
}

#[tokio::test]
async fn all_goes_on_over_tls_with_sentinels_also_through_a_failover() {
    let secure = SecureRedis::start(RedisKind::Sentinel).await;
    let endpoint = receiver(ok());
    let setup = secure.system().env("BUNDLEHOOK_REDIS_TIMEOUT", "1s");
    let Some(system) = setup.start(&webhooks(&endpoint)).await else { return };
    system.publish(&events()[..MESSAGES / 2]).await;
    system.wait_done().await;
    secure.assert_nothing_was_denied().await;

    let master = secure.redis.sentinel_master().await;
    secure.redis.kill9();
    wait_until("a new master", LIMIT, async || secure.redis.sentinel_master().await != master).await;
    system.publish(&events()[MESSAGES / 2..]).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
}

#[tokio::test]
async fn all_goes_on_over_tls_in_a_cluster() {
    let secure = SecureRedis::start(RedisKind::Cluster).await;
    let endpoint = receiver(ok());
    let Some(system) = secure.system().partitions(2).start(&webhooks(&endpoint)).await else { return };
    system.publish(&events()).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
    secure.assert_nothing_was_denied().await;
}

#[tokio::test]
async fn a_wrong_authority_password_or_certificate_and_plain_text_are_refused_by_name() {
    let secure = SecureRedis::start(RedisKind::Single).await;
    let unreadable = ("BUNDLEHOOK_REDIS_CA_BUNDLE", "/nowhere/ca.pem".to_owned());
    let no_certificate = ("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&secure.client.key).to_owned());
    let more = [
        ("no file", vec![unreadable], "`/nowhere/ca.pem`: No such file"),
        ("no certificate", vec![no_certificate], "UnknownIssuer"),
    ];
    assert_refused(&secure, more).await;
}

#[tokio::test]
async fn the_same_is_refused_by_name_with_sentinels() {
    assert_refused(&SecureRedis::start(RedisKind::Sentinel).await, []).await;
}

#[tokio::test]
async fn the_same_is_refused_by_name_in_a_cluster() {
    assert_refused(&SecureRedis::start(RedisKind::Cluster).await, []).await;
}

/// What is changed of the settings, and what must be said then.
type Row = (&'static str, Vec<(&'static str, String)>, &'static str);

/// Tries what is wrong anywhere, and `more`.
async fn assert_refused(secure: &SecureRedis, more: impl IntoIterator<Item = Row>) {
    let stranger = Authority::new();
    let (bundle, forged) = (stranger.bundle(), stranger.identity("bundlehook"));
    let forged = vec![
        ("BUNDLEHOOK_REDIS_CERTIFICATE", text(&forged.certificate).to_owned()),
        ("BUNDLEHOOK_REDIS_CERTIFICATE_KEY", text(&forged.key).to_owned()),
    ];
    let authority = vec![("BUNDLEHOOK_REDIS_CA_BUNDLE", text(&bundle).to_owned())];
    let password = vec![("BUNDLEHOOK_REDIS_URL", secure.url("rediss", "battery"))];
    let plain = vec![("BUNDLEHOOK_REDIS_URL", secure.url("redis", PASSWORD))];
    let rows: [Row; 4] = [
        ("another authority", authority, "UnknownIssuer"),
        ("a certificate of another authority", forged, "UnknownCA"),
        ("another password", password, "Password authentication failed"),
        ("plain text", plain, "if the server expects TLS"),
    ];
    let Some(kafka) = kafka().await else { return };
    let mut wrong = Vec::new();
    for (name, changes, expected) in rows.into_iter().chain(more) {
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
pub(super) fn write(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).expect("the rig's folder can be written");
}

#[tokio::test]
async fn a_password_an_authority_and_certificates_that_change_need_no_restart() {
    let secure = SecureRedis::start(RedisKind::Single).await;
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

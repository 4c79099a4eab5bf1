//! Files that are read only as a role starts: when they change, the role begins anew under the same process id, and
//! nothing is lost or repeated.

use std::fs;
use std::path::{Path, PathBuf};

use futures_util::future::join;
use rcgen::CertificateParams;
use serde_json::json;
use tempfile::NamedTempFile;

use super::kafka::{PREFIX, SecureKafka, properties};
use super::redis::{SecureRedis, write};
use super::{MESSAGES, PASSWORD, assert_all_came, events, webhooks};
use crate::secrets::{SECRET, keys, publish};
use crate::support::authority::{text, tls_server};
use crate::support::{
    Authority, LIMIT, Process, Receiver, RedisKind, Role, Setup, Step, System, egress, event, hostile, ok,
    receiver, system, wait_until, webhook,
};

const NEW_PASSWORD: &str = "battery-staple";
const BEGAN: &str = "bundlehook_start_time_seconds";

/// Makes roles begin anew at once.
fn soon(setup: Setup) -> Setup {
    setup.env("BUNDLEHOOK_RELOAD_WITHIN", "10ms")
}

/// When a process began.
async fn began(process: &Process) -> f64 {
    process.metric(BEGAN).await.expect("each process tells when it began")
}

/// How many pipes a process has open; librdkafka wakes its threads by them.
fn pipes(process: &Process) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", process.pid())).expect("it runs").flatten();
    let leads_to = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    open.filter_map(leads_to).filter(|to| to.to_string_lossy().starts_with("pipe:")).count()
}

/// Changes something, and waits until the role has begun anew because of it, under the same process id.
async fn renewed(role: &Role, partitions: i32, change: impl AsyncFnOnce()) {
    let (pid, before) = (role.process.pid(), began(&role.process).await);
    let open = pipes(&role.process);
    change().await;
    wait_until("the role to begin anew", LIMIT, async || {
        assert_eq!(role.process.exit_status(), None, "{}", role.process.stderr());
        let answer = role.process.get("/metrics").await;
        answer.is_ok_and(|(_, page)| {
            let line = page.lines().find_map(|line| line.strip_prefix(BEGAN)?.strip_prefix(' '));
            line.and_then(|at| at.parse().ok()).is_some_and(|at: f64| at > before)
        })
    })
    .await;
    role.wait_claimed(partitions).await;
    assert_eq!(role.process.pid(), pid);
    assert!(open > 10, "a role has some pipes open, not {open}");
    // For a moment there is one more client of Kafka, which asks what topics there are.
    wait_until("the pipes from before to be closed", LIMIT, async || pipes(&role.process) < open * 3 / 2)
        .await;
}

/// Waits until a role says that what it finds can't be used, with these words.
async fn refused(role: &Role, expected: &[&str]) {
    wait_until(&format!("{expected:?} in the log"), LIMIT, async || {
        let said = role.process.stderr();
        let mut lines = said.lines().filter(|line| line.contains("changed files can't be used"));
        lines.any(|line| expected.iter().all(|part| line.contains(part)))
    })
    .await;
}

/// A system whose `deliver` takes what it tells Kafka from a file, which is named last.
async fn by_a_file(secure: SecureKafka, endpoint: &Receiver) -> Option<(System, Authority, PathBuf)> {
    let aggregate = properties(&secure.by_password("PLAIN", "bundlehook-aggregate"));
    let deliver = properties(&secure.by_password("SCRAM-SHA-512", "bundlehook-deliver"));
    let file = secure.authority.bundle().with_file_name("kafka-properties");
    write(&file, deliver.replace(',', "\n"));
    let addr = secure.sasl.addr().to_string();
    let setup = soon(system(2_000).prefix(PREFIX))
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_BROKERS", &addr)
        .env_of("aggregate", "BUNDLEHOOK_KAFKA_PROPERTIES", &aggregate)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_BROKERS", &addr)
        .env_of("deliver", "BUNDLEHOOK_KAFKA_PROPERTIES_FILE", text(&file));
    let system = setup.kafka(secure.kafka).start(&webhooks(endpoint)).await?;
    Some((system, secure.authority, file))
}

/// Gives the user of `deliver` another password.
async fn change_password(system: &System) {
    let config = format!("SCRAM-SHA-512=[password={NEW_PASSWORD}]");
    let user = ["--alter", "--entity-type", "users", "--entity-name", "bundlehook-deliver", "--add-config"];
    system.kafka.tool("kafka.admin.ConfigCommand", &[&user[..], &[&config]].concat()).await;
}

fn replace(file: &Path, from: &str, to: &str) {
    let held = fs::read_to_string(file).expect("it is there");
    assert!(held.contains(from));
    // As a mounted secret is replaced: in one step.
    let new = file.with_extension("new");
    write(&new, held.replace(from, to));
    fs::rename(new, file).expect("the rig's folder can be written");
}

#[tokio::test]
async fn a_password_and_an_authority_of_kafka_that_change_are_taken_in_without_a_restart() {
    let Some(secure) = SecureKafka::start(&["aggregate", "deliver"]).await else { return };
    let (endpoint, bundle) = (receiver(ok()), secure.authority.bundle());
    let Some((system, _authority, file)) = by_a_file(secure, &endpoint).await else { return };
    let all = events();
    let mut rest = all.chunks(MESSAGES / 5);
    let mut publish = async || system.publish(rest.next().expect("there are five")).await;
    publish().await;

    // Messages come meanwhile, and windows are open.
    renewed(&system.deliver, 1, async || {
        change_password(&system).await;
        replace(&file, PASSWORD, NEW_PASSWORD);
        publish().await;
    })
    .await;
    publish().await;

    // Both roles trust one more authority, as where the brokers' certificates are to be of another one soon.
    let another = fs::read_to_string(Authority::new().bundle()).expect("it is there");
    let (aggregate, deliver) = (&system.aggregate, &system.deliver);
    let changed = async || {
        let trusted = fs::read_to_string(&bundle).expect("it is there");
        write(&bundle, trusted + &another);
        publish().await;
    };
    join(renewed(aggregate, 1, changed), renewed(deliver, 1, async || ())).await;
    publish().await;
    system.wait_done().await;
    assert_all_came(&endpoint);
    let is_refusal = |line: &&str| line.contains("ERROR");
    for role in [aggregate, deliver] {
        let said = role.process.stderr();
        assert_eq!(said.lines().find(is_refusal), None, "{said}");
    }
}

#[tokio::test]
async fn what_can_not_be_used_is_refused_by_name_and_the_role_goes_on_with_what_it_has() {
    let Some(secure) = SecureKafka::start(&["aggregate", "deliver"]).await else { return };
    let (endpoint, bundle) = (receiver(ok()), secure.authority.bundle());
    let Some((system, _authority, file)) = by_a_file(secure, &endpoint).await else { return };
    let (deliver, before) = (&system.deliver, began(&system.deliver.process).await);
    let (held, trusted) = (fs::read(&file).expect("it is there"), fs::read(&bundle).expect("it is there"));
    let pending = async || deliver.process.metric("bundlehook_reload_pending").await;
    assert_eq!(pending().await, Some(0.0));
    system.publish(&events()[..MESSAGES / 2]).await;

    replace(&file, PASSWORD, "no-such-password");
    refused(deliver, &[text(&file), "Authentication failed"]).await;
    assert_eq!(pending().await, Some(1.0));
    replace(&file, "sasl.password=no-such-password", "sasl.pass=s3cret");
    refused(deliver, &[text(&file), "`sasl.pass`"]).await;
    write(&file, "");
    refused(deliver, &[text(&file), "the file is empty"]).await;
    fs::remove_file(&file).expect("it is there");
    refused(deliver, &[text(&file), "can't be read"]).await;
    write(&file, held);
    write(&bundle, "no certificate");
    refused(deliver, &[text(&bundle), "ssl.ca.location"]).await;
    refused(&system.aggregate, &[text(&bundle), "ssl.ca.location"]).await;
    write(&bundle, fs::read(Authority::new().bundle()).expect("it is there"));
    refused(deliver, &[text(&bundle), "certificate verify failed"]).await;

    system.publish(&events()[MESSAGES / 2..]).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
    write(&bundle, trusted);
    wait_until("nothing to be pending", LIMIT, async || pending().await == Some(0.0)).await;
    let said = deliver.process.stderr();
    assert_eq!(said.matches("changed files can't be used").count(), 6, "each is told once: {said}");
    assert!(!said.contains("s3cret") && !said.contains(PASSWORD), "{said}");
    assert!((began(&deliver.process).await - before).abs() < f64::EPSILON, "it never began anew");
}

#[tokio::test]
async fn a_password_and_an_authority_of_a_redis_cluster_that_change_are_taken_in_without_a_restart() {
    let secure = SecureRedis::start(RedisKind::Cluster).await;
    let url = secure.authority.bundle().with_file_name("redis-url");
    write(&url, secure.url("rediss", PASSWORD));
    let endpoint = receiver(ok());
    let mut setup = soon(system(2_000)).env("BUNDLEHOOK_REDIS_URL_FILE", text(&url));
    for (name, value) in &secure.settings()[1..] {
        setup = setup.env(name, value);
    }
    let setup = setup.without("BUNDLEHOOK_REDIS_URL").partitions(2);
    let Some(system) = setup.start(&webhooks(&endpoint)).await else { return };
    let (aggregate, deliver) = (&system.aggregate, &system.deliver);
    let set_password = async |rule: &str| {
        for done in secure.redis.ask_all::<()>(&["ACL", "SETUSER", "bundlehook", rule]).await {
            done.expect("a server takes a new password");
        }
    };
    system.publish(&events()[..MESSAGES / 2]).await;

    let client = secure.authority.identity("another");
    let changed = async || {
        set_password(&format!(">{NEW_PASSWORD}")).await;
        write(&url, secure.url("rediss", NEW_PASSWORD));
        write(&secure.client.certificate, fs::read(&client.certificate).expect("it is there"));
        write(&secure.client.key, fs::read(&client.key).expect("it is there"));
    };
    join(renewed(aggregate, 2, changed), renewed(deliver, 2, async || ())).await;
    set_password(&format!("<{PASSWORD}")).await;
    system.publish(&events()[MESSAGES / 2..]).await;
    system.wait_done().await;
    assert_all_came(&endpoint);
}

/// A key that is not there yet stops nothing but the webhooks that it seals.
#[tokio::test]
async fn a_sealing_key_and_an_egress_proxy_that_are_changed_in_their_files_count_from_then_on() {
    let (endpoint, way_out, keys) = (receiver(ok()), egress(), keys());
    let file = || NamedTempFile::new().expect("there is room for a file");
    let (known, proxy) = (file(), file());
    // Begins with another key, and with a way out that is none.
    let other = "other:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    write(known.path(), other);
    write(proxy.path(), "http://127.0.0.1:1");
    let setup = soon(system(3_000))
        .env("BUNDLEHOOK_SEALING_KEYS", text(known.path()))
        .env("BUNDLEHOOK_EGRESS_PROXY_FILE", text(proxy.path()));
    let Some(system) = setup.start(&[]).await else { return };
    let settings = [webhook("wh", "ws", &endpoint.url("/"), json!({"secrets": [SECRET]}))];
    let published = publish(&system, &settings, Some(&keys)).await;
    assert!(published.status.success(), "{published:?}");
    system.settings_count().await;
    system.publish(&[event("ws", "c", "1")]).await;
    system.wait_records("delivery-attempts", |records| !records.is_empty()).await;

    renewed(&system.deliver, 1, async || {
        let key = fs::read_to_string(keys.path()).expect("it is there");
        write(known.path(), format!("{other}{key}"));
    })
    .await;
    assert!(endpoint.requests().is_empty());
    renewed(&system.deliver, 1, async || write(proxy.path(), format!("http://{}", way_out.addr()))).await;
    let requests = endpoint.wait_for(|seen| !seen.is_empty(), "the request").await;
    let genuine = standardwebhooks::Webhook::new(SECRET).expect("it is a secret");
    genuine.verify(&requests[0].body, &requests[0].headers).expect("it was signed with what was sealed");
    system.wait_delivered().await;
    assert_eq!((endpoint.requests().len(), way_out.asked().len()), (1, 1));
}

/// An endpoint whose authority is not trusted yet fails until it is.
#[tokio::test]
async fn an_authority_of_endpoints_that_is_added_to_its_file_counts_from_then_on() {
    let (authority, another) = (Authority::new(), Authority::new());
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("it is a name");
    let (certificate, key) = authority.sign(&params);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let endpoint = hostile(vec![Step::Read, Step::Send(answer)], Some(tls_server(&certificate, &key)));
    let trusted = another.bundle();
    // So long that it is not disabled meanwhile.
    let setup = soon(system(3_000)).env("BUNDLEHOOK_RETRY_SCHEDULE", "5s");
    let setup = setup.env("BUNDLEHOOK_CA_BUNDLE", text(&trusted));
    let url = format!("https://{}/", endpoint.addr());
    let Some(system) = setup.start(&[webhook("wh", "ws", &url, json!({}))]).await else { return };
    let outcomes = async |least: usize| {
        let attempts = system.wait_records("delivery-attempts", |attempts| attempts.len() >= least).await;
        attempts.iter().map(|attempt| attempt.json()["outcome"].clone()).collect::<Vec<_>>()
    };
    system.publish(&[event("ws", "c", "1")]).await;
    assert_eq!(outcomes(1).await[0], "tls");

    write(&trusted, "no certificate");
    refused(&system.deliver, &[text(&trusted), "no certificate"]).await;
    let both = [&authority, &Authority::new()].map(|one| fs::read(one.bundle()).expect("it is there"));
    renewed(&system.deliver, 1, async || write(&trusted, both.concat())).await;
    system.wait_delivered().await;
    assert_eq!(outcomes(1).await.last(), Some(&json!("delivered")));
}

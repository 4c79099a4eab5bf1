//! The rig itself works as the other tests rely on.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{self, Fault, Outgoing, RedisKind};

#[tokio::test]
async fn records_come_back_from_kafka_as_they_went_in() {
    let Some(kafka) = support::kafka().await else {
        return;
    };
    let topic = format!("{}round-trip", kafka.prefix());
    kafka.create_topic(&topic, 3, &[("message.timestamp.type", "CreateTime")]).await;
    let sent = support::produce(
        kafka.servers(),
        &topic,
        [
            Outgoing::new("k", "first").header("h", "1").at(1_700_000_000_123).partition(2),
            Outgoing::tombstone("k").partition(2),
            Outgoing::empty().partition(0),
        ],
    )
    .await;
    assert_eq!(sent, [(2, 0), (2, 1), (0, 0)]);

    let read = support::read_topic(kafka.servers(), &topic).await;

    assert_eq!(read.len(), 3);
    assert_eq!((read[0].partition, &read[0].key, &read[0].value), (0, &None, &None));
    assert_eq!((read[1].key(), read[1].text(), read[1].header("h")), ("k", "first", Some("1")));
    assert_eq!(read[1].timestamp, 1_700_000_000_123);
    assert_eq!((read[2].key(), &read[2].value), ("k", &None));
    assert_eq!(support::end_offsets(kafka.servers(), &topic).await, [1, 0, 2]);
    let committed = support::committed(kafka.servers(), "nobody", &topic).await;
    assert!(committed.len() == 3 && committed.iter().all(|partition| partition.offset.is_none()));
}

#[tokio::test]
async fn a_killed_broker_keeps_what_it_acknowledged() {
    let Some(kafka) = support::Kafka::start(1).await else {
        return;
    };
    kafka.create_topic("t", 1, &[]).await;
    support::produce(kafka.servers(), "t", [Outgoing::new("k", "before")]).await;

    kafka.kill9(0);
    kafka.restart(0).await;
    support::produce(kafka.servers(), "t", [Outgoing::new("k", "after")]).await;

    let read = support::read_topic(kafka.servers(), "t").await;
    assert_eq!(read.iter().map(support::Record::text).collect::<Vec<_>>(), ["before", "after"]);
}

#[tokio::test]
async fn three_brokers_bear_the_loss_of_one() {
    let Some(kafka) = support::Kafka::start(3).await else {
        return;
    };
    kafka.create_topic("t", 3, &[]).await;

    kafka.kill9(1);
    let keys = (0..30).map(|key| Outgoing::new(key.to_string(), "while one is down"));
    support::produce(kafka.servers(), "t", keys).await;
    kafka.restart(1).await;
    kafka.kill9(2);

    assert_eq!(support::read_topic(kafka.servers(), "t").await.len(), 30);
}

#[tokio::test]
async fn any_broker_takes_records() {
    let broker = support::broker().await;
    let topic = format!("{}any", broker.prefix());
    broker.create_topic(&topic, 2, &[]).await;

    support::produce(broker.servers(), &topic, [Outgoing::new("a", "1"), Outgoing::new("b", "2")]).await;

    assert_eq!(support::read_topic(broker.servers(), &topic).await.len(), 2);
}

#[tokio::test]
async fn redis_loses_everything_when_killed() {
    let redis = support::redis(RedisKind::Single).await;
    redis.command::<()>(&["SET", "k", "v"]).await;

    redis.kill9();
    redis.restart().await;

    assert_eq!(redis.command::<Option<String>>(&["GET", "k"]).await, None);
}

#[tokio::test]
async fn redis_keeps_what_it_persists() {
    let redis =
        support::redis_with(RedisKind::Single, &["--appendonly", "yes", "--appendfsync", "always"]).await;
    redis.command::<()>(&["SET", "k", "v"]).await;

    redis.kill9();
    redis.restart().await;
    assert_eq!(redis.command::<Option<String>>(&["GET", "k"]).await.as_deref(), Some("v"));

    redis.flushall().await;
    assert_eq!(redis.command::<Option<String>>(&["GET", "k"]).await, None);
}
#[tokio::test]
async fn sentinels_name_the_replica_once_the_master_is_gone() {
    let redis = support::redis(RedisKind::Sentinel).await;

    redis.kill9();

    support::wait_until("a new master", support::LIMIT, async || {
        redis.sentinel_master().await != redis.addr()
    })
    .await;
}

#[tokio::test]
async fn a_redis_cluster_shares_the_slots() {
    let redis = support::redis(RedisKind::Cluster).await;
    let answers: String = redis.command(&["CLUSTER", "INFO"]).await;
    assert!(answers.contains("cluster_slots_ok:16384"), "{answers}");
}

#[tokio::test]
async fn a_receiver_records_requests_and_answers_as_told() {
    let receiver = support::receiver(support::fail_first(1));
    let url = receiver.url("/hook?a=b");
    assert_eq!(post(&url, "one").await.expect("it answers"), 500);
    assert_eq!(post(&url, "two").await.expect("it answers"), 200);

    let seen = receiver.wait_for(|requests| requests.len() == 2, "two requests").await;
    assert_eq!((seen[0].number, seen[0].text(), &*seen[0].path), (1, "one", "/hook?a=b"));
    assert_eq!((seen[1].text(), seen[1].header("x-test")), ("two", Some("yes")));
    assert!(seen[1].arrived >= seen[0].arrived);

    receiver.set(support::answer(|_| support::Answer::hang_up())).await;
    post(&url, "three").await.expect_err("it hangs up");
    receiver.set(support::refuse()).await;
    let refused = post(&url, "four").await.expect_err("the port is closed");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    receiver.set(support::status(202)).await;
    assert_eq!(post(&url, "five").await.expect("it answers"), 202);
    assert_eq!(
        receiver.requests().iter().map(|request| request.text().to_owned()).collect::<Vec<_>>(),
        ["one", "two", "three", "five"]
    );
}

#[tokio::test]
async fn a_receiver_that_hangs_has_seen_the_request() {
    let receiver = support::receiver(support::hang());
    let url = receiver.url("/");
    let pending = tokio::spawn(async move { post(&url, "x").await });

    receiver.wait_for(|requests| requests.len() == 1, "the request").await;

    assert!(!pending.is_finished());
    receiver.set(support::refuse()).await;
    pending.await.expect("no panic").expect_err("the connection is closed");
}

#[tokio::test]
async fn a_proxy_cuts_stalls_and_delays() {
    let receiver = support::receiver(support::ok());
    let proxy = support::proxy(receiver.addr());
    let url = format!("http://{}/", proxy.addr());
    assert_eq!(post(&url, "passes").await.expect("it answers"), 200);

    proxy.set(Fault::Delay(Duration::from_millis(50))).await;
    let begun = Instant::now();
    assert_eq!(post(&url, "late").await.expect("it answers"), 200);
    assert!(begun.elapsed() >= Duration::from_millis(100));

    proxy.set(Fault::Stall).await;
    let stalled_url = url.clone();
    let stalled = tokio::spawn(async move { post(&stalled_url, "waits").await });
    let mut open = tokio::net::TcpStream::connect(proxy.addr()).await.expect("connections can be made");
    proxy.set(Fault::None).await;
    assert_eq!(stalled.await.expect("no panic").expect("it answers in the end"), 200);

    proxy.set(Fault::Cut).await;
    let reset = open.read(&mut [0]).await.expect_err("the connection was reset");
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
    let refused = post(&url, "cut").await.expect_err("the port is closed");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    proxy.set(Fault::None).await;
    assert_eq!(post(&url, "passes again").await.expect("it answers"), 200);
    assert_eq!(receiver.requests().len(), 4);
}

#[tokio::test]
async fn a_process_is_run_to_its_end_and_heard() {
    let finished = support::process("--help").run().await;

    assert!(finished.status.success(), "{finished:?}");
    assert!(finished.stdout.contains("bundlehook"), "{finished:?}");
}

/// Posts a body over a new connection; answers the status.
async fn post(url: &str, body: &str) -> std::io::Result<u16> {
    let (addr, path) = url.trim_start_matches("http://").split_once('/').expect("the URL has a path");
    let mut connection = tokio::net::TcpStream::connect(addr).await?;
    let head = format!("POST /{path} HTTP/1.1\r\nhost: {addr}\r\nx-test: yes\r\nconnection: close\r\n");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

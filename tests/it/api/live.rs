//! The stream of events.

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;

use crate::commands::{events, start};
use crate::support::{Console, LIMIT, claims, ok, receiver, signed, token};

/// Reads the stream until a text comes, or to its end.
async fn wait_for(console: &Console, token: &str, part: &str, then: impl AsyncFnOnce()) -> String {
    let stream = tokio::net::TcpStream::connect(console.addr()).await.expect("the console listens");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("/api/v1/events")
        .header("host", console.addr().to_string())
        .header("authorization", format!("Bearer {token}"))
        .body(Empty::<bytes::Bytes>::new())
        .expect("the request is sound");
    let mut response = sender.send_request(request).await.expect("it answers");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    then().await;
    let mut text = String::new();
    while !text.contains(part) {
        let frame = tokio::time::timeout(LIMIT, response.frame()).await.expect("something comes");
        let Some(frame) = frame else { break };
        let frame = frame.expect("it is whole");
        text.push_str(std::str::from_utf8(frame.data_ref().expect("it is data")).expect("it is text"));
    }
    connection.abort();
    text
}

#[tokio::test]
async fn attempts_and_changes_are_told_to_those_whose_they_are() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let editor = token("ws", "editor");
    let text = wait_for(&console, &editor, "event: attempt", async || {
        system.publish(&events(0..1)).await;
    })
    .await;
    assert!(text.contains(r#"data: {"webhook_id":"wh"}"#), "{text}");
    // By then the log shows it.
    assert_eq!(console.get("/api/v1/webhooks/wh/log").await.as_array().map(Vec::len), Some(1));

    let text = wait_for(&console, &token("other", "viewer"), "wh-other", async || {
        system.publish(&events(1..2)).await;
        let other = crate::support::webhook("wh-other", "other", "http://127.0.0.1:9/", json!({}));
        system.settings(std::slice::from_ref(&other)).await;
        crate::support::wait_until("it to be known", LIMIT, async || {
            console
                .call("GET", "/api/v1/webhooks/wh-other", &token("other", "viewer"), &json!(null))
                .await
                .status
                == 200
        })
        .await;
        system.settings(&[other]).await;
    })
    .await;
    assert!(!text.contains(r#""wh""#), "{text}");
}

/// Clocks may differ by 30 s, so this token is good for some seconds more.
#[tokio::test]
async fn the_stream_ends_with_the_token_and_is_not_there_for_others() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let console = system.console(&[]).await;
    let mut claims = claims("ws", "viewer");
    claims["exp"] = json!(bundlehook::io::clock::now().0 / 1000 - 15);
    let stream = signed(&claims);
    let to_its_end = wait_for(&console, &stream, "never said", async || {});
    // Without an end there would be a comment now and then for ever.
    tokio::time::timeout(LIMIT, to_its_end).await.expect("it ends");
    let path = "/api/v1/events?webhook_id=wh";
    for (of, expected) in [(signed(&claims), 401), (token("other", "editor"), 404)] {
        assert_eq!(console.call("GET", path, &of, &json!(null)).await.status, expected);
    }
}

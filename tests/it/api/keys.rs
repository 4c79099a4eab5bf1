//! Which keys tokens are believed by.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey as _, rand_core::OsRng};
use serde_json::{Value, json};

use crate::commands::start;
use crate::support::{Console, LIMIT, claims, ok, receiver, token, wait_until};

fn ec() -> EncodingKey {
    let made = rcgen::KeyPair::generate().expect("a key can be made");
    EncodingKey::from_ec_der(made.serialized_der())
}

fn rsa() -> EncodingKey {
    let made = RsaPrivateKey::new(&mut OsRng, 2048).expect("a key can be made");
    EncodingKey::from_rsa_der(made.to_pkcs1_der().expect("it can be written").as_bytes())
}

/// The public half of a key.
fn public(key: &EncodingKey, algorithm: Algorithm, id: &str) -> Jwk {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).expect("it has a public key");
    jwk.common.key_id = Some(id.to_owned());
    jwk
}

fn sign(key: &EncodingKey, algorithm: Algorithm, id: Option<&str>) -> String {
    let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, &claims("ws", "viewer"), key).expect("claims can be signed")
}

async fn status(console: &Console, token: &str) -> u16 {
    console.call("GET", "/api/v1/webhooks", token, &Value::Null).await.status
}

#[tokio::test]
async fn tokens_are_believed_by_the_keys_and_algorithms_that_are_set() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let (ec, rsa, other, other_rsa) = (self::ec(), self::rsa(), self::ec(), self::rsa());
    let keys = [public(&ec, Algorithm::ES256, "k1"), public(&rsa, Algorithm::RS256, "k2")];
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, json!({"keys": keys}).to_string()).expect("it can be written");
    let console = system.console(&[("BUNDLEHOOK_JWT_JWKS", &file.to_string_lossy())]).await;
    let secret = EncodingKey::from_secret(serde_json::to_string(&keys[0]).expect("it is JSON").as_bytes());
    for (what, token, expected) in [
        ("ES256", sign(&ec, Algorithm::ES256, Some("k1")), 200),
        ("RS256", sign(&rsa, Algorithm::RS256, Some("k2")), 200),
        ("without an id", sign(&rsa, Algorithm::RS256, None), 200),
        ("another id", sign(&ec, Algorithm::ES256, Some("k2")), 401),
        ("another key", sign(&other, Algorithm::ES256, Some("k1")), 401),
        ("another key of RSA", sign(&other_rsa, Algorithm::RS256, Some("k2")), 401),
        ("another algorithm", sign(&rsa, Algorithm::RS512, Some("k2")), 401),
        // The public key as a secret.
        ("HS256", sign(&secret, Algorithm::HS256, Some("k1")), 401),
        ("a shared secret", token("ws", "viewer"), 401),
    ] {
        assert_eq!(status(&console, &token).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_new_key_is_believed_without_a_restart_and_a_broken_file_changes_nothing() {
    let Some(system) = start(&receiver(ok()), json!({}), "1s").await else { return };
    let (first, second) = (self::ec(), self::ec());
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("jwks.json");
    let write = |text: String| {
        let new = folder.path().join("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &file));
        written.expect("it can be written");
    };
    write(json!({"keys": [public(&first, Algorithm::ES256, "k1")]}).to_string());
    let console = system.console(&[("BUNDLEHOOK_JWT_JWKS", &file.to_string_lossy())]).await;
    let (by_first, by_second) =
        (sign(&first, Algorithm::ES256, Some("k1")), sign(&second, Algorithm::ES256, Some("k2")));
    assert_eq!((status(&console, &by_first).await, status(&console, &by_second).await), (200, 401));

    write("{".to_owned());
    wait_until("the broken file to be noticed", LIMIT, async || {
        console.process.stderr().contains("stay in force")
    })
    .await;
    assert_eq!(status(&console, &by_first).await, 200);

    write(json!({"keys": [public(&second, Algorithm::ES256, "k2")]}).to_string());
    // A valid token is asked for, so that failures are not limited.
    wait_until("the former key to be forgotten", LIMIT, async || status(&console, &by_first).await == 401)
        .await;
    assert_eq!(status(&console, &by_second).await, 200);
}

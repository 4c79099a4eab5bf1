//! Signatures, checked by the reference libraries on requests that were really sent, with the functions that the
//! documentation shows.

#[path = "../examples/verify.rs"]
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Request, event, ok, receiver, system, webhook};

const FIRST: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const SECOND: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The block of a language on the page.
fn snippet(language: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/delivery.md")).expect("the page is there");
    let block = page.split(&format!("```{language}\n")).nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the page has the block").to_owned()
}

/// What a program says of a request, which it gets as JSON on its standard input.
async fn says(program: &Path, code: &str, secret: &str, request: &Request, body: &[u8]) -> bool {
    let headers: BTreeMap<_, _> = request
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("it is text")))
        .collect();
    let body = std::str::from_utf8(body).expect("a body is UTF-8");
    let input = json!({"secret": secret, "headers": headers, "body": body}).to_string();
    let flag = if program.ends_with("node") { "-e" } else { "-c" };
    let mut child = tokio::process::Command::new(program)
        .args([flag, code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `make setup` installs it", program.display()));
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).await.expect("it is read");
    let output = child.wait_with_output().await.expect("it ends");
    match &*String::from_utf8_lossy(&output.stdout) {
        "verified" => true,
        "refused" => false,
        said => panic!("{} said `{said}`", program.display()),
    }
}

#[tokio::test]
async fn every_active_secret_signs_and_the_documented_functions_verify_it() {
    let receiver = receiver(ok());
    let signed = webhook("wh", "ws", &receiver.url("/"), json!({"secrets": [FIRST, SECOND]}));
    let Some(system) = system(3_000).start(&[signed]).await else { return };
    let text = "Unicode: \u{1f642} \"quoted\" \u{2028} end";
    system.publish(&[event("ws", "c", text)]).await;
    let requests = receiver.wait_for(|seen| !seen.is_empty(), "the request").await;
    let request = &requests[0];
    assert_eq!(
        snippet("rust"),
        include_str!("../examples/verify.rs"),
        "the page shows what is compiled here"
    );

    // The library is the published one, as pinned: what is imported belongs to that release.
    let pinned = std::fs::read_to_string(root().join("deploy/local/requirements.txt")).expect("it is there");
    let pinned =
        pinned.lines().find_map(|line| line.strip_prefix("standardwebhooks==")).expect("it is pinned");
    let python = format!(
        "{}\nimport json, sys, importlib.metadata as installed\n\
         release = installed.distribution('standardwebhooks')\n\
         assert release.version == '{pinned}'\n\
         used = sys.modules[Webhook.__module__].__file__\n\
         assert used in [str(release.locate_file(file)) for file in release.files]\n\
         i = json.load(sys.stdin)\n\
         ok = verify(i['secret'], i['headers'], i['body'].encode())\n\
         print('verified' if ok else 'refused', end='')",
        snippet("python")
    );
    let javascript = format!(
        "{}\nconst i = JSON.parse(require('fs').readFileSync(0));\n\
         process.stdout.write(verify(i.secret, i.headers, Buffer.from(i.body)) ? 'verified' : 'refused');",
        snippet("javascript")
    );
    let changed = String::from_utf8_lossy(&request.body).replace("quoted", "forged").into_bytes();
    for (secret, body, genuine) in [
        (FIRST, &*request.body, true),
        (SECOND, &request.body, true),
        (OTHER, &request.body, false),
        (FIRST, &changed, false),
    ] {
        assert_eq!(verify::verify(secret, &request.headers, body), genuine, "Rust");
        let venv = root().join("deploy/local/target/python/bin/python");
        assert_eq!(says(&venv, &python, secret, request, body).await, genuine, "Python");
        assert_eq!(says(Path::new("node"), &javascript, secret, request, body).await, genuine, "JavaScript");
    }
}

//! A browser: Debian's Chromium, driven through `tests/console/driver.mjs`.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use super::{background, wait_until};

/// A browser with one page.
pub struct Browser {
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    _child: Child,
}

impl Browser {
    /// Starts it at a page.
    pub async fn open(url: &str, width: u32, scheme: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "node"])
            .arg(root.join("tests/console/driver.mjs"))
            .arg(root.join("deploy/local/target/node"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Node makes what it inherits non-blocking, for everybody who writes there: the test's own output would break off.
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node can be started");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut errors = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        background().spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                eprintln!("driver: {line}");
            }
        });
        let browser = Self { pipes: Mutex::new((input, output)), _child: child };
        browser.act("open", json!({"url": url, "width": width, "height": 900, "scheme": scheme})).await;
        browser
    }

    /// Does something; it must succeed.
    pub async fn act(&self, action: &str, mut args: Value) -> Value {
        args["action"] = action.into();
        let mut pipes = self.pipes.lock().await;
        let written = pipes.0.write_all(format!("{args}\n").as_bytes()).await;
        written.expect("the driver listens");
        let said = pipes.1.next_line().await.expect("the driver speaks").expect("the driver goes on");
        let mut said: Value = serde_json::from_str(&said).expect("it speaks JSON");
        assert!(said["failed"].is_null(), "{args}: {}", said["failed"]);
        said["done"].take()
    }

    /// Clicks what has a role and a name.
    pub async fn click(&self, role: &str, name: &str) {
        self.act("click", json!({"role": role, "name": name})).await;
    }

    /// Fills in a field.
    pub async fn fill(&self, label: &str, text: &str) {
        self.act("fill", json!({"label": label, "text": text})).await;
    }

    /// Waits until something of a selector shows a text, without any reload.
    pub async fn wait_text(&self, selector: &str, text: &str) {
        self.act("wait_text", json!({"selector": selector, "text": text})).await;
    }

    /// How many there are.
    pub async fn count(&self, selector: &str) -> u64 {
        self.act("count", json!({"selector": selector})).await.as_u64().expect("it is a number")
    }

    /// A text.
    pub async fn text(&self, selector: &str) -> String {
        self.act("text", json!({"selector": selector})).await.as_str().expect("it is a text").to_owned()
    }

    /// The tree that a screen reader sees.
    pub async fn aria(&self, selector: &str) -> String {
        self.act("aria", json!({"selector": selector})).await.as_str().expect("it is a text").to_owned()
    }

    /// Asserts that nothing is wrong by axe, in light and dark, on a desktop and a phone, and that nothing is cut off.
    pub async fn assert_accessible(&self, state: &str) {
        for (width, scheme) in [(1200, "light"), (1200, "dark"), (390, "dark"), (390, "light")] {
            self.act("view", json!({"width": width, "height": 900, "scheme": scheme})).await;
            let found = self.act("axe", json!({})).await;
            assert_eq!(found, json!([]), "{state}, {width} wide, {scheme}");
            let wide = self.act("wide", json!({})).await;
            assert_eq!(wide, 0, "{state}, {width} wide, {scheme}: it must be scrolled sideways");
            if let Some(folder) = std::env::var_os("BUNDLEHOOK_TEST_SCREENSHOTS") {
                let path =
                    Path::new(&folder).join(format!("{}-{width}-{scheme}.png", state.replace(' ', "-")));
                self.act("shot", json!({"path": path})).await;
            }
        }
        self.act("view", json!({"width": 1200, "height": 900, "scheme": "light"})).await;
    }

    /// Goes on with the Tab key until something has the focus.
    pub async fn tab_to(&self, what: &str) {
        let mut seen = Vec::new();
        for _ in 0..80 {
            self.act("press", json!({"key": "Tab"})).await;
            let focused = self.focused().await;
            if focused == what {
                return;
            }
            seen.push(focused);
        }
        panic!("`{what}` is not reached by Tab, only {seen:#?}");
    }

    /// What has the focus.
    pub async fn focused(&self) -> String {
        self.act("focused", json!({})).await.as_str().expect("it is a text").to_owned()
    }

    /// Presses a key.
    pub async fn press(&self, key: &str) {
        self.act("press", json!({"key": key})).await;
    }

    /// Asserts that no script failed, nothing was blocked, and nothing was asked of another host.
    pub async fn assert_clean(&self, host: &str) {
        // An answer that a form's values can't be used is told of as an error of the network.
        let problems = self.act("problems", json!({})).await;
        let problems: Vec<&Value> = problems
            .as_array()
            .expect("it is a list")
            .iter()
            .filter(|problem| !problem.as_str().is_some_and(|text| text.contains("status of 422")))
            .collect();
        assert!(problems.is_empty(), "{problems:#?}");
        assert_eq!(self.act("hosts", json!({})).await, json!([host]));
    }

    /// Waits until a condition on the page holds.
    pub async fn wait(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        wait_until(what, super::LIMIT, condition).await;
    }
}

//! A real Prometheus scrapes all roles: what the rules, the alerts, the dashboard and the autoscalers ask for is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use regex::Regex;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::mails::notify;
use crate::support::{
    ADMIN, Console, LIMIT, Outgoing, Process, Prometheus, System, event, mail_server, ok, prometheus,
    receiver, status, system, wait_until, webhook,
};

/// All roles under some load: what is delivered, what fails, what can't be processed, what is sent by e-mail.
struct Everything {
    system: System,
    notify: Process,
    console: Console,
}

impl Everything {
    fn roles(&self) -> [(&'static str, &Process); 4] {
        [
            ("aggregate", &self.system.aggregate.process),
            ("deliver", &self.system.deliver.process),
            ("notify", &self.notify),
            ("serve", &self.console.process),
        ]
    }

    /// Publishes a few messages, and asks the console.
    async fn load(&self, round: usize) {
        let message = |chat: usize| event("ws", &format!("c{chat}"), &format!("{round}-{chat}"));
        self.system.publish(&(0..4).map(message).collect::<Vec<_>>()).await;
        self.system.produce("message-events", [Outgoing::new("c", "no event")]).await;
        self.console.call("GET", "/api/v1/webhooks", ADMIN, &Value::Null).await;
        self.console.call("GET", "/api/v1/webhooks", "nobody's token", &Value::Null).await;
    }
}

#[tokio::test]
async fn every_expression_finds_its_series_at_a_prometheus_that_scrapes_all_roles() {
    let (receiver, failing) = (receiver(ok()), receiver(status(500)));
    let webhooks = [
        webhook("at-once", "ws", &receiver.url("/"), json!({})),
        webhook("hourly", "ws", &receiver.url("/"), json!({"granularity": "1h"})),
        webhook("daily", "ws", &receiver.url("/"), json!({"granularity": "24h"})),
        webhook("failing", "ws", &failing.url("/"), json!({})),
    ];
    let mails = mail_server().await;
    let Some(system) = system(5_000).partitions(2).start(&webhooks).await else { return };
    let notify = notify(&system, &mails, &[]).await;
    let console = system.console(&[]).await;
    let all = Everything { system, notify, console };
    let targets = all.roles().map(|(role, process)| (role, process.http_addr()));
    let prometheus = prometheus(&targets).await;

    for (role, process) in all.roles() {
        assert_lint_finds_nothing(role, &process.metrics().await).await;
    }
    for (role, _) in all.roles() {
        let up = format!("up{{job=\"bundlehook\", component=\"{role}\"}} == 1");
        wait_until(&up, LIMIT, async || !prometheus.query(&up).await.is_empty()).await;
    }
    let asked = asked(&prometheus).await;
    assert!(asked.len() > 80, "{} expressions were found", asked.len());
    let mut missing: BTreeSet<String> = asked.iter().flat_map(|expression| series(expression)).collect();
    missing.extend(asked.iter().map(|expression| judged(expression)));
    let mut round = 0;
    wait_until("every expression to give something", LIMIT, async || {
        all.load(round).await;
        round += 1;
        for expression in missing.clone() {
            if !prometheus.query(&expression).await.is_empty() {
                missing.remove(&expression);
            }
        }
        if round % 20 == 0 {
            eprintln!("nothing yet: {missing:#?}");
        }
        missing.is_empty()
    })
    .await;

    for rule in prometheus.rules().await {
        assert_eq!((&rule["health"], &rule["lastError"]), (&json!("ok"), &Value::Null), "{rule}");
    }
}

/// What `promtool check metrics` says of a page: nothing.
async fn assert_lint_finds_nothing(role: &str, page: &str) {
    let mut child = tokio::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("promtool is installed");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(page.as_bytes()).await.expect("promtool reads");
    drop(input);
    let said = child.wait_with_output().await.expect("promtool ends");
    let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    assert!(said.status.success() && text.is_empty(), "{role}: {text}");
}

/// Every expression in `deploy/`: of the rules and alerts that Prometheus has read, the dashboard, the autoscalers.
async fn asked(prometheus: &Prometheus) -> Vec<String> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let read = |path: &str| fs::read_to_string(deploy.join(path)).expect("the file is there");
    let text = |value: &Value| value.as_str().expect("an expression is a text").to_owned();
    let mut asked: Vec<String> = prometheus.rules().await.iter().map(|rule| text(&rule["query"])).collect();
    let dashboard: Value = serde_json::from_str(&read("grafana/bundlehook.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    asked.extend(targets.map(|target| text(&target["expr"]).replace("$__rate_interval", "5m")));
    let scaling = read("kubernetes/components/keda/scaling.yaml");
    let queries = scaling.lines().filter_map(|line| line.trim().strip_prefix("query: "));
    asked.extend(queries.map(str::to_owned));
    asked
}

/// An expression whose comparisons say of everything whether it is so, instead of leaving out what is not: what an alert
/// looks at is there although nothing is wrong.
fn judged(expression: &str) -> String {
    [" > ", " < ", " == "].iter().fold(expression.to_owned(), |judged, comparison| {
        judged.replace(comparison, &format!("{comparison}bool "))
    })
}

/// The series of ours that an expression names, each with its labels.
fn series(expression: &str) -> Vec<String> {
    let named = Regex::new(r"[\w:]*\bbundlehook[_:][\w:]*(\{[^}]*\})?").expect("it is an expression");
    named.find_iter(expression).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn series_are_found_in_an_expression() {
    let expression =
        r#"sum by (a) (rate(bundlehook_a_total{b="c"}[5m])) / role:bundlehook_d:sum > up{job="bundlehook"}"#;
    assert_eq!(series(expression), ["bundlehook_a_total{b=\"c\"}", "role:bundlehook_d:sum"]);
    assert_eq!(judged("a > 1 and b == 2"), "a > bool 1 and b == bool 2");
}

//! A real Prometheus: Debian's, with the configuration, rules and alerts of `deploy/prometheus`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;

use super::{HeldPort, LIMIT, children, process, wait_until};

/// A running Prometheus. It ends when this is dropped.
pub struct Prometheus {
    port: HeldPort,
    log: PathBuf,
    child: Child,
}

/// Starts one that scrapes components, each at its address, every two seconds.
pub async fn prometheus(components: &[(&str, SocketAddr)]) -> Prometheus {
    let (port, folder) = (HeldPort::new(), children::folder("prometheus"));
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for rules in ["rules.yaml", "alerts.yaml"] {
        fs::copy(deploy.join(rules), folder.join(rules)).expect("the rig's folder can be written");
    }
    let mut config = fs::read_to_string(deploy.join("prometheus.yaml")).expect("the configuration is there");
    let mut replace = |from: &str, to: &str| {
        assert!(config.contains(from), "`{from}` is not in {config}");
        config = config.replace(from, to);
    };
    replace("scrape_interval: 15s", "scrape_interval: 2s");
    replace("evaluation_interval: 30s", "evaluation_interval: 2s");
    for (component, addr) in components {
        replace(&format!("targets: [{component}:9090]"), &format!("targets: ['{addr}']"));
    }
    let file = folder.join("prometheus.yaml");
    fs::write(&file, &config).expect("the rig's folder can be written");
    let mut command = children::command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address={}", port.addr()));
    let log = folder.join("log");
    let prometheus = Prometheus { child: children::spawn(command, &log), log, port };
    wait_until("Prometheus", LIMIT, async || {
        process::get(prometheus.port.addr(), "/-/ready").await.is_ok_and(|(status, _)| status == 200)
    })
    .await;
    prometheus
}

impl Prometheus {
    /// The series that an expression gives now.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        let mut data = self.ask(&format!("/api/v1/query?query={query}"), expression).await;
        assert_eq!(data["resultType"], "vector", "{expression}");
        serde_json::from_value(data["result"].take()).expect("the result is a list")
    }

    /// Every rule and alert, as Prometheus has read it.
    pub async fn rules(&self) -> Vec<Value> {
        let data = self.ask("/api/v1/rules", "the rules").await;
        let groups = data["groups"].as_array().expect("the groups are a list");
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().expect("a group has rules").clone())
            .collect()
    }

    async fn ask(&self, path: &str, what: &str) -> Value {
        let (status, body) = process::get(self.port.addr(), path).await.expect("Prometheus answers");
        assert_eq!(status, 200, "{what}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("Prometheus answers JSON");
        answer["data"].take()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        children::end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("---- last of Prometheus:\n{}", children::tail(&self.log, 20));
        }
    }
}

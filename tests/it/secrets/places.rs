//! Where a secret could show: everything that the product writes, gathered to be searched.

use serde_json::{Value, json};

use crate::support::{ADMIN, Console, MailServer, Process, System, TOPICS, token};

/// The pages of the console; the others are parts of these.
const PAGES: [&str; 7] =
    ["/", "/list", "/changes", "/webhooks/new", "/webhooks/wh", "/webhooks/wh/state", "/webhooks/wh/log"];

/// Texts, with the places where they stand.
#[derive(Default)]
pub struct Written(Vec<(String, String)>);

impl Written {
    pub fn note(&mut self, place: &str, text: String) {
        self.0.push((place.to_owned(), text));
    }

    /// What stands in a place.
    pub fn of(&self, place: &str) -> &str {
        let found = self.0.iter().find(|(name, _)| name == place);
        &found.unwrap_or_else(|| panic!("`{place}` was not searched")).1
    }

    /// Asserts that a text stands nowhere but in one place.
    pub fn assert_nowhere(&self, canary: &str, but_in: &str) {
        let places: Vec<_> = self
            .0
            .iter()
            .filter(|(place, text)| place != but_in && text.contains(canary))
            .map(|(place, text)| format!("{place}: {text}"))
            .collect();
        assert!(places.is_empty(), "`{canary}` stands in:\n{}", places.join("\n"));
    }

    /// What a process has said so far, and its metrics.
    pub async fn process(&mut self, name: &str, process: &Process) {
        self.note(&format!("log of {name}"), process.stderr() + &process.stdout());
        self.note(&format!("metrics of {name}"), process.metrics().await);
    }

    /// The e-mails, with the line breaks taken out that mail puts in.
    pub fn mails(&mut self, server: &MailServer) {
        let mails = server.mails();
        let text = |mail: &Value| mail["text"].as_str().expect("it is a text").replace("=\r\n", "");
        assert!(!mails.is_empty());
        self.note("e-mails", mails.iter().map(text).collect());
    }

    pub async fn topics(&mut self, system: &System) {
        for topic in TOPICS {
            let records = system.records(topic).await;
            let text = |bytes: &Option<Vec<u8>>| {
                String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned()
            };
            let all: Vec<_> =
                records.iter().map(|record| text(&record.value) + &format!("{record:?}")).collect();
            self.note(topic, all.join("\n"));
        }
    }

    pub async fn redis(&mut self, system: &System) {
        let keys: Vec<String> = system.redis.command(&["KEYS", "*"]).await;
        assert!(keys.iter().any(|key| key.ends_with(":log:ws")), "{keys:?}");
        for key in &keys {
            let dump: Vec<u8> = match &*system.redis.command::<String>(&["TYPE", key]).await {
                "list" => {
                    let list = system.redis.command::<Vec<String>>(&["LRANGE", key, "0", "-1"]).await;
                    list.concat().into_bytes()
                }
                "hash" => system.redis.command::<Vec<Vec<u8>>>(&["HGETALL", key]).await.concat(),
                "string" => system.redis.command(&["GET", key]).await,
                "zset" => system.redis.command::<Vec<Vec<u8>>>(&["ZRANGE", key, "0", "-1"]).await.concat(),
                "set" => system.redis.command::<Vec<Vec<u8>>>(&["SMEMBERS", key]).await.concat(),
                other => panic!("`{key}` is a {other}: search it, too"),
            };
            self.note(&format!("Redis, {key}"), String::from_utf8_lossy(&dump).into_owned());
        }
    }

    /// Edits through the console with the same secrets, good ones and bad ones; answers the secret that it shows
    /// once, which is noted nowhere. The webhook is enabled and tested at the end.
    pub async fn edits(&mut self, console: &Console, settings: &Value, canaries: [&str; 2]) -> String {
        let [secret, header] = canaries;
        let editor = token("ws", "editor");
        let path = "/api/v1/webhooks/wh";
        let again = json!({"url": settings["url"], "secrets": [secret], "headers": settings["headers"]});
        let created = console.call("POST", "/api/v1/webhooks", &editor, &again).await;
        assert_eq!(created.status, 201, "{}", created.text());
        self.note("a webhook that was created", created.text().to_owned());
        for wrong in [
            json!({"secrets": secret}),
            json!({"secrets": {"first": secret}}),
            json!({"secrets": [format!("{secret}!")]}),
            json!({"secrets": [[secret]]}),
            json!({"headers": header}),
            json!({"headers": [header]}),
            json!({"headers": {"x": [header]}}),
            json!({"headers": {"x": format!("{header}\n")}}),
            json!({"headers": {"host": header}}),
            json!({"max_per_second": header}),
            json!({"version": header}),
        ] {
            let mut edit = json!({"version": 1});
            edit.as_object_mut().expect("it is one").extend(wrong.as_object().expect("it is one").clone());
            let answered = console.call("PATCH", path, &editor, &edit).await;
            assert_eq!(answered.status, 422, "{wrong}: {}", answered.text());
            self.note(&format!("the refusal of {wrong}"), answered.text().to_owned());
        }
        let typed = [("content-type", "application/json".to_owned()), bearer(&editor)];
        let cut = format!("{{\"version\": 1, \"secrets\": [\"{secret}\"");
        let answered = console.send("PATCH", path, &typed, cut).await;
        assert_eq!(answered.status, 400, "{}", answered.text());
        self.note("the refusal of what is no JSON", answered.text().to_owned());

        let rotated = console.call("POST", &format!("{path}/rotate-secret"), &editor, &json!({})).await;
        assert_eq!(rotated.status, 200, "{}", rotated.text());
        let enable = json!({"held": "discard"});
        let enabled = console.call("POST", &format!("{path}/enable"), &editor, &enable).await;
        assert_eq!(enabled.status, 200, "{}", enabled.text());
        let tested = console.call("POST", &format!("{path}/test"), &editor, &json!({})).await;
        assert_eq!(tested.status, 200, "{}", tested.text());
        self.note("the enabling", enabled.text().to_owned());
        self.note("the test", tested.text().to_owned());
        rotated.json()["secret"].as_str().expect("it is shown once").to_owned()
    }

    /// Every page, and every answer of the API to a question, to whoever may ask it.
    pub async fn console(&mut self, console: &Console) {
        let document = console.get("/api/v1/openapi.json").await;
        let paths = document["paths"].as_object().expect("it describes paths");
        let asked = paths.iter().filter(|(path, item)| !item["get"].is_null() && !path.ends_with("/events"));
        let asked: Vec<_> = asked.map(|(path, _)| path.replace("{webhook_id}", "wh")).collect();
        assert!(asked.len() >= 8, "{asked:?}");
        let texts = asked.iter().filter(|path| path.ends_with("/download"));
        let texts: Vec<_> = texts.map(|path| format!("{path}?format=text")).collect();
        for path in asked.iter().chain(&texts) {
            for caller in [&token("ws", "viewer"), &token("ws", "editor"), ADMIN] {
                let answered = console.call("GET", path, caller, &Value::Null).await;
                assert!([200, 403].contains(&answered.status), "{path}: {}", answered.text());
                self.note(path, format!("{:?} {}", answered.headers, answered.text()));
            }
        }
        for path in PAGES {
            for caller in [&token("ws", "editor"), ADMIN] {
                let headers = [("cookie", format!("bundlehook_token={caller}"))];
                let answered = console.send("GET", path, &headers, String::new()).await;
                assert_eq!(answered.status, 200, "{path}: {}", answered.text());
                self.note(path, format!("{:?} {}", answered.headers, answered.text()));
            }
        }
    }
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

//! The command line of the built program: help, wrong settings, and the tools as far as they need no Kafka.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as expected")]
#![allow(clippy::format_collect, reason = "a help text is short")]

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Every role and tool.
const SUBCOMMANDS: [&str; 15] = [
    "aggregate",
    "deliver",
    "notify",
    "serve",
    "all",
    "dev",
    "topics",
    "produce",
    "receive",
    "doctor",
    "inspect",
    "config deliver",
    "dead-letters list",
    "dead-letters show",
    "dead-letters redrive",
];

/// The words of a subcommand.
fn words(subcommand: &str) -> impl Iterator<Item = &str> {
    subcommand.split(' ')
}

/// The commands on webhooks. What stands there for one command only is no setting, and has no variable.
const WEBHOOK: [&str; 7] = ["list", "show", "log", "test", "enable", "disable", "resend"];

/// What a subcommand can't do without, as variables.
const REQUIRED: [(&str, &str); 2] =
    [("BUNDLEHOOK_KAFKA_BROKERS", "127.0.0.1:1"), ("BUNDLEHOOK_REDIS_URL", "redis://127.0.0.1:1")];

/// The program with nothing of ours in its environment.
fn bundlehook<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bundlehook"));
    let ours = std::env::vars_os().map(|(name, _)| name);
    for name in ours.filter(|name| name.to_string_lossy().starts_with("BUNDLEHOOK_")) {
        command.env_remove(name);
    }
    command.args(args).env("COLUMNS", "110").stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("the program is built")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

mod help {
    use super::*;

    /// Without the spaces that end some lines.
    fn help(args: &[&str]) -> String {
        let output = output(bundlehook(args));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    #[test]
    fn of_the_program_is_as_documented() {
        insta::assert_snapshot!("help", help(&["--help"]));
    }

    #[test]
    fn of_each_subcommand_is_as_documented() {
        for subcommand in SUBCOMMANDS {
            let args: Vec<_> = words(subcommand).chain(["--help"]).collect();
            insta::assert_snapshot!(format!("help-{}", subcommand.replace(' ', "-")), help(&args));
        }
    }

    #[test]
    fn of_each_command_on_webhooks_is_as_documented() {
        insta::assert_snapshot!("help-webhook", help(&["webhook", "--help"]));
        for command in WEBHOOK {
            insta::assert_snapshot!(format!("help-webhook-{command}"), help(&["webhook", command, "--help"]));
        }
    }

    #[test]
    fn names_each_settings_variable() {
        for subcommand in SUBCOMMANDS {
            for (flag, text) in settings(subcommand) {
                assert!(text.contains("[env: BUNDLEHOOK_"), "--{flag} of {subcommand}: {text}");
            }
        }
    }

    /// The flags of a subcommand with the text below each.
    pub(super) fn settings(subcommand: &str) -> Vec<(String, String)> {
        let help = help(&words(subcommand).chain(["--help"]).collect::<Vec<_>>());
        let mut settings: Vec<(String, String)> = Vec::new();
        for line in help.lines() {
            if let Some(flag) = line.strip_prefix("      --") {
                settings.push((flag.split(' ').next().unwrap().to_owned(), String::new()));
            } else if let Some((_, text)) = settings.last_mut() {
                text.push_str(line);
            }
        }
        settings
    }

    #[test]
    fn and_version_go_to_standard_output() {
        let output = output(bundlehook(["--version"]));
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stdout(&output), concat!("bundlehook ", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

mod wrong_settings {
    use super::*;

    struct Wrong {
        subcommand: &'static str,
        flag: &'static str,
        variable: &'static str,
        value: &'static str,
        /// A part of what is expected.
        expected: &'static str,
    }

    const fn wrong(
        subcommand: &'static str,
        flag: &'static str,
        variable: &'static str,
        value: &'static str,
        expected: &'static str,
    ) -> Wrong {
        Wrong { subcommand, flag, variable, value, expected }
    }

    const SPAN: &str = "expected a duration";
    const NO_FILE: &str = "the file can't be read";

    /// A wrong value for each setting that has wrong values.
    const WRONG: &[Wrong] = &[
        wrong("all", "kafka-brokers", "BUNDLEHOOK_KAFKA_BROKERS", "kafka", "expected `host:port`"),
        wrong(
            "all",
            "kafka-properties",
            "BUNDLEHOOK_KAFKA_PROPERTIES",
            "linger=5",
            "expected librdkafka properties",
        ),
        wrong("all", "kafka-properties-file", "BUNDLEHOOK_KAFKA_PROPERTIES_FILE", "/nowhere", NO_FILE),
        wrong("all", "redis-url-file", "BUNDLEHOOK_REDIS_URL_FILE", "/nowhere", NO_FILE),
        wrong("all", "egress-proxy-file", "BUNDLEHOOK_EGRESS_PROXY_FILE", "/nowhere", NO_FILE),
        wrong("all", "smtp-url-file", "BUNDLEHOOK_SMTP_URL_FILE", "/nowhere", NO_FILE),
        wrong("all", "topic-prefix", "BUNDLEHOOK_TOPIC_PREFIX", "a/b", "expected at most 200 letters"),
        wrong("all", "redis-url", "BUNDLEHOOK_REDIS_URL", "http://x/", "expected a URL like `redis://"),
        wrong("all", "redis-timeout", "BUNDLEHOOK_REDIS_TIMEOUT", "soon", SPAN),
        wrong("all", "hour", "BUNDLEHOOK_HOUR", "2h", "from `100ms` to `1h`"),
        wrong("all", "window-grace", "BUNDLEHOOK_WINDOW_GRACE", "1", SPAN),
        wrong("all", "max-age", "BUNDLEHOOK_MAX_AGE", "old", SPAN),
        wrong("all", "reload-within", "BUNDLEHOOK_RELOAD_WITHIN", "soon", SPAN),
        wrong("all", "from", "BUNDLEHOOK_FROM", "middle", "[possible values: beginning, end]"),
        wrong("all", "allow-addresses", "BUNDLEHOOK_ALLOW_ADDRESSES", "10.0.0.0/33", "expected "),
        wrong("all", "deny-addresses", "BUNDLEHOOK_DENY_ADDRESSES", "10.0.0.0/33", "expected "),
        wrong("all", "allow-ports", "BUNDLEHOOK_ALLOW_PORTS", "443,", "expected "),
        wrong("all", "dns-servers", "BUNDLEHOOK_DNS_SERVERS", "resolver:53", "expected "),
        wrong("all", "egress-proxy", "BUNDLEHOOK_EGRESS_PROXY", "socks5://x", "expected a URL like"),
        wrong(
            "all",
            "retry-schedule",
            "BUNDLEHOOK_RETRY_SCHEDULE",
            "5s,,1m",
            "expected pauses separated by commas",
        ),
        wrong("all", "request-timeout", "BUNDLEHOOK_REQUEST_TIMEOUT", "0s", SPAN),
        wrong(
            "all",
            "lane-requests",
            "BUNDLEHOOK_LANE_REQUESTS",
            "0",
            "expected a whole number from 1 to 1000",
        ),
        wrong(
            "all",
            "lane-requests-ceiling",
            "BUNDLEHOOK_LANE_REQUESTS_CEILING",
            "1001",
            "expected a whole number from 1 to 1000",
        ),
        wrong(
            "all",
            "waiting-memory",
            "BUNDLEHOOK_WAITING_MEMORY",
            "64MiB",
            "expected a whole number from 1 to 65536",
        ),
        wrong(
            "all",
            "read-ahead",
            "BUNDLEHOOK_READ_AHEAD",
            "99",
            "expected a whole number from 100 to 1000000",
        ),
        wrong(
            "all",
            "http-addr",
            "BUNDLEHOOK_HTTP_ADDR",
            "localhost:80",
            "expected an IP address and a port",
        ),
        wrong("all", "log-format", "BUNDLEHOOK_LOG_FORMAT", "xml", "[possible values: json, text]"),
        wrong("all", "log", "BUNDLEHOOK_LOG", "bundlehook=loud", "expected a level"),
        wrong("all", "smtp-url", "BUNDLEHOOK_SMTP_URL", "mail.example.com", "expected a URL like `smtp://"),
        wrong("all", "mail-from", "BUNDLEHOOK_MAIL_FROM", "nobody", "expected an e-mail address"),
        wrong("all", "console-url", "BUNDLEHOOK_CONSOLE_URL", "console", "expected a URL like"),
        wrong("all", "smtp-timeout", "BUNDLEHOOK_SMTP_TIMEOUT", "0s", SPAN),
        wrong(
            "all",
            "mail-retry-schedule",
            "BUNDLEHOOK_MAIL_RETRY_SCHEDULE",
            "5s,",
            "expected pauses separated",
        ),
        wrong("all", "console-addr", "BUNDLEHOOK_CONSOLE_ADDR", "8080", "expected an IP address and a port"),
        wrong("all", "settings-by", "BUNDLEHOOK_SETTINGS", "nobody", "[possible values: console, upstream]"),
        wrong(
            "all",
            "max-webhooks",
            "BUNDLEHOOK_MAX_WEBHOOKS",
            "0",
            "expected a whole number from 1 to 1000",
        ),
        wrong(
            "all",
            "frame-ancestors",
            "BUNDLEHOOK_FRAME_ANCESTORS",
            "app.example.com",
            "expected an origin like",
        ),
        wrong("all", "trusted-proxies", "BUNDLEHOOK_TRUSTED_PROXIES", "proxy", "expected"),
        wrong(
            "all",
            "forwarded-header",
            "BUNDLEHOOK_FORWARDED_HEADER",
            "via",
            "[possible values: x-forwarded-for, forwarded]",
        ),
        wrong("dev", "hour", "BUNDLEHOOK_HOUR", "1ms", "from `100ms` to `1h`"),
        wrong(
            "topics",
            "partitions",
            "BUNDLEHOOK_TOPICS_PARTITIONS",
            "0",
            "expected a whole number from 1 to 10000",
        ),
        wrong(
            "topics",
            "replication-factor",
            "BUNDLEHOOK_TOPICS_REPLICATION_FACTOR",
            "0",
            "from 1 to 100, or -1",
        ),
        wrong(
            "produce",
            "rate",
            "BUNDLEHOOK_PRODUCE_RATE",
            "fast",
            "expected a whole number from 1 to 10000000",
        ),
        wrong("receive", "addr", "BUNDLEHOOK_RECEIVE_ADDR", "9000", "expected an IP address and a port"),
        wrong(
            "receive",
            "status",
            "BUNDLEHOOK_RECEIVE_STATUS",
            "100",
            "expected a whole number from 200 to 599",
        ),
        wrong("receive", "delay", "BUNDLEHOOK_RECEIVE_DELAY", "long", SPAN),
        wrong("receive", "log-format", "BUNDLEHOOK_LOG_FORMAT", "XML", "[possible values: json, text]"),
        wrong("aggregate", "hour", "BUNDLEHOOK_HOUR", "", "from `100ms` to `1h`"),
        wrong("deliver", "request-timeout", "BUNDLEHOOK_REQUEST_TIMEOUT", "-1s", SPAN),
        wrong(
            "dead-letters list",
            "limit",
            "BUNDLEHOOK_DEAD_LETTERS_LIMIT",
            "0",
            "expected a whole number from 1 to 1000000",
        ),
        wrong(
            "dead-letters list",
            "since",
            "BUNDLEHOOK_DEAD_LETTERS_SINCE",
            "yesterday",
            "expected a time such as",
        ),
        wrong(
            "dead-letters redrive",
            "until",
            "BUNDLEHOOK_DEAD_LETTERS_UNTIL",
            "soon",
            "expected a time such as",
        ),
    ];

    /// Settings that take any text, or no value.
    const FREE: &[&str] = &[
        "ca-bundle",
        "smtp-ca-bundle",
        "redis-ca-bundle",
        "redis-certificate",
        "redis-certificate-key",
        "jwt-jwks",
        "jwt-secret",
        "jwt-issuer",
        "jwt-audience",
        "admin-tokens",
        "sealing-keys",
        "require-sealed",
        "permalink-product",
        "file",
        "settings",
        "out",
        "check",
        "json",
        "reason",
        "topic",
        "raw",
        "all",
        "dry-run",
        "help",
    ];

    /// Settings whose value may hold a password.
    const SECRET: &[&str] = &["egress-proxy", "kafka-properties", "redis-url", "smtp-url"];

    #[test]
    fn are_known_for_every_setting() {
        let known: BTreeSet<_> = WRONG.iter().map(|wrong| wrong.flag).chain(FREE.iter().copied()).collect();
        for subcommand in SUBCOMMANDS {
            for (flag, _) in help::settings(subcommand) {
                assert!(known.contains(flag.as_str()), "--{flag} of {subcommand} is in neither list");
            }
        }
    }

    #[test]
    fn end_with_64_and_say_which_value_is_wrong_and_what_is_expected() {
        for wrong in WRONG {
            let Wrong { subcommand, flag, variable, value, .. } = *wrong;
            let by_flag = format!("--{flag}={value}");
            let mut by_flag = bundlehook(words(subcommand).chain([&*by_flag]));
            by_flag.envs(REQUIRED).env("BUNDLEHOOK_PRODUCE_FILE", "-");
            check(wrong, &output(by_flag));
            let mut by_variable = bundlehook(words(subcommand));
            by_variable.envs(REQUIRED).env("BUNDLEHOOK_PRODUCE_FILE", "-").env(variable, value);
            check(wrong, &output(by_variable));
        }
    }

    fn check(wrong: &Wrong, output: &Output) {
        let Wrong { flag, variable, expected, .. } = *wrong;
        let text = stderr(output);
        assert_eq!(output.status.code(), Some(64), "--{flag}: {text}");
        let value = if SECRET.contains(&flag) { "***" } else { wrong.value };
        for part in [&format!("'--{flag}"), &format!("'{value}'"), expected, variable] {
            assert!(text.contains(part), "--{flag}: `{part}` is not in: {text}");
        }
        assert!(output.stdout.is_empty(), "--{flag}: {}", stdout(output));
    }

    #[test]
    fn that_may_hold_a_password_are_not_shown() {
        let output = output(bundlehook(["all", "--redis-url=redis//:s3cret@host"]));
        assert_eq!(output.status.code(), Some(64));
        assert!(!stderr(&output).contains("s3cret"), "{}", stderr(&output));
    }

    #[test]
    fn of_a_switch_are_named() {
        let mut command = bundlehook(["topics"]);
        command.envs(REQUIRED).env("BUNDLEHOOK_TOPICS_CHECK", "maybe");
        let output = output(command);
        assert_eq!(output.status.code(), Some(64));
        for part in ["'--check'", "'maybe'", "expected `true` or `false`", "BUNDLEHOOK_TOPICS_CHECK"] {
            assert!(stderr(&output).contains(part), "`{part}` is not in: {}", stderr(&output));
        }
    }

    #[test]
    fn that_are_no_text_are_named() {
        use std::os::unix::ffi::OsStrExt;
        let mut command = bundlehook(["receive"]);
        command.env("BUNDLEHOOK_RECEIVE_ADDR", OsStr::from_bytes(b"\xff"));
        let output = output(command);
        assert_eq!(output.status.code(), Some(64));
        assert!(stderr(&output).contains("BUNDLEHOOK_RECEIVE_ADDR"), "{}", stderr(&output));
    }

    #[test]
    fn missing_ones_are_named_with_their_variables() {
        for (line, parts) in [
            (
                "aggregate",
                vec!["--kafka-brokers", "BUNDLEHOOK_KAFKA_BROKERS", "--redis-url", "BUNDLEHOOK_REDIS_URL"],
            ),
            ("topics", vec!["--kafka-brokers", "BUNDLEHOOK_KAFKA_BROKERS"]),
            (
                "produce --kafka-brokers=x:1",
                vec!["--file", "BUNDLEHOOK_PRODUCE_FILE", "BUNDLEHOOK_PRODUCE_SETTINGS"],
            ),
        ] {
            let output = output(bundlehook(line.split(' ')));
            assert_eq!(output.status.code(), Some(64), "{line}");
            for part in parts {
                assert!(stderr(&output).contains(part), "{line}: `{part}` is not in: {}", stderr(&output));
            }
        }
    }

    #[test]
    fn unknown_ones_end_with_64() {
        for line in ["nonsense", "receive --nonsense", "receive nonsense"] {
            let output = output(bundlehook(line.split(' ')));
            assert_eq!(output.status.code(), Some(64), "{line}");
            assert!(stderr(&output).contains("nonsense"), "{line}: {}", stderr(&output));
        }
        assert_eq!(output(bundlehook([""; 0])).status.code(), Some(64), "nothing at all");
    }
}

mod files {
    use super::*;

    /// Each setting that may hold a password, with a value of it.
    const SECRETS: [(&str, &str, &str); 4] = [
        ("redis-url", "BUNDLEHOOK_REDIS_URL", "rediss://ann:s3cret@redis.example:6380/0"),
        ("kafka-properties", "BUNDLEHOOK_KAFKA_PROPERTIES", "sasl.username=ann,sasl.password=s3cret"),
        ("smtp-url", "BUNDLEHOOK_SMTP_URL", "smtp://ann:s3cret@mail.example:587"),
        ("egress-proxy", "BUNDLEHOOK_EGRESS_PROXY", "http://ann:s3cret@proxy.example:3128"),
    ];

    /// `bundlehook config all` with one setting in a file; what else is needed is set.
    fn config(variable: &str, file: &Path) -> Command {
        let mut command = bundlehook(["config", "all"]);
        command.envs(REQUIRED.iter().filter(|(name, _)| *name != variable).copied());
        command.env(format!("{variable}_FILE"), file);
        command
    }

    fn written(content: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    #[test]
    fn hold_each_setting_that_may_hold_a_password() {
        for (_, variable, value) in SECRETS {
            let file = written(&format!("{value}\n"));
            let output = output(config(variable, file.path()));
            assert_eq!(output.status.code(), Some(0), "{variable}: {}", stderr(&output));
            let shown = stdout(&output);
            let row = shown.lines().find(|line| line.split(' ').next() == Some(variable)).unwrap();
            assert!(row.contains(&value.replace("s3cret", "***")), "{row}");
            assert!(row.ends_with(&format!("file {}", file.path().display())), "{row}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn and_values_at_once_are_refused_with_both_names() {
        for (flag, variable, value) in SECRETS {
            let file = written(value);
            let mut command = config(variable, file.path());
            command.env(variable, value);
            let output = output(command);
            assert_eq!(output.status.code(), Some(64), "{variable}");
            let text = stderr(&output);
            for part in [
                format!("--{flag} "),
                format!("--{flag}-file "),
                variable.to_owned(),
                format!("{variable}_FILE"),
            ] {
                assert!(text.contains(&part), "`{part}` is not in: {text}");
            }
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn that_are_empty_missing_or_wrong_are_named_with_their_setting() {
        let missing = written("").path().to_owned();
        let (empty, wrong) = (written("\n"), written("s3cret is no such thing"));
        for (flag, variable, _) in SECRETS {
            for (file, part) in [
                (missing.as_path(), "the file can't be read"),
                (empty.path(), "the file is empty"),
                (wrong.path(), "what the file holds can't be used, expected "),
            ] {
                let output = output(config(variable, file));
                assert_eq!(output.status.code(), Some(64), "{variable}");
                let text = stderr(&output);
                for part in
                    [part, &format!("--{flag}-file"), &format!("{variable}_FILE"), file.to_str().unwrap()]
                {
                    assert!(text.contains(part), "`{part}` is not in: {text}");
                }
                assert!(!text.contains("s3cret"), "{text}");
            }
        }
    }
}

mod config {
    use super::*;

    #[test]
    fn shows_what_a_role_would_run_with_and_from_where() {
        let run = |form: &[&str]| {
            let mut command = bundlehook(["config"]);
            command.args(form).args(["deliver", "--request-timeout=3s"]).envs([
                ("BUNDLEHOOK_KAFKA_BROKERS", "kafka.example:9093"),
                ("BUNDLEHOOK_KAFKA_PROPERTIES", "sasl.username=ann,sasl.password=s3cret"),
                ("BUNDLEHOOK_REDIS_URL", "rediss://ann:s3cret@redis.example:6380/0"),
                ("BUNDLEHOOK_ALLOW_ADDRESSES", "10.0.0.0/8,192.168.0.1:8080"),
                ("BUNDLEHOOK_REQUEST_TIMEOUT", "7s"),
                ("BUNDLEHOOK_SMTP_URL", "not a setting of this role"),
            ]);
            let output = output(command);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert!(!stdout(&output).contains("s3cret"), "{}", stdout(&output));
            stdout(&output)
        };
        insta::assert_snapshot!("config-deliver", run(&[]));
        let json: Value = serde_json::from_str(&run(&["--json"])).unwrap();
        let of =
            |variable: &str| json.as_array().unwrap().iter().find(|one| one["variable"] == variable).unwrap();
        assert_eq!(
            *of("BUNDLEHOOK_REQUEST_TIMEOUT"),
            serde_json::json!({
                "variable": "BUNDLEHOOK_REQUEST_TIMEOUT", "flag": "request-timeout", "value": "3s", "origin": "flag"
            })
        );
        assert_eq!(of("BUNDLEHOOK_CA_BUNDLE")["origin"], "unset");
        assert_eq!(of("BUNDLEHOOK_READ_AHEAD")["origin"], "default");
    }

    #[test]
    fn refuses_what_the_role_would_refuse() {
        let output = output(bundlehook(["config", "aggregate", "--hour=2h"]));
        assert_eq!(output.status.code(), Some(64));
        assert!(stderr(&output).contains("BUNDLEHOOK_HOUR"), "{}", stderr(&output));
    }
}

mod receive {
    use super::*;

    /// A running receiver; killed when dropped.
    struct Receiver {
        child: Child,
        stdout: BufReader<std::process::ChildStdout>,
        addr: SocketAddr,
    }

    impl Receiver {
        fn start(args: &[&str]) -> Self {
            let mut command = bundlehook(["receive", "--addr", "127.0.0.1:0"]);
            let mut child = command.args(args).stdout(Stdio::piped()).spawn().expect("the program is built");
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let addr =
                line.trim().strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix('/'));
            let addr = addr.and_then(|addr| addr.parse().ok()).unwrap_or_else(|| panic!("it said {line:?}"));
            Self { child, stdout, addr }
        }

        /// Sends a request and returns the status.
        fn post(&self, path: &str, headers: &str, body: &[u8]) -> u16 {
            let mut connection = TcpStream::connect(self.addr).unwrap();
            let length = body.len();
            write!(
                connection,
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n"
            )
            .unwrap();
            connection.write_all(body).unwrap();
            let mut answer = String::new();
            connection.read_to_string(&mut answer).unwrap();
            answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok()).expect("an HTTP answer")
        }

        /// Ends it as Ctrl-C does, and returns what it had printed since its start.
        fn interrupt(mut self) -> String {
            kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).unwrap();
            let mut printed = String::new();
            self.stdout.read_to_string(&mut printed).unwrap();
            assert_eq!(self.child.wait().unwrap().code(), Some(0));
            printed
        }
    }

    impl Drop for Receiver {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// The recorded requests, which must be as the schema says.
    fn recorded(file: &Path) -> Vec<Value> {
        let schema: Value = serde_json::from_str(include_str!("../schemas/received-request.json")).unwrap();
        let schema = jsonschema::validator_for(&schema).unwrap();
        let parse = |line: &str| {
            let request: Value = serde_json::from_str(line).unwrap();
            schema.validate(&request).unwrap_or_else(|error| panic!("{line}: {error}"));
            request
        };
        fs::read_to_string(file).unwrap().lines().map(parse).collect()
    }

    #[test]
    fn prints_records_and_answers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.jsonl");
        let receiver = Receiver::start(&["--out", file.to_str().unwrap()]);
        let bundle = include_bytes!("examples/bundle.json");
        assert_eq!(receiver.post("/a?b=c", "Webhook-Id: 0d4d7f52\r\nX-A: 1\r\nx-a: 2\r\n", bundle), 200);

        // It is in the file before it is answered.
        let requests = recorded(&file);
        assert_eq!(requests.len(), 1);
        let request = &requests[0];
        assert_eq!((&request["method"], &request["path"]), (&"POST".into(), &"/a?b=c".into()));
        assert_eq!(request["body"].as_str().unwrap().as_bytes(), bundle);
        assert_eq!(request["headers"]["webhook-id"], "0d4d7f52");
        assert_eq!(request["headers"]["x-a"], "1, 2");
        assert_eq!(request["status"], 200);

        let printed = receiver.interrupt();
        for part in
            ["POST /a?b=c", "webhook-id 0d4d7f52", "John D., 3 messages", "  | how are <you> & yours?\n"]
        {
            assert!(printed.contains(part), "`{part}` is not in: {printed}");
        }
        assert!(printed.ends_with("\nreceived 1 request\n"), "{printed}");
    }

    #[test]
    fn answers_as_told_and_appends_to_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.jsonl");
        let args = ["--out", file.to_str().unwrap(), "--status", "503", "--delay", "200ms"];
        for _ in 0..2 {
            let receiver = Receiver::start(&args);
            let started = Instant::now();
            assert_eq!(receiver.post("/", "", b"\x1b[31m\xff"), 503);
            assert!(started.elapsed() >= Duration::from_millis(200));
            assert!(receiver.interrupt().contains("  | \\u{1b}[31m\u{fffd}\n"));
        }
        let requests = recorded(&file);
        assert_eq!(requests.len(), 2);
        assert!(
            requests
                .iter()
                .all(|request| request["status"] == 503 && request["body"] == "\u{1b}[31m\u{fffd}")
        );
    }

    #[test]
    fn takes_many_requests_on_many_connections() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("requests.jsonl");
        let receiver = Receiver::start(&["--out", file.to_str().unwrap()]);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let receiver = &receiver;
                scope.spawn(move || {
                    for number in 0..25 {
                        assert_eq!(receiver.post(&format!("/{thread}/{number}"), "", b"x"), 200);
                    }
                });
            }
        });
        let paths: BTreeSet<_> = recorded(&file).iter().map(|request| request["path"].to_string()).collect();
        assert_eq!(paths.len(), 200);
        assert!(receiver.interrupt().ends_with("received 200 requests\n"));
    }

    #[test]
    fn says_that_the_port_is_taken() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap().to_string();
        let output = output(bundlehook(["receive", "--addr", &addr]));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("address `{addr}` is taken")), "{}", stderr(&output));
    }

    #[test]
    fn ends_when_it_can_not_record() {
        let mut receiver = Receiver::start(&["--out", "/dev/full"]);
        assert_eq!(receiver.post("/", "", b"x"), 500, "nothing is confirmed that is not recorded");
        assert_eq!(receiver.child.wait().unwrap().code(), Some(1));
    }

    #[test]
    fn says_that_the_file_can_not_be_opened() {
        let output =
            output(bundlehook(["receive", "--addr", "127.0.0.1:0", "--out", "/nowhere/requests.jsonl"]));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("failed to open `/nowhere/requests.jsonl`"), "{}", stderr(&output));
    }
}

mod produce {
    use super::*;

    const EVENTS: &str = include_str!("examples/events.jsonl");

    /// Something at a broker's address that notices if anyone connects.
    fn silent_broker() -> (TcpListener, String) {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        broker.set_nonblocking(true).unwrap();
        let addr = broker.local_addr().unwrap().to_string();
        (broker, addr)
    }

    fn refused(flag: &str, lines: &str) -> String {
        let (broker, addr) = silent_broker();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lines.jsonl");
        fs::write(&file, lines).unwrap();
        let output = output(bundlehook(["produce", "--kafka-brokers", &addr, flag, file.to_str().unwrap()]));
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert_eq!(broker.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it has connected");
        stderr(&output)
    }

    #[test]
    fn names_a_wrong_line_and_publishes_nothing() {
        let error = refused("--file", &format!("{EVENTS}\n{{\"message\": {{\"text\": \"x\"}}}}\n"));
        assert!(
            error.contains("lines.jsonl` is wrong; nothing was published\n  line 7: `workspace_id`"),
            "{error}"
        );
    }

    #[test]
    fn names_several_wrong_lines() {
        let error = refused("--file", &format!("{{\n{EVENTS}\u{0}\n"));
        assert!(error.contains("2 lines of `"), "{error}");
        assert!(
            error.contains("\n  line 1: the value is not JSON") && error.contains("\n  line 7: "),
            "{error}"
        );
    }

    #[test]
    fn refuses_a_message_without_a_key_even_if_it_would_be_skipped() {
        let error = refused("--file", r#"{"message": {"text": ""}}"#);
        assert!(error.contains("line 1: `chat.chat_id` is missing"), "{error}");
    }

    #[test]
    fn names_wrong_settings_without_their_secrets() {
        let error = refused(
            "--settings",
            r#"{"webhook_id": "wh-1", "workspace_id": "ws", "url": "https://h.example/", "secrets": ["s3cret"],
            "owner": {"full_name": "A", "email": "a@x.example"}}"#
                .replace('\n', " ")
                .as_str(),
        );
        assert!(error.contains("line 1: `secrets[0]` is not") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn reads_standard_input() {
        let (_broker, addr) = silent_broker();
        let mut command = bundlehook(["produce", "--kafka-brokers", &addr, "--file", "-"]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"nonsense").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = stderr(&output);
        assert!(
            error.contains("a line of standard input is wrong; nothing was published\n  line 1: "),
            "{error}"
        );
    }

    #[test]
    fn says_that_no_broker_answers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.jsonl");
        fs::write(&file, EVENTS).unwrap();
        let started = Instant::now();
        let args = ["produce", "--kafka-brokers", "127.0.0.1:1", "--file", file.to_str().unwrap()];
        let output = output(bundlehook(args));
        assert_eq!(output.status.code(), Some(1));
        assert!(started.elapsed() < Duration::from_secs(20));
        let error = stderr(&output);
        assert!(
            error.contains("no broker of `127.0.0.1:1` answered") && error.contains("Connection refused"),
            "{error}"
        );
    }

    #[test]
    fn says_that_the_file_is_not_there() {
        let output =
            output(bundlehook(["produce", "--kafka-brokers", "127.0.0.1:1", "--file", "/nowhere.jsonl"]));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("failed to open `/nowhere.jsonl`"), "{}", stderr(&output));
    }
}

//! Whether the floors are honest: their rates beside those of the tools that come with Kafka and Redis, and of wrk, on the
//! same bytes.

use std::{fs, path::PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use rdkafka::producer::BaseRecord;
use tokio::process::Command;

use super::{
    Options,
    cost::Reading,
    deliver::{CONNECTIONS, Deliver},
    filled::Filled,
    floor::{Producer, append, read},
    input::Input,
    rig::create_topic,
    rounds::Rounds as _,
    support::{System, children},
};

/// A floor is at least so many times as fast as the tool.
const GOAL: f64 = 0.8;
/// Seconds for which wrk runs.
const WRK_SECONDS: u32 = 5;

/// A floor and a tool, each with what it does a second.
struct Pair {
    floor: (&'static str, f64),
    tool: (&'static str, f64),
}

/// Measures all floors and tools, one after the other.
pub async fn floors(options: &Options) -> Table {
    let filled = Filled::start(Input::popular(options.chats, 1), options.messages).await;
    let produced = produce(&filled, options).await;
    let consumed = consume(&filled).await;
    let appended = into_redis(&filled, consumed.tool.1).await;
    drop(filled);
    table(&[produced, consumed, appended, post(options).await])
}

fn table(pairs: &[Pair]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["floor", "a second", "tool", "a second", "ratio", "goal", ""]);
    for Pair { floor, tool } in pairs {
        let ratio = floor.1 / tool.1;
        let met = if ratio >= GOAL { "met" } else { "missed" };
        let rates = [format!("{:.0}", floor.1), format!("{:.0}", tool.1), format!("{ratio:.2}")];
        let [of_floor, of_tool, ratio] = rates;
        let goal = format!("≥ {GOAL} times");
        table.add_row([floor.0, &of_floor, tool.0, &of_tool, &ratio, &goal, met]);
    }
    for column in [1, 3, 4] {
        table.column_mut(column).expect("there are seven").set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The producer of `close` and `latency`, without headers, since the tool has none.
async fn produce(filled: &Filled, options: &Options) -> Pair {
    let system = &filled.system;
    let (ours, theirs) = (create_topic(system, "ours").await, create_topic(system, "theirs").await);
    let mut input = Input::popular(options.chats, 1);
    let messages: Vec<_> = (0..filled.messages).map(|_| input.next("2026-01-01T00:00:00Z")).collect();
    let producer = Producer::new(system);
    let began = Reading::own();
    for message in &messages {
        let record = BaseRecord::to(&ours).key(message.chat.as_bytes());
        producer.send(record.payload(message.event.as_bytes()));
    }
    producer.flush();
    let rate = Reading::own().since(began, messages.len()).rate();
    let lines: Vec<&str> = messages.iter().map(|message| message.event.as_str()).collect();
    let count = messages.len().to_string();
    let arguments = ["--topic", &theirs, "--num-records", &count, "--throughput", "-1", "--payload-file"];
    let settings = ["acks=all", "enable.idempotence=true", "compression.type=lz4", "linger.ms=2"];
    let payloads = file("payloads", lines.join("\n")).display().to_string();
    let arguments = [&arguments[..], &[payloads.as_str(), "--command-property"], &settings].concat();
    let said = system.kafka.tool("org.apache.kafka.tools.ProducerPerformance", &arguments).await;
    Pair {
        floor: ("producer", rate),
        tool: ("kafka-producer-perf-test", number_before(&said, "records/sec")),
    }
}

/// The consumer of `rebuild` and `aggregate`.
async fn consume(filled: &Filled) -> Pair {
    let Filled { system, messages, .. } = filled;
    let rate = read(system, "message-events", *messages).rate();
    let (topic, count) = (system.topic("message-events"), messages.to_string());
    let arguments = ["--topic", &topic, "--num-records", &count, "--group", "theirs"];
    let said = system.kafka.tool("org.apache.kafka.tools.ConsumerPerformance", &arguments).await;
    // The last of the columns is what it fetched a second, once it was in the group.
    let last = said.trim().lines().last().and_then(|line| line.rsplit(", ").next());
    let theirs = last.and_then(|rate| rate.trim().parse().ok()).expect("it ends with a rate");
    Pair { floor: ("consumer", rate), tool: ("kafka-consumer-perf-test", theirs) }
}

/// The floor of `aggregate`, which reads and appends in turn: beside the two tools, one after the other.
async fn into_redis(filled: &Filled, consumed: f64) -> Pair {
    let Filled { system, messages, event_bytes } = filled;
    system.redis.flushall().await;
    let before = appends(system).await;
    let (cost, batches) = append(system, "message-events", *messages).await;
    let appends = appends(system).await - before;
    let each = *messages as f64 / appends;
    let said = run(Command::new("redis-benchmark").args([
        "-h",
        "127.0.0.1",
        "-p",
        &system.redis.addr().port().to_string(),
        "-c",
        "1",
        "-P",
        &format!("{:.0}", appends / batches as f64),
        "-n",
        &format!("{appends:.0}"),
        "-r",
        "10000",
        "-q",
        "APPEND",
        "theirs:__rand_int__",
        &"x".repeat((event_bytes * each) as usize),
    ]))
    .await;
    let appended = number_before(&said, "requests per second") * each;
    let theirs = 1.0 / (1.0 / consumed + 1.0 / appended);
    Pair {
        floor: ("consumer, and APPEND by chat", cost.rate()),
        tool: ("kafka-consumer-perf-test, then redis-benchmark", theirs),
    }
}

/// Calls of APPEND that a Redis has had.
async fn appends(system: &System) -> f64 {
    let said: String = system.redis.command(&["INFO", "commandstats"]).await;
    let line = said.lines().find_map(|line| line.strip_prefix("cmdstat_append:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or_default()
}

/// The client of `deliver`.
async fn post(options: &Options) -> Pair {
    let mut deliver = Deliver::start(options).await;
    deliver.prepare().await;
    let rate = deliver.post().await.rate();
    let mut lines = Vec::new();
    for body in deliver.bodies() {
        lines.extend_from_slice(body);
        lines.push(b'\n');
    }
    let bodies = file("bodies", lines);
    let script = format!(
        "local bodies, at = {{}}, 0
        for line in io.lines('{}') do bodies[#bodies + 1] = line end
        function request()
          at = at % #bodies + 1
          return wrk.format('POST', nil, {{['content-type'] = 'application/json'}}, bodies[at])
        end",
        bodies.display()
    );
    let script = file("post.lua", script);
    let (connections, seconds) = (CONNECTIONS.to_string(), format!("{WRK_SECONDS}s"));
    let mut wrk = Command::new("wrk");
    wrk.args(["-t", "1", "-c", &connections, "-d", &seconds, "-s"]).arg(script).arg(deliver.url());
    let said = run(&mut wrk).await;
    let theirs = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let theirs = theirs.and_then(|rate| rate.trim().parse().ok()).expect("wrk tells its rate");
    Pair { floor: ("hyper's client", rate), tool: ("wrk", theirs) }
}

/// A file with this content, gone when the program ends.
fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let file = children::folder("tool").join(name);
    fs::write(&file, content).expect("the rig's folder can be written");
    file
}

/// What a tool says.
async fn run(command: &mut Command) -> String {
    let output = command.output().await;
    let output =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}; `make bench-floors` installs it"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The number that stands before the last of some words.
fn number_before(said: &str, words: &str) -> f64 {
    let (before, _) = said.rsplit_once(words).unwrap_or_else(|| panic!("`{said}` names no {words}"));
    let number = before.trim_end().rsplit(|c: char| c.is_whitespace() || c == '(').next();
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("`{said}` names no {words}"))
}

//! `make bench-instructions`: how many instructions the pure steps take, which do not wander with the machine.
//!
//! valgrind counts those of this program while it repeats a step, once a few times and once more often. The difference is
//! the steps' alone. What was counted before stands in `benches/instructions.json`.

#[path = "speed/input.rs"]
#[allow(dead_code, reason = "the figures of time want more of it")]
mod input;
#[path = "speed/pure.rs"]
mod pure;

use std::{
    collections::BTreeMap,
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use bundlehook::{
    flow::{
        bundle_to_delivery::Delivery,
        delivery_to_outcome::{self, Ended, Reply},
        event_to_window::{ChatAppend, Plan, Planner, SourceRecord},
        window_to_bundle::{Bundler, Occasion, WindowContent},
    },
    model::{
        bundle::BundleRecord,
        delivery::Answer,
        health::{Health, Verdict},
        history::Directory,
        position::ClosedWindow,
        time::Millis,
        webhook::Webhook,
        window::{WindowKey, WindowRule, WindowRules},
    },
    wire::{attempt, settings},
};
use clap::{Parser, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use input::{Input, Message};
use serde_json::{Value, json};

/// Messages of a batch, as `aggregate` takes them.
const BATCH: usize = 500;
/// Messages of a window.
const WINDOW: usize = 20;
/// Repeats of the two runs.
const REPEATS: [u32; 2] = [2, 12];
/// A step may take so many times what it took before.
const MOST: f64 = 1.05;
/// When everything arrives.
const NOW: Millis = Millis(1_767_225_600_000);

/// Instructions of the pure steps.
#[derive(Parser)]
struct Options {
    /// Keeps what is counted as what later counts are held against.
    #[arg(long)]
    save: bool,
    /// Only repeats a step.
    #[arg(long, hide = true, requires = "repeats")]
    step: Option<Step>,
    #[arg(long, hide = true)]
    repeats: Option<u32>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Step {
    /// A batch of events is planned into four windows each.
    Plan,
    /// A window's log becomes a bundle.
    Bundle,
    /// A delivery becomes a request, and with its answer the record of an attempt.
    Attempt,
}

impl Step {
    /// As it is shown and kept.
    fn name(self) -> &'static str {
        match self {
            Self::Plan => "events into windows, a message",
            Self::Bundle => "a window's log into a bundle, a message",
            Self::Attempt => "a delivery into an attempt, a delivery",
        }
    }

    /// Things in one repeat.
    fn size(self) -> usize {
        match self {
            Self::Plan => BATCH,
            Self::Bundle => WINDOW,
            Self::Attempt => 1,
        }
    }

    /// Repeats for one that is asked for, so that a run is neither too short nor too long.
    fn times(self) -> u32 {
        (BATCH / self.size()) as u32
    }

    fn repeat(self, repeats: u32) {
        let world = World::new();
        match self {
            Self::Plan => {
                let messages = messages(Input::popular(10_000, 1), BATCH);
                (0..repeats).for_each(|_| drop(black_box(world.plan(&messages))));
            }
            Self::Bundle => {
                let (key, log) = world.window();
                (0..repeats).for_each(|_| drop(black_box(world.bundles(&key, &log))));
            }
            Self::Attempt => {
                let (key, log) = world.window();
                let bundle = world.bundles(&key, &log).remove(0);
                (0..repeats).for_each(|_| drop(black_box(world.attempt(&bundle))));
            }
        }
    }

    /// Instructions for each thing.
    fn count(self) -> f64 {
        let [few, many] = REPEATS.map(|repeats| instructions(self, repeats * self.times()));
        (many - few) as f64 / f64::from((REPEATS[1] - REPEATS[0]) * self.times()) / self.size() as f64
    }
}

/// Four webhooks of a workspace, one for each window.
struct World {
    directory: Directory,
    webhook: Webhook,
    rules: WindowRules,
}

impl World {
    fn new() -> Self {
        let webhook = |granularity: &str| {
            json!({
                "webhook_id": format!("wh-{granularity}"), "workspace_id": "ws-0", "label": "CRM notes",
                "url": "https://crm.example/hook", "granularity": granularity,
                "owner": {"full_name": "Amnon Haha", "email": "amnon@acme.example"},
            })
        };
        let webhooks = ["1h", "6h", "12h", "24h"].map(webhook);
        let hour = Duration::from_hours(1);
        Self {
            directory: pure::directory(&webhooks),
            webhook: settings::decode(webhooks[3].to_string().as_bytes()).expect("it is valid"),
            rules: WindowRules::single(WindowRule::new(hour, hour / 60, Duration::ZERO)),
        }
    }

    fn plan(&self, messages: &[Message]) -> Plan {
        let source = pure::source();
        let planner =
            Planner { directory: &self.directory, source: &source, rules: &self.rules, last_closed: None };
        planner.plan((0..).zip(messages).map(|(offset, message)| SourceRecord {
            offset,
            arrived: NOW,
            value: Some(message.event.as_bytes()),
        }))
    }

    /// A window of a chat, and its log.
    fn window(&self) -> (WindowKey, Vec<u8>) {
        let plan = self.plan(&messages(Input::in_turn(1, 1), WINDOW));
        let chat: &ChatAppend = &plan.chats[0];
        let details = chat.details.iter().map(|(_, frame)| frame);
        let frames = details.chain(chat.messages.iter().map(|message| &message.frame));
        let (workspace, chat_id) = (chat.workspace.clone(), chat.chat.clone());
        let key = WindowKey { window: chat.windows[3].window, workspace, chat: chat_id };
        (key, frames.flatten().copied().collect())
    }

    fn bundles(&self, key: &WindowKey, log: &[u8]) -> Vec<BundleRecord> {
        let source = pure::source();
        let bundler = Bundler { directory: &self.directory, source: &source, product: "TimelinesAI" };
        let (boundary, granularity) = (key.window.end, key.window.granularity);
        let occasion = Occasion::Closed(ClosedWindow { boundary, first_offset: 0, granularity });
        bundler.bundles(&WindowContent { key, part: 0, occasion, log }).expect("the log is whole").records
    }

    /// What is written of the attempt.
    fn attempt(&self, BundleRecord { head, body }: &BundleRecord) -> Vec<u8> {
        let mut delivery = Delivery {
            head: head.clone(),
            body: body.clone(),
            partition: 0,
            offset: 0,
            bundled_at: NOW,
            attempts: 0,
            refusals: 0,
        };
        let request = delivery_to_outcome::request(&delivery, &self.webhook, NOW);
        let reply = Reply::Answered(answer());
        let settlement = delivery_to_outcome::settle(&mut delivery, &self.webhook, &reply);
        let activation = self.directory.current(&head.webhook_id).expect("it exists").activation;
        attempt::encode(&delivery_to_outcome::record(&Ended {
            delivery: &delivery,
            webhook: &self.webhook,
            request: &request,
            reply: &reply,
            started_at: NOW,
            duration_ms: 3,
            settlement,
            verdict: Verdict { counted: false, closed: false },
            health: &Health::new(activation),
        }))
    }
}

fn answer() -> Answer {
    let headers = [("server", "nginx"), ("content-length", "0"), ("connection", "keep-alive")];
    Answer {
        status: http::StatusCode::OK,
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        body: String::new(),
        body_bytes: 0,
        truncated: false,
        retry_after: None,
    }
}

fn messages(mut input: Input, count: usize) -> Vec<Message> {
    let at = NOW.to_rfc3339();
    (0..count).map(|_| input.next(&at)).collect()
}

/// All instructions of a run of this program that repeats a step.
fn instructions(step: Step, repeats: u32) -> u64 {
    let name = step.to_possible_value().expect("each step has a name");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind-{}", name.get_name()));
    let program = env::current_exe().expect("Linux knows it");
    let counted = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--step", name.get_name(), "--repeats", &repeats.to_string()])
        .stdout(Stdio::null())
        .status()
        .expect("valgrind is installed");
    assert!(counted.success(), "valgrind ended with {counted}");
    let said = fs::read_to_string(&file).expect("callgrind has written it");
    let sum = said.lines().find_map(|line| line.strip_prefix("summary: ").or(line.strip_prefix("totals: ")));
    sum.and_then(|sum| sum.trim().parse().ok()).expect("it says how many there were")
}

/// What was counted before.
fn kept_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.json")
}

fn main() {
    let options = Options::parse();
    if let (Some(step), Some(repeats)) = (options.step, options.repeats) {
        step.repeat(repeats);
        return;
    }
    let kept = fs::read_to_string(kept_in()).unwrap_or_else(|_| "{}".to_owned());
    let kept: BTreeMap<String, f64> = serde_json::from_str(&kept).expect("it was written here");
    let steps = Step::value_variants().iter().copied();
    let counted: BTreeMap<String, f64> =
        steps.map(|step| (step.name().to_owned(), step.count().round())).collect();
    println!("{}", table(&counted, &kept));
    if options.save {
        let text = format!("{:#}\n", Value::from_iter(counted));
        fs::write(kept_in(), text).expect("the folder can be written");
    } else if counted.iter().any(|(step, now)| kept.get(step).is_some_and(|before| *now > before * MOST)) {
        eprintln!("a step takes over {MOST} times the instructions that it took before");
        std::process::exit(1);
    }
}

fn table(counted: &BTreeMap<String, f64>, kept: &BTreeMap<String, f64>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["step", "instructions", "before", "ratio"]);
    for (step, now) in counted {
        let (before, ratio) = match kept.get(step) {
            Some(before) => (before.to_string(), format!("{:.3}", now / before)),
            None => ("–".to_owned(), "–".to_owned()),
        };
        table.add_row([step.clone(), now.to_string(), before, ratio]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

//! Messages as people write them: few chats have most of them, most are short, some are very long.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, LogNormal, Zipf};
use serde_json::{Value, json};

/// Half of the texts are shorter, in characters.
const MEDIAN: f64 = 40.0;
/// Spread of the logarithm of lengths: one text in a hundred has more than 650 characters.
const SPREAD: f64 = 1.2;
/// The longest text.
const LONGEST: f64 = 2_000.0;
const WORDS: [&str; 16] = [
    "hello",
    "thanks",
    "when",
    "tomorrow",
    "the",
    "order",
    "please",
    "השבוע",
    "see",
    "you",
    "🙂",
    "ok",
    "gracias",
    "invoice",
    "número",
    "👍🏽",
];
const NAMES: [&str; 6] = ["John Doe", "דנה כהן", "María José", "O'Neill & Sons", "Zoë 🌸", "李小龙"];

/// Which chats messages belong to.
enum Chats {
    /// A few have most of the messages, as among people.
    Popular(Zipf<f64>),
    /// One after the other, over and over.
    InTurn { next: u64, all: u64 },
}

/// A message, ready to be published.
pub struct Message {
    /// Its id.
    pub id: String,
    /// Its chat, which is the record's key.
    pub chat: String,
    /// The event, JSON.
    pub event: String,
}

/// An endless stream of messages, decided by a seed.
pub struct Input {
    random: StdRng,
    chats: Chats,
    length: LogNormal<f64>,
    /// They belong to so many, each with chats of its own.
    workspaces: u64,
    /// What the names of these begin with.
    workspace: &'static str,
    /// What tells them from those of other streams.
    name: &'static str,
    number: u64,
}

impl Input {
    /// Messages of so many chats, of which a few have most.
    pub fn popular(chats: usize, seed: u64) -> Self {
        let popularity = Zipf::new(chats as f64, 1.0).expect("there are chats");
        Self::of(Chats::Popular(popularity), seed)
    }

    /// Messages of so many chats, one after the other.
    pub fn in_turn(chats: usize, seed: u64) -> Self {
        Self::of(Chats::InTurn { next: 0, all: chats as u64 }, seed)
    }

    fn of(chats: Chats, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            chats,
            length: LogNormal::new(MEDIAN.ln(), SPREAD).expect("the spread is positive"),
            workspaces: 1,
            workspace: "ws-",
            name: "",
            number: 0,
        }
    }

    /// The same of so many workspaces, `ws-0` and on.
    pub fn workspaces(mut self, count: usize) -> Self {
        self.workspaces = count as u64;
        self
    }

    /// The same of workspaces with other names.
    pub fn of_workspace(mut self, name: &'static str) -> Self {
        self.workspace = name;
        self
    }

    /// The same with chats and messages that no stream of another name has.
    pub fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// The next message, sent at a time in RFC 3339.
    pub fn next(&mut self, at: &str) -> Message {
        let chat = match &mut self.chats {
            Chats::Popular(popularity) => popularity.sample(&mut self.random) as u64,
            Chats::InTurn { next, all } => {
                *next = *next % *all + 1;
                *next
            }
        };
        self.number += 1;
        let id = format!("{}3EB0{:016X}", self.name, self.number);
        let event = self.event(chat, &id, at);
        Message { id, chat: self.id_of(chat), event: event.to_string() }
    }

    fn id_of(&self, chat: u64) -> String {
        format!("{}{chat}", self.name)
    }

    /// A message of this chat.
    fn event(&mut self, chat: u64, id: &str, at: &str) -> Value {
        let length = self.length.sample(&mut self.random).clamp(1.0, LONGEST) as usize;
        let mut text = String::new();
        while text.chars().count() < length {
            text.push_str(WORDS[self.random.random_range(0..WORDS.len())]);
            text.push(' ');
        }
        let chat_id = self.id_of(chat);
        let name = NAMES[chat as usize % NAMES.len()];
        let phone = format!("+97254{chat:07}");
        json!({
            "workspace_id": format!("{}{}", self.workspace, chat % self.workspaces),
            "whatsapp_account": {"full_name": "Amnon Haha", "email": "amnon@acme.example", "phone": "+972500000000"},
            "chat": {
                "full_name": name, "responsible_name": "Amnon", "responsible_email": "amnon@acme.example",
                "chat_url": format!("https://crm.example/chat/{chat_id}/"), "chat_id": chat_id,
                "is_new_chat": false, "is_group": false, "phone": phone,
            },
            "message": {
                "direction": "received", "timestamp": at, "message_id": id,
                "sender": {"full_name": name, "phone": phone},
                "recipient": {"full_name": "Amnon Haha", "phone": "+972500000000"}, "text": text.trim_end(),
            },
        })
    }
}

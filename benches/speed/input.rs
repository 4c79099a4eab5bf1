//! Messages as people write them: few chats have most of them, most are short, some are very long.

use bundlehook::io::clock;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use rand_distr::{Distribution as _, LogNormal, Zipf};
use serde_json::{Value, json};

use super::support::{Outgoing, System};

/// Messages published at once.
const BATCH: usize = 20_000;
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

/// An endless stream of events of one workspace, decided by a seed.
pub struct Input {
    random: StdRng,
    chat: Zipf<f64>,
    length: LogNormal<f64>,
    number: u64,
}

impl Input {
    /// Messages of so many chats.
    pub fn new(chats: usize, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            chat: Zipf::new(chats as f64, 1.0).expect("there are chats"),
            length: LogNormal::new(MEDIAN.ln(), SPREAD).expect("the spread is positive"),
            number: 0,
        }
    }

    /// The next message: its chat, which is the record's key, and the event.
    fn next(&mut self) -> (String, String) {
        let chat = self.chat.sample(&mut self.random) as u64;
        let event = self.event(chat);
        (chat.to_string(), event.to_string())
    }

    /// Publishes so many messages; answers how many bytes their events have.
    pub async fn publish(&mut self, system: &System, messages: usize) -> usize {
        let mut bytes = 0;
        for from in (0..messages).step_by(BATCH) {
            let batch: Vec<_> = (from..(from + BATCH).min(messages)).map(|_| self.next()).collect();
            bytes += batch.iter().map(|(_, event)| event.len()).sum::<usize>();
            let records = batch.into_iter().map(|(chat, event)| Outgoing::new(chat, event));
            system.produce("message-events", records).await;
        }
        bytes
    }

    /// A message of this chat.
    fn event(&mut self, chat: u64) -> Value {
        let length = self.length.sample(&mut self.random).clamp(1.0, LONGEST) as usize;
        let mut text = String::new();
        while text.chars().count() < length {
            text.push_str(WORDS[self.random.random_range(0..WORDS.len())]);
            text.push(' ');
        }
        self.number += 1;
        let name = NAMES[chat as usize % NAMES.len()];
        let phone = format!("+97254{chat:07}");
        json!({
            "workspace_id": "ws",
            "whatsapp_account": {"full_name": "Amnon Haha", "email": "amnon@acme.example", "phone": "+972500000000"},
            "chat": {
                "full_name": name, "responsible_name": "Amnon", "responsible_email": "amnon@acme.example",
                "chat_url": format!("https://crm.example/chat/{chat}/"), "chat_id": chat.to_string(),
                "is_new_chat": false, "is_group": false, "phone": phone,
            },
            "message": {
                "direction": "received", "timestamp": clock::now().to_rfc3339(),
                "message_id": format!("3EB0{:016X}", self.number),
                "sender": {"full_name": name, "phone": phone},
                "recipient": {"full_name": "Amnon Haha", "phone": "+972500000000"}, "text": text.trim_end(),
            },
        })
    }
}

//! What the store of windows must come to, said as simply as possible: a log of messages, and what each window of it
//! holds.

use std::collections::{BTreeMap, HashSet};

use bundlehook::model::position::ClosedWindow;
use bundlehook::model::time::Millis;
use bundlehook::model::window::{Granularity, Window, WindowKey, WindowRule};

/// Length of an hour, in milliseconds.
const HOUR: i64 = 1_000;
/// Each message belongs to a window of each of these.
pub const GRANULARITIES: [Granularity; 2] = [Granularity::OneHour, Granularity::SixHours];

/// Small parts, so that windows are cut often.
pub fn rule() -> WindowRule {
    let hour = std::time::Duration::from_millis(HOUR as u64);
    let rule = WindowRule::new(hour, std::time::Duration::ZERO, std::time::Duration::ZERO);
    WindowRule { part_messages: 4, part_bytes: 1_000, ..rule }
}

/// A message in the log. Hours never go back, and the first message of an hour closes the boundaries up to it.
#[derive(Debug, Clone)]
pub struct Message {
    pub offset: i64,
    pub hour: i64,
    pub chat: u8,
    /// Tells repeats.
    pub id: u8,
    pub size: usize,
    /// Which details of the chat it carries.
    pub details: u8,
}

impl Message {
    /// The boundary that is closed before it.
    pub fn closed(&self) -> Millis {
        Millis(self.hour * HOUR)
    }

    pub fn window(&self, granularity: Granularity) -> WindowKey {
        let hours = i64::from(granularity.hours());
        let start = self.hour / hours * hours * HOUR;
        let window = Window { granularity, start: Millis(start), end: Millis(start + hours * HOUR) };
        WindowKey { window, workspace: "ws".to_owned(), chat: format!("c{}", self.chat) }
    }

    pub fn frame(&self) -> Vec<u8> {
        format!("[{}:{}]", self.offset, self.id).into_bytes()
    }

    pub fn details_frame(&self) -> Vec<u8> {
        format!("<{}>", self.details).into_bytes()
    }
}

/// A place in one of the two streams that windows are published to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A part that the message at an offset sealed.
    Part { by: i64, window: String },
    /// What was left of a window.
    Closing { closed: ClosedWindow, window: String },
}

/// What is published there: the number of the part, or how many there were before, and the window's log.
pub type Content = (u32, Vec<u8>);

/// A window on its way.
#[derive(Default)]
struct Filling {
    first: i64,
    ids: HashSet<u8>,
    parts: u32,
    log: Vec<u8>,
    messages: u32,
    bytes: usize,
    details: Option<u8>,
}

/// Everything that must be published of a log once the boundaries up to one are closed.
pub fn published(log: &[Message], closed: Millis) -> BTreeMap<Place, Content> {
    let (rule, mut all) = (rule(), BTreeMap::new());
    let mut windows = BTreeMap::<String, (WindowKey, Filling)>::new();
    for message in log {
        for key in GRANULARITIES.map(|granularity| message.window(granularity)) {
            let name = key.name();
            let (_, filling) = windows
                .entry(name.clone())
                .or_insert_with(|| (key.clone(), Filling { first: message.offset, ..Filling::default() }));
            if !filling.ids.insert(message.id) {
                continue;
            }
            let full = filling.messages + 1 > rule.part_messages
                || filling.bytes + message.size > rule.part_bytes as usize;
            if filling.messages > 0 && full {
                filling.parts += 1;
                let part = (filling.parts, std::mem::take(&mut filling.log));
                all.insert(Place::Part { by: message.offset, window: name }, part);
                (filling.messages, filling.bytes, filling.details) = (0, 0, None);
            }
            if filling.details.replace(message.details) != Some(message.details) {
                filling.log.extend(message.details_frame());
            }
            filling.log.extend(message.frame());
            filling.messages += 1;
            filling.bytes += message.size;
        }
    }
    for (name, (key, filling)) in windows.into_iter().filter(|(_, (key, _))| key.window.end <= closed) {
        let Window { granularity, end, .. } = key.window;
        let closed = ClosedWindow { boundary: end, first_offset: filling.first, granularity };
        all.insert(Place::Closing { closed, window: name }, (filling.parts, filling.log));
    }
    all
}

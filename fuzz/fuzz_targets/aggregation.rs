//! The note of a bundle: nothing of what people wrote is markup, and nothing of it is a control character.
#![no_main]

use bundlehook::model::aggregation::{Line, html, link};
use chrono::{DateTime, Utc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<(&str, i64, &str)>, Option<&str>, &str, &str)| {
    let (messages, permalink, chat_url, product) = input;
    let time = |seconds: i64| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default();
    let lines = messages.iter().map(|(sender, at, text)| Line { sender, timestamp: time(*at), text });
    let link = link(permalink, chat_url);
    let mut note = html(lines, link, product);
    assert!(!note.chars().any(char::is_control), "{note:?}");
    // What is ours goes; what is left is theirs.
    note = note.replace("<br/>", " ");
    if link.is_some() {
        let ours = |text: &str| text.matches("<a href='").count();
        assert_eq!(ours(&note), 1, "{note:?}");
        note = note.replacen("<a href='", "", 1).replacen("'>here</a>", "", 1);
    }
    assert!(!note.contains(['<', '>', '"', '\'']), "{note:?}");
    let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
    let bare = entities.iter().fold(note.clone(), |note, entity| note.replace(entity, ""));
    assert!(!bare.contains('&'), "{note:?}");
});

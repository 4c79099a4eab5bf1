//! A request as a person reads it in a terminal.

use std::fmt::Write;

use serde::{Deserialize, de::IgnoredAny};

use super::Recorded;

/// Lines of one request's text that are shown.
const MAX_LINES: usize = 50;
/// Characters of a line that are shown.
const MAX_CHARS: usize = 500;

/// The parts of both POST bodies that are shown.
#[derive(Deserialize)]
struct Body {
    chat: Chat,
    messages: Option<Vec<IgnoredAny>>,
    aggregation: Option<String>,
    message: Option<Message>,
}

#[derive(Deserialize)]
struct Chat {
    full_name: String,
}

#[derive(Deserialize)]
struct Message {
    timestamp: String,
    sender: Party,
    text: String,
}

#[derive(Deserialize)]
struct Party {
    full_name: String,
}

/// The request as lines.
pub fn show(request: &Recorded<'_>) -> String {
    let mut shown = headline(request);
    let (title, text) = contents(request.body);
    if let Some(title) = title {
        push_line(&mut shown, "  ", &title);
    }
    let mut lines = text.iter().flat_map(|text| text.lines());
    for line in lines.by_ref().take(MAX_LINES) {
        push_line(&mut shown, "  | ", line);
    }
    match lines.count() {
        0 => {}
        more => push_line(&mut shown, "  ", &format!("… and {more} more lines")),
    }
    shown
}

/// Time, method, path, id, size and answer.
fn headline(request: &Recorded<'_>) -> String {
    let Recorded { received_at, method, path, status, .. } = request;
    let mut line = format!("{received_at} {method} {path}, {}", size(request.body.len()));
    if let Some(id) = request.headers.get("webhook-id") {
        // Writing to a string can't fail.
        let _ = write!(line, ", webhook-id {id}");
    }
    if let Some(part) = request.headers.get("bundlehook-part") {
        let _ = write!(line, ", part {part}");
    }
    let _ = write!(line, ": answered {status}");
    let mut shown = String::new();
    push_line(&mut shown, "", &line);
    shown
}

fn size(bytes: usize) -> String {
    match bytes {
        0..=1023 => format!("{bytes} B"),
        1024..=1_048_575 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A title and the pieces of text of a body; of a strange one its beginning.
fn contents(body: &str) -> (Option<String>, Vec<String>) {
    match serde_json::from_str(body) {
        Ok(Body { chat, messages: Some(messages), aggregation: Some(text), .. }) => {
            let count = messages.len();
            let title = format!("{}, {count} message{}", chat.full_name, if count == 1 { "" } else { "s" });
            (Some(title), text.split("<br/>").map(unescape).collect())
        }
        Ok(Body { chat, message: Some(message), .. }) => {
            let Message { timestamp, sender, text } = message;
            (Some(chat.full_name), vec![format!("from {} on {timestamp}: {text}", sender.full_name)])
        }
        _ => (None, vec![body.chars().take(MAX_CHARS).collect()]),
    }
}

/// Undoes the five escapes of the aggregation; `&amp;` last, so that nothing is undone twice.
fn unescape(html: &str) -> String {
    let text = html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    text.replace("&amp;", "&")
}

/// Adds a line that can do nothing to a terminal, cut if it is long.
fn push_line(shown: &mut String, indent: &str, line: &str) {
    shown.push_str(indent);
    let mut chars = line.chars();
    for char in chars.by_ref().take(MAX_CHARS) {
        push_inert(shown, char);
    }
    if chars.next().is_some() {
        shown.push('…');
    }
    shown.push('\n');
}

/// Control characters could move the cursor or change the colours, direction marks reorder what stands around them.
fn push_inert(shown: &mut String, char: char) {
    let reorders = matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match char {
        '\t' => shown.push(' '),
        _ if char.is_control() || reorders => shown.extend(char.escape_unicode()),
        _ => shown.push(char),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shown(body: &str) -> String {
        let headers =
            BTreeMap::from([("webhook-id", "0d4d7f52".to_owned()), ("bundlehook-part", "2".to_owned())]);
        show(&Recorded {
            received_at: "2021-02-24T16:25:30.412Z".to_owned(),
            method: "POST",
            path: "/x?y=1",
            headers,
            body,
            status: 200,
        })
    }

    #[test]
    fn a_bundle_shows_its_aggregation_line_by_line() {
        let body = serde_json::json!({
            "chat": {"full_name": "John D."}, "messages": [{}, {}],
            "aggregation": "from J on 2021-02-24 16:25: a &lt;b&gt; &amp;amp;<br/>c<br/>from R on 2021-02-24 16:26: d",
        });
        let expected = "2021-02-24T16:25:30.412Z POST /x?y=1, 138 B, webhook-id 0d4d7f52, part 2: answered 200\n  \
            John D., 2 messages\n  | from J on 2021-02-24 16:25: a <b> &amp;\n  | c\n  \
            | from R on 2021-02-24 16:26: d\n";
        let shown = shown(&body.to_string());
        assert_eq!(shown.replace(&format!(" {} B", body.to_string().len()), " 138 B"), expected);
    }

    #[test]
    fn the_examples_are_understood() {
        let single = shown(include_str!("../../../tests/examples/message.json"));
        assert!(
            single.contains("\n  John Doe\n  | from John Doe on 2021-02-24T16:25:29+0000: Hi!"),
            "{single}"
        );
        let bundle = shown(include_str!("../../../tests/examples/bundle.json"));
        assert!(
            bundle.contains("\n  John D., 3 messages\n  | from John Doe on 2021-02-24 16:25: Hi!"),
            "{bundle}"
        );
    }

    #[test]
    fn nothing_that_is_shown_can_act_on_a_terminal() {
        let shown = shown("\u{1b}]0;title\u{7} \u{9b}31m \u{202e}abc 👨\u{200d}👩\ta");
        assert!(
            shown.ends_with("  | \\u{1b}]0;title\\u{7} \\u{9b}31m \\u{202e}abc 👨\u{200d}👩 a\n"),
            "{shown}"
        );
    }

    #[test]
    fn a_long_text_is_cut() {
        let shown = shown(&"x".repeat(10_000));
        assert!(shown.len() < 1_000, "{}", shown.len());
    }
}

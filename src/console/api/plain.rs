//! Texts of strangers in a file for people: what a terminal would obey is shown by its code.

use std::borrow::Cow;

/// A text in one line.
pub fn plain(text: &str) -> Cow<'_, str> {
    shown(text, |_| false)
}

/// A text of several lines.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    shown(text, |c| matches!(c, '\n' | '\t'))
}

fn shown(text: &str, stays: fn(char) -> bool) -> Cow<'_, str> {
    let obeyed = |c: char| !stays(c) && (c.is_control() || turns(c));
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if obeyed(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain.into()
}

/// True for what ends a line or turns the direction of writing, so that a text seems to be another.
fn turns(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown_by_its_code() {
        assert_eq!(plain("a\u{1b}[2J\nb\u{202e}c"), "a\\u{1b}[2J\\u{a}b\\u{202e}c");
        assert_eq!(plain_lines("a\n\tb\u{9b}\r"), "a\n\tb\\u{9b}\\u{d}");
        assert_eq!(plain("Zoë 👩‍👧"), "Zoë 👩‍👧");
    }
}

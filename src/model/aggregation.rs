//! The `aggregation` field: a whole bundle as HTML for a CRM note (spec, "What the receiver gets").

use std::{fmt::Write as _, sync::LazyLock};

use chrono::{
    DateTime, Utc,
    format::{Item, StrftimeItems},
};

/// A time as it stands in a line; parsed once.
static MINUTE: LazyLock<Vec<Item<'static>>> =
    LazyLock::new(|| StrftimeItems::new("%Y-%m-%d %H:%M").collect());

/// One line of the note.
pub struct Line<'a> {
    /// Who wrote it, as displayed.
    pub sender: &'a str,
    /// When, by the sender's clock.
    pub timestamp: DateTime<Utc>,
    /// What was written.
    pub text: &'a str,
}

/// Writes the note: a line a message, then the link to the conversation if there is one.
pub fn html<'a>(lines: impl IntoIterator<Item = Line<'a>>, link: Option<&str>, product: &str) -> String {
    let mut out = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            out.push_str("<br/>");
        }
        out.push_str("from ");
        escape_into(&mut out, line.sender);
        out.push_str(" on ");
        // Writing into a text does not fail.
        let _ = write!(out, "{}", line.timestamp.format_with_items(MINUTE.iter()));
        out.push_str(": ");
        escape_into(&mut out, line.text);
    }
    if let Some(link) = link {
        out.push_str("<br/>Click <a href='");
        escape_into(&mut out, link);
        out.push_str("'>here</a> to open the conversation in ");
        escape_into(&mut out, product);
    }
    out
}

/// The link of a bundle: the permalink of its first message, or the chat's URL where that is no http(s) link.
#[must_use]
pub fn link<'a>(permalink: Option<&'a str>, chat_url: &'a str) -> Option<&'a str> {
    permalink.filter(|link| is_http(link)).or_else(|| Some(chat_url).filter(|link| is_http(link)))
}

fn is_http(link: &str) -> bool {
    let starts = |scheme: &str| {
        link.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            && link.len() > scheme.len()
    };
    starts("http://") || starts("https://")
}

/// Escapes what has a meaning in HTML, turns line ends into `<br/>` and drops other control characters (category
/// Cc). Format characters (Cf) stay, since emoji are built with them.
fn escape_into(out: &mut String, text: &str) {
    let is_special = |c: char| matches!(c, '&' | '<' | '>' | '"' | '\'') || c.is_control();
    let mut rest = text;
    while let Some(at) = rest.find(is_special) {
        out.push_str(&rest[..at]);
        let mut chars = rest[at..].chars();
        let special = chars.next();
        rest = chars.as_str();
        if special == Some('\r') {
            rest = rest.strip_prefix('\n').unwrap_or(rest);
        }
        out.push_str(match special {
            Some('&') => "&amp;",
            Some('<') => "&lt;",
            Some('>') => "&gt;",
            Some('"') => "&quot;",
            Some('\'') => "&#39;",
            Some('\r' | '\n') => "<br/>",
            _ => "",
        });
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scraper::{Html, Node};

    use super::*;

    fn note(sender: &str, text: &str, link: Option<&str>) -> String {
        let timestamp = DateTime::from_timestamp(1_614_183_929, 0).unwrap();
        html([Line { sender, timestamp, text }], link, "Timelines & Co")
    }

    /// What a browser shows: texts, with a line feed for each `br`.
    fn shown(html: &str) -> String {
        let fragment = Html::parse_fragment(html);
        let mut shown = String::new();
        for node in fragment.tree.nodes() {
            match node.value() {
                Node::Text(text) => shown.push_str(text),
                Node::Element(element) if element.name() == "br" => shown.push('\n'),
                Node::Element(element) => {
                    assert!(["html", "body", "a"].contains(&element.name()), "{}", element.name());
                }
                _ => {}
            }
        }
        shown
    }

    /// What should be shown of a text: CRLF, CR and LF are line ends, other controls are gone.
    fn plain(text: &str) -> String {
        text.replace("\r\n", "\n")
            .replace('\r', "\n")
            .chars()
            .filter(|c| *c == '\n' || !c.is_control())
            .collect()
    }

    #[test]
    fn a_line_has_sender_time_and_text() {
        assert_eq!(note("A", "b", None), "from A on 2021-02-24 16:25: b");
    }

    #[test]
    fn each_line_end_is_one_break() {
        assert_eq!(
            note("A", "1\r\n2\r3\n4\n\r5", None),
            "from A on 2021-02-24 16:25: 1<br/>2<br/>3<br/>4<br/><br/>5"
        );
    }

    #[test]
    fn the_link_is_the_permalink_or_the_chat_or_nothing() {
        assert_eq!(link(Some("https://a/"), "https://b/"), Some("https://a/"));
        assert_eq!(link(Some("javascript:alert(1)"), "https://b/"), Some("https://b/"));
        assert_eq!(link(None, "HTTP://b/"), Some("HTTP://b/"));
        assert_eq!(link(None, "ftp://b/"), None);
        assert_eq!(link(Some(""), ""), None);
    }

    #[test]
    fn a_link_can_not_leave_its_attribute() {
        let html = note("A", "b", Some("https://x/'onclick='alert(1)"));
        let fragment = Html::parse_fragment(&html);
        let anchor = fragment.select(&scraper::Selector::parse("a").unwrap()).next().unwrap();
        assert_eq!(anchor.value().attrs().collect::<Vec<_>>(), [("href", "https://x/'onclick='alert(1)")]);
        assert!(html.ends_with("to open the conversation in Timelines &amp; Co"));
    }

    #[test]
    fn emoji_that_are_built_with_joiners_stay_whole() {
        assert!(note("A", "👩‍👩‍👧 \u{feff}x", None).ends_with("👩‍👩‍👧 \u{feff}x"));
    }

    proptest! {
        #[test]
        fn a_browser_shows_the_text_that_was_written(sender in "\\PC{0,20}", text in "(?s).{0,60}|[<>&\"'\r\n\t a-z]{0,60}") {
            let expected = format!("from {} on 2021-02-24 16:25: {}", plain(&sender), plain(&text));
            prop_assert_eq!(shown(&note(&sender, &text, None)), expected);
        }
    }
}

//! An e-mail as it is sent: headers, a text part and an HTML part.

use std::time::{Duration, UNIX_EPOCH};

use askama::Template;
use lettre::{
    Address, Message,
    message::{Mailbox, MultiPart, SinglePart},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

use crate::{
    model::{health::NoticeKind, history::HOLD, time::Millis},
    wire::notice::Mail,
};

/// The most characters of a name or label in an e-mail.
const MOST: usize = 200;

/// Why an e-mail can't be written.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// Nobody can have this address.
    #[error("`to.email` is no e-mail address: {0}")]
    Address(#[from] lettre::address::AddressError),
    /// A template, which a test excludes.
    #[error("the text can't be written: {0}")]
    Template(#[from] askama::Error),
    /// What the library refuses.
    #[error("the e-mail can't be written: {0}")]
    Message(#[from] lettre::error::Error),
}

#[derive(Template)]
#[template(path = "notice.txt", config = ".askama.toml", escape = "none")]
struct TextPart<'a>(&'a Words);

#[derive(Template)]
#[template(path = "notice.html", config = ".askama.toml")]
struct HtmlPart<'a>(&'a Words);

/// What is filled in.
struct Words {
    subject: String,
    name: String,
    label: String,
    url: String,
    what: String,
    /// Names the time.
    when: &'static str,
    /// The same in the width of the text part's column.
    when_column: String,
    at: String,
    error: Option<String>,
    next: String,
    link: Option<String>,
}

// The templates speak of the words by their names alone.
macro_rules! reach {
    ($part:ident) => {
        impl std::ops::Deref for $part<'_> {
            type Target = Words;
            fn deref(&self) -> &Words {
                self.0
            }
        }
    };
}
reach!(TextPart);
reach!(HtmlPart);

/// Writes an e-mail. `now` is its date. The same notification gives the same `Message-ID`.
///
/// # Errors
/// [`LetterError`]
pub fn write(
    mail: &Mail,
    from: &Mailbox,
    console: Option<&Url>,
    now: Millis,
) -> Result<Message, LetterError> {
    let words = words(mail, console);
    let to: Address = mail.to.email.trim().parse()?;
    let (text, html) = (TextPart(&words).render()?, HtmlPart(&words).render()?);
    let date = UNIX_EPOCH + Duration::from_millis(now.0.try_into().unwrap_or_default());
    let id = format!("<{}@{}>", mail.id, from.email.domain());
    let parts = MultiPart::builder()
        .kind(lettre::message::MultiPartKind::Alternative)
        .boundary(mail.id.simple().to_string())
        .singlepart(SinglePart::plain(text))
        .singlepart(SinglePart::html(html));
    let message = Message::builder()
        .message_id(Some(id))
        .date(date)
        .from(from.clone())
        .to(Mailbox::new(Some(words.name.clone()).filter(|name| !name.is_empty()), to))
        .subject(&words.subject)
        // Nobody is to answer by machine.
        .header(AutoSubmitted)
        .multipart(parts)?;
    Ok(message)
}

/// An e-mail as it is shown where none are sent: to whom, its subject, its text.
#[must_use]
pub fn parts(mail: &Mail, console: Option<&Url>) -> (String, String, String) {
    let words = words(mail, console);
    let text = TextPart(&words).render().unwrap_or_default();
    (format!("{} <{}>", words.name, one_line(&mail.to.email)), words.subject, text)
}

#[derive(Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn words(mail: &Mail, console: Option<&Url>) -> Words {
    let label = one_line(&mail.label);
    let (subject, what, when, next) = match mail.kind {
        NoticeKind::Warning => (
            format!("Webhook “{label}” is failing"),
            format!("your webhook “{label}” has failed {} times in a row.", mail.failures),
            "Failing",
            "Deliveries are tried again with growing pauses, and nothing is lost meanwhile. After more than 10 failures in a \
             row the webhook is disabled. Please look after its endpoint."
                .to_owned(),
        ),
        NoticeKind::Disabled => (
            format!("Webhook “{label}” was disabled"),
            format!("your webhook “{label}” was disabled, because it failed {} times in a row.", mail.failures),
            "Disabled",
            format!(
                "What it would have got is held until {}. Mend its endpoint, then enable the webhook again in the console: \
                 you choose whether what is held is sent or discarded.",
                minute(mail.at + HOLD)
            ),
        ),
        NoticeKind::Enabled => (
            format!("Webhook “{label}” was enabled again"),
            format!("your webhook “{label}” was enabled again."),
            "Enabled",
            "Deliveries go on from now. There is nothing that you have to do.".to_owned(),
        ),
    };
    let link = console.map(|console| {
        let id = utf8_percent_encode(mail.webhook_id.as_str(), NON_ALPHANUMERIC);
        format!("{}/webhooks/{id}", console.as_str().trim_end_matches('/'))
    });
    Words {
        subject,
        name: one_line(&mail.to.full_name),
        url: one_line(&mail.url),
        what,
        when,
        when_column: format!("{:<13}", format!("{when}:")),
        at: minute(mail.at),
        error: mail.last_error.as_deref().map(one_line),
        next,
        link,
        label,
    }
}

/// To the minute: `2021-02-24 16:25 UTC`.
fn minute(at: Millis) -> String {
    at.to_utc().format("%Y-%m-%d %H:%M UTC").to_string()
}

/// A text of somebody else on one line, without control characters: no header and no line of the text part can be forged
/// with it.
fn one_line(text: &str) -> String {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let spaced: String = text.chars().map(|c| if is_break(c) { ' ' } else { c }).collect();
    let line = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() > MOST { line.chars().take(MOST).chain(['…']).collect() } else { line }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{
        ids::{WebhookId, WorkspaceId},
        webhook::Owner,
    };

    fn mail(kind: NoticeKind) -> Mail {
        Mail {
            id: Uuid::from_u128(0x3a4b_5c6d_7e8f_5a0b_9c1d_2e3f_4a5b_6c7d),
            kind,
            workspace_id: WorkspaceId::parse("ws-acme").unwrap(),
            webhook_id: WebhookId::parse("wh/1 ü").unwrap(),
            to: Owner { full_name: "Amnon Haha".to_owned(), email: "amnon@acme.example".to_owned() },
            label: "CRM notes".to_owned(),
            url: "https://hooks.example/abc?token=***".to_owned(),
            failures: if kind == NoticeKind::Warning { 5 } else { 11 },
            last_error: (kind != NoticeKind::Enabled).then(|| "endpoint answered `503`".to_owned()),
            at: Millis(1_614_183_929_123),
        }
    }

    fn written(mail: &Mail) -> String {
        let from: Mailbox = "Bundlehook <hooks@product.example>".parse().unwrap();
        let console = Url::parse("https://console.example/").unwrap();
        let message = write(mail, &from, Some(&console), Millis(1_614_183_930_000)).unwrap();
        String::from_utf8(message.formatted()).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn the_three_mails() {
        for (name, kind) in [
            ("warning", NoticeKind::Warning),
            ("disabled", NoticeKind::Disabled),
            ("enabled", NoticeKind::Enabled),
        ] {
            insta::assert_snapshot!(name, written(&mail(kind)));
        }
    }

    #[test]
    fn hostile_names_and_labels_forge_no_header_no_line_and_no_markup() {
        let mut mail = mail(NoticeKind::Disabled);
        let hostile = "x\r\nBcc: thief@evil.example\r\n\r\n<script>alert(1)</script>\u{2028}\u{7}";
        mail.label = hostile.to_owned();
        mail.to.full_name = format!("\"Eve\" <eve@evil.example>, {hostile}");
        mail.url = hostile.to_owned();
        mail.last_error = Some(hostile.to_owned());
        let words = words(&mail, None);
        for text in [TextPart(&words).render().unwrap(), HtmlPart(&words).render().unwrap()] {
            assert!(!text.lines().any(|line| line.trim_start().starts_with("Bcc:")), "{text}");
        }
        assert!(!HtmlPart(&words).render().unwrap().contains("<script>"));
        let text = written(&mail);
        let (head, _) = text.split_once("\n\n").unwrap();
        let names: Vec<_> = head.lines().filter(|line| !line.starts_with(' ')).collect();
        let names: Vec<_> = names.iter().filter_map(|line| Some(line.split_once(':')?.0)).collect();
        let expected =
            ["Message-ID", "Date", "From", "To", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type"];
        assert_eq!(names, expected, "{head}");
        let from: Mailbox = "hooks@product.example".parse().unwrap();
        let message = write(&mail, &from, None, Millis(0)).unwrap();
        assert_eq!(
            message.envelope().to().iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["amnon@acme.example"]
        );
    }

    #[test]
    fn an_address_that_nobody_can_have_is_refused() {
        let mut mail = mail(NoticeKind::Enabled);
        mail.to.email = "amnon@acme.example\r\nBcc: thief@evil.example".to_owned();
        let from: Mailbox = "hooks@product.example".parse().unwrap();
        assert!(matches!(write(&mail, &from, None, Millis(0)), Err(LetterError::Address(_))));
    }
}

//! E-mails that are shown instead of being sent.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{Frame, Visitor, failed, written};
use crate::console::{Shared, problem::Problem};

#[derive(Template)]
#[template(path = "mails.html", config = ".askama.toml")]
struct MailsPage {
    frame: Frame,
    mails: Vec<MailRow>,
}

struct MailRow {
    at: String,
    to: String,
    subject: String,
    text: String,
}

pub async fn page(State(console): State<Shared>, Visitor(caller): Visitor) -> Response {
    let Some(outbox) = &console.mails else {
        return failed(&Problem::missing("E-mails are sent here, and not shown."));
    };
    let theirs = outbox.all().into_iter().filter(|mail| caller.sees(&mail.workspace));
    let row = |mail: crate::io::smtp::outbox::ShownMail| MailRow {
        at: mail.at.to_rfc3339(),
        to: mail.to,
        subject: mail.subject,
        text: mail.text,
    };
    written(&MailsPage { frame: Frame::new(&console, &caller), mails: theirs.map(row).collect() })
}

//! E-mails that are shown instead of being sent.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use url::Url;

use super::letter;
use crate::{
    model::{ids::WorkspaceId, time::Millis},
    wire::notice::Mail,
};

/// So many are kept; the oldest go.
const MOST: usize = 100;

/// An e-mail, as it is shown.
#[derive(Debug, Clone)]
pub struct ShownMail {
    /// Whose owner gets it.
    pub workspace: WorkspaceId,
    /// When it would have been sent.
    pub at: Millis,
    /// Name and address.
    pub to: String,
    pub subject: String,
    /// The part in plain text.
    pub text: String,
}

/// The latest e-mails that were shown. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Arc<Mutex<VecDeque<ShownMail>>>);

impl Outbox {
    /// Keeps an e-mail, and answers it as a terminal shows it.
    pub fn put(&self, mail: &Mail, console: Option<&Url>, at: Millis) -> String {
        let (to, subject, text) = letter::parts(mail, console);
        let line = |line: &str| format!("  | {line}").trim_end().to_owned();
        let lines: Vec<String> =
            format!("To: {to}\nSubject: {subject}\n\n{text}").lines().map(line).collect();
        let shown = format!("e-mail (shown, not sent):\n{}", lines.join("\n"));
        let mut mails = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        mails.push_front(ShownMail { workspace: mail.workspace_id.clone(), at, to, subject, text });
        mails.truncate(MOST);
        shown
    }

    /// All of them, the latest first.
    #[must_use]
    pub fn all(&self) -> Vec<ShownMail> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

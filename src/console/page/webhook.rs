//! One webhook: its state, its activity, its settings.

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    Frame, Visited,
    actions::Secret,
    failed,
    form::SettingsForm,
    part_failed,
    show::{Attempt, Hook, path},
    written,
};
use crate::{
    commands::WebhookView,
    console::{Console, Shared, identity::Caller, problem::Problem},
    model::ids::WebhookId,
};

/// So many attempts are shown; 100 are in the download.
const ATTEMPTS: usize = 10;

/// A body of each kind, as receivers get it.
const SAMPLE_SINGLE: &str = include_str!("../../../tests/examples/message.json");
const SAMPLE_BUNDLE: &str = include_str!("../../../tests/examples/bundle.json");

#[derive(Template)]
#[template(path = "webhook.html", config = ".askama.toml")]
struct WebhookPage {
    frame: Frame,
    hook: Hook,
    form: SettingsForm,
    secret: Secret,
    attempts: Vec<Attempt>,
    sample: &'static str,
}

#[derive(Template)]
#[template(path = "state.html", config = ".askama.toml")]
struct StatePart {
    frame: Frame,
    hook: Hook,
}

#[derive(Template)]
#[template(path = "log.html", config = ".askama.toml")]
struct LogPart {
    frame: Frame,
    hook: Hook,
    attempts: Vec<Attempt>,
}

pub async fn page(State(console): State<Shared>, visited: Visited) -> Response {
    let Visited { caller, id } = visited;
    match console.commands.show(&id).await {
        Ok(view) => {
            let form = SettingsForm::of(&view, caller.edits() && console.editable);
            with_form(&console, &caller, &view, form).await
        }
        Err(error) => failed(&error.into()),
    }
}

/// The page of a webhook with its form as it is given.
pub async fn with_form(
    console: &Shared,
    caller: &Caller,
    view: &WebhookView,
    form: SettingsForm,
) -> Response {
    let attempts = match console.attempts(&view.webhook_id).await {
        Ok(attempts) => attempts,
        Err(problem) => return failed(&problem),
    };
    let frame = Frame::new(console, caller);
    let hook = Hook::new(view, &console.rule, console.editable);
    written(&WebhookPage {
        form,
        secret: Secret {
            path: path(&view.webhook_id),
            count: view.secrets,
            shown: None,
            version: None,
            problem: None,
        },
        sample: if hook.bundled { SAMPLE_BUNDLE } else { SAMPLE_SINGLE },
        frame,
        hook,
        attempts,
    })
}

pub async fn state(State(console): State<Shared>, visited: Visited) -> Response {
    match console.hook(&visited.caller, &visited.id).await {
        Ok((frame, hook)) => written(&StatePart { frame, hook }),
        Err(problem) => part_failed(&problem),
    }
}

pub async fn log(State(console): State<Shared>, visited: Visited) -> Response {
    let shown = async {
        let (frame, hook) = console.hook(&visited.caller, &visited.id).await?;
        let attempts = console.attempts(&visited.id).await?;
        Ok::<_, Problem>(LogPart { frame, hook, attempts })
    };
    match shown.await {
        Ok(part) => written(&part),
        Err(problem) => part_failed(&problem),
    }
}

impl Console {
    async fn hook(self: &Shared, caller: &Caller, id: &WebhookId) -> Result<(Frame, Hook), Problem> {
        let view = self.commands.show(id).await?;
        Ok((Frame::new(self, caller), Hook::new(&view, &self.rule, self.editable)))
    }

    async fn attempts(&self, id: &WebhookId) -> Result<Vec<Attempt>, Problem> {
        let log = self.commands.log(id, ATTEMPTS).await?;
        Ok(log.into_iter().map(Attempt::new).collect())
    }
}

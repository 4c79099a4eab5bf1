//! The form with the settings of a webhook.

use std::collections::{BTreeMap, BTreeSet};

use askama::Template;
use axum::{
    Form,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect, Response},
};
use serde::Deserialize;

use super::{Frame, Visited, Visitor, failed, part_failed, show::path, webhook, written};
use crate::{
    commands::{Patch, WebhookView},
    console::{Shared, identity::Caller, problem::Problem},
    model::{endpoint::parse_endpoint, ids::WorkspaceId, webhook::Owner},
};

/// What stands for a value that is not shown.
const MASK: &str = "***";

/// The granularities, with their words.
const GRANULARITIES: [(&str, &str); 5] = [
    ("none", "Each message at once"),
    ("1h", "One per chat every hour"),
    ("6h", "One per chat every 6 hours"),
    ("12h", "One per chat every 12 hours"),
    ("24h", "One per chat every 24 hours"),
];

/// The form, filled in.
#[allow(clippy::struct_excessive_bools, reason = "each decides on a part of the template by itself")]
#[derive(Default)]
pub struct SettingsForm {
    pub action: String,
    pub button: &'static str,
    pub editable: bool,
    pub version: u64,
    pub url: String,
    pub masked: bool,
    pub label: String,
    pub granularity: String,
    pub success: String,
    pub max_per_second: String,
    pub headers: String,
    pub has_headers: bool,
    pub hint: Option<String>,
    pub ask_workspace: bool,
    pub workspace_id: String,
    pub ask_owner: bool,
    pub owner_name: String,
    pub owner_email: String,
    pub problem: Option<String>,
    pub done: Option<String>,
    pub wrong: BTreeMap<String, String>,
}

impl SettingsForm {
    #[allow(clippy::unused_self, reason = "templates reach it through the form")]
    pub fn granularities(&self) -> &'static [(&'static str, &'static str)] {
        &GRANULARITIES
    }

    pub fn wrong(&self, field: &str) -> Option<&str> {
        self.wrong.get(field).map(String::as_str)
    }

    /// The form of a webhook as it is.
    pub fn of(view: &WebhookView, editable: bool) -> Self {
        Self {
            action: format!("/webhooks/{}/settings", path(&view.webhook_id)),
            button: "Save",
            editable,
            version: view.version,
            masked: view.url.contains(MASK),
            url: view.url.clone(),
            label: view.label.clone(),
            granularity: view.granularity.as_str().to_owned(),
            success: view.success.as_str().to_owned(),
            max_per_second: view.max_per_second.map(|most| most.to_string()).unwrap_or_default(),
            headers: view.headers.keys().flat_map(|name| [name, ": ", MASK, "\n"]).collect(),
            has_headers: !view.headers.is_empty(),
            ..Self::default()
        }
    }

    fn new(console: &Shared, caller: &Caller) -> Self {
        let knows_owner =
            caller.workspace.as_ref().is_some_and(|workspace| console.owner(caller, workspace).is_some());
        Self {
            action: "/webhooks".to_owned(),
            button: "Create",
            editable: true,
            granularity: "none".to_owned(),
            success: "200".to_owned(),
            ask_workspace: caller.workspace.is_none(),
            ask_owner: !knows_owner,
            ..Self::default()
        }
    }

    /// What was sent stands in it again.
    fn with(self, sent: &Sent) -> Self {
        Self {
            url: sent.url.clone(),
            label: sent.label.clone(),
            granularity: sent.granularity.clone(),
            success: sent.success.clone(),
            max_per_second: sent.max_per_second.clone(),
            headers: sent.headers.clone(),
            workspace_id: sent.workspace_id.clone(),
            owner_name: sent.owner_name.clone(),
            owner_email: sent.owner_email.clone(),
            hint: zapier(&sent.url, &sent.max_per_second),
            ..self
        }
    }

    /// What is wrong stands beside its field, or above.
    fn refused(mut self, problem: &Problem) -> Self {
        let known = ["url", "max_per_second", "headers", "owner", "workspace_id"];
        for error in &problem.errors {
            let field = error.field.split(['.', '[']).next().unwrap_or_default();
            if known.contains(&field) {
                self.wrong.insert(field.to_owned(), sentence(&error.detail));
            }
        }
        self.problem = Some(if self.wrong.is_empty() {
            sentence(&problem.detail)
        } else {
            "This can't be saved yet. What is wrong stands beside the field.".to_owned()
        });
        self
    }
}

/// A detail of the API for people.
fn sentence(detail: &str) -> String {
    let plain = detail.replace('`', "");
    let mut chars = plain.chars();
    chars.next().map(|first| first.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

fn zapier(url: &str, most: &str) -> Option<String> {
    let is_zapier = url::Url::parse(url).is_ok_and(|url| url.host_str() == Some("hooks.zapier.com"));
    let hint = "Zapier takes at most 25 calls a second: set that as most calls a second.";
    (is_zapier && most.trim().is_empty()).then(|| hint.to_owned())
}

#[derive(Template)]
#[template(path = "form.html", config = ".askama.toml")]
struct FormPart {
    form: SettingsForm,
}

#[derive(Template)]
#[template(path = "new.html", config = ".askama.toml")]
struct NewPage {
    frame: Frame,
    form: SettingsForm,
}

/// What a form sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sent {
    version: u64,
    url: String,
    label: String,
    granularity: String,
    success: String,
    max_per_second: String,
    headers: String,
    workspace_id: String,
    owner_name: String,
    owner_email: String,
}

impl Sent {
    /// The settings that are meant, given the names of the headers that there are.
    fn patch(&self, present: &BTreeSet<String>) -> Result<Patch, Problem> {
        let most = self.max_per_second.trim();
        let max_per_second = match most {
            "" => None,
            most => Some(most.parse::<u16>().map_err(|_| {
                Problem::invalid(format!(
                    "`max_per_second` is `{most}`, expected a whole number from 1 to 1000"
                ))
            })?),
        };
        let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let owner = text(&self.owner_name).zip(text(&self.owner_email));
        Ok(Patch {
            label: Some(self.label.trim().to_owned()),
            url: Some(self.url.trim().to_owned()),
            enabled: None,
            granularity: text(&self.granularity),
            success: text(&self.success),
            max_per_second: Some(max_per_second),
            secrets: None,
            headers: headers(&self.headers, present)?,
            owner: owner.map(|(full_name, email)| Owner { full_name, email }),
        })
    }
}

/// Headers of a form, one a line. A masked value stays as it is; one that is no longer there is taken away.
fn headers(text: &str, present: &BTreeSet<String>) -> Result<Vec<(String, Option<String>)>, Problem> {
    let (mut headers, mut named) = (Vec::new(), BTreeSet::new());
    for (index, line) in text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(|| {
            Problem::invalid(format!("`headers` has no colon in line {}, expected `Name: value`", index + 1))
        })?;
        let (name, value) = (name.trim(), value.trim());
        let is_masked = value == MASK;
        let is_new = named.insert(name.to_ascii_lowercase());
        if !is_new || (is_masked && !present.contains(&name.to_ascii_lowercase())) {
            let problem = if is_new { "has no value yet" } else { "stands there twice" };
            return Err(Problem::invalid(format!("`headers` name `{name}`, which {problem}")));
        }
        if !is_masked {
            headers.push((name.to_owned(), Some(value.to_owned())));
        }
    }
    headers.extend(present.difference(&named).map(|gone| (gone.clone(), None)));
    Ok(headers)
}

pub async fn new(State(console): State<Shared>, Visitor(caller): Visitor) -> Response {
    let may = caller.must_edit().and_then(|()| console.must_be_editable());
    if let Err(problem) = may {
        return failed(&problem);
    }
    let form = SettingsForm::new(&console, &caller);
    written(&NewPage { frame: Frame::new(&console, &caller), form })
}

/// What is wrong with a URL, while the form is being filled in.
pub async fn check_url(Visitor(_): Visitor, Form(sent): Form<Sent>) -> Response {
    let problem = parse_endpoint(sent.url.trim()).err().map(|error| sentence(&error.to_string()));
    axum::response::Html(escaped(&problem.unwrap_or_default())).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub async fn create(
    State(console): State<Shared>,
    Visitor(caller): Visitor,
    headers: HeaderMap,
    Form(sent): Form<Sent>,
) -> Response {
    let made = async {
        let workspace = match &caller.workspace {
            Some(workspace) => workspace.clone(),
            None => WorkspaceId::parse(sent.workspace_id.trim())
                .map_err(|error| Problem::invalid(format!("`workspace_id` is {error}")))?,
        };
        console.create(&caller, &workspace, sent.patch(&BTreeSet::new())?).await
    };
    match made.await {
        Ok(id) => lead_to(&headers, &format!("/webhooks/{}", path(&id))),
        Err(problem) => {
            let form = SettingsForm::new(&console, &caller).with(&sent).refused(&problem);
            (StatusCode::UNPROCESSABLE_ENTITY, form_or_page(&headers, &console, &caller, form))
                .into_response()
        }
    }
}

fn form_or_page(headers: &HeaderMap, console: &Shared, caller: &Caller, form: SettingsForm) -> Response {
    if headers.contains_key("hx-request") {
        return written(&FormPart { form });
    }
    written(&NewPage { frame: Frame::new(console, caller), form })
}

/// Leads to another page, also where htmx asks.
pub fn lead_to(headers: &HeaderMap, to: &str) -> Response {
    if headers.contains_key("hx-request") {
        return ([("hx-redirect", to.to_owned())], StatusCode::NO_CONTENT).into_response();
    }
    Redirect::to(to).into_response()
}

pub async fn update(
    State(console): State<Shared>,
    visited: Visited,
    headers: HeaderMap,
    Form(sent): Form<Sent>,
) -> Response {
    let Visited { caller, id } = visited;
    let before = match console.commands.show(&id).await {
        Ok(view) => view,
        Err(error) if headers.contains_key("hx-request") => return part_failed(&error.into()),
        Err(error) => return failed(&error.into()),
    };
    let saved = async {
        caller.must_edit()?;
        console.must_be_editable()?;
        let patch = sent.patch(&before.headers.keys().cloned().collect())?;
        console.commands.by(&caller.name).update(&id, patch, Some(sent.version)).await?;
        Ok::<_, Problem>(console.commands.show(&id).await?)
    };
    let saved = saved.await;
    let (is_saved, by_script) = (saved.is_ok(), headers.contains_key("hx-request"));
    let (status, form) = match saved {
        Ok(view) => {
            let mut form = SettingsForm::of(&view, true);
            form.done = Some("Saved. It counts for messages from about 5 seconds from now.".to_owned());
            form.hint = zapier(&form.url, &form.max_per_second);
            (StatusCode::OK, form)
        }
        Err(problem) => {
            let editable = caller.edits() && console.editable;
            let mut form = SettingsForm::of(&before, editable).with(&sent).refused(&problem);
            // Whoever saves again must have seen what is there now.
            form.version = sent.version;
            (StatusCode::UNPROCESSABLE_ENTITY, form)
        }
    };
    match (by_script, is_saved) {
        (true, _) => (status, written(&FormPart { form })).into_response(),
        (false, true) => Redirect::to(&format!("/webhooks/{}", path(&id))).into_response(),
        // Without scripts, what was typed stands in the page again.
        (false, false) => {
            (status, webhook::with_form(&console, &caller, &before, form).await).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_changed_and_taken_away_line_by_line() {
        let present = ["authorization", "x-old", "x-kept"].map(str::to_owned).into();
        let read = headers("Authorization: Bearer a:b\n\n x-kept: ***\nX-New: 1", &present).unwrap();
        let expected = [("Authorization", Some("Bearer a:b")), ("X-New", Some("1")), ("x-old", None)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(read, expected);
        for wrong in ["no colon", "x-new: ***", "x-kept: 1\nX-Kept: 2"] {
            assert_eq!(headers(wrong, &present).unwrap_err().errors[0].field, "headers", "{wrong}");
        }
    }
}

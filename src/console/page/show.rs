//! A webhook in words, as pages show it.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    commands::{Logged, WebhookView},
    io::clock,
    model::{
        event::Skip,
        ids::WebhookId,
        statistics::DayCounts,
        webhook::SuccessRule,
        window::{Granularity, WindowRule},
    },
};

/// Height of the chart, in its units.
const HIGHEST: u64 = 33;
/// Failures that are tolerated, by the contract.
const TOLERATED: u32 = 10;

/// A day in the chart.
pub struct Bar {
    pub x: usize,
    pub ok: u64,
    pub ko: u64,
    pub title: String,
}

/// The latest attempt.
pub struct Last {
    pub at: String,
    pub said: String,
}

/// A sentence, perhaps with a time in it.
pub struct Line {
    pub before: String,
    pub at: Option<String>,
    pub after: String,
    /// A time that is near, counted down.
    pub soon: Option<String>,
    pub end: &'static str,
}

/// A webhook in words.
#[allow(clippy::struct_excessive_bools, reason = "each decides on a part of the template by itself")]
pub struct Hook {
    /// Its id as part of a path.
    pub path: String,
    pub label: String,
    pub workspace: String,
    pub url: String,
    pub granularity: String,
    pub bundled: bool,
    pub class: &'static str,
    pub state: &'static str,
    pub explained: Vec<Line>,
    pub hint: Option<String>,
    /// The system holds what it would have got.
    pub held: bool,
    pub may_disable: bool,
    pub may_enable: bool,
    pub bars: Vec<Bar>,
    pub chart_label: String,
    pub counts: String,
    pub last: Option<Last>,
    pub skipped: Vec<(&'static str, u64)>,
}

/// An id as part of a path.
pub fn path(id: &WebhookId) -> String {
    utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC).to_string()
}

/// The words for a granularity.
pub fn granularity_in_words(granularity: Granularity) -> String {
    match granularity {
        Granularity::None => "Each message at once".to_owned(),
        Granularity::OneHour => "Bundled every hour".to_owned(),
        other => format!("Bundled every {} hours", other.hours()),
    }
}

impl Hook {
    pub fn new(view: &WebhookView, rule: &WindowRule, editable: bool) -> Self {
        let (class, state) = match (view.enabled, view.state) {
            (false, _) => ("off", "Off"),
            (true, "tripped") => ("failing", "Failing"),
            (true, "disabled") => ("disabled", "Disabled"),
            (true, _) => ("healthy", "Healthy"),
        };
        let counts = counts(view.deliveries, view.failed);
        Self {
            path: path(&view.webhook_id),
            label: view.label.clone(),
            workspace: view.workspace_id.to_string(),
            url: view.url.clone(),
            granularity: granularity_in_words(view.granularity),
            bundled: view.granularity != Granularity::None,
            class,
            state,
            explained: explained(view, rule),
            hint: hint(view),
            held: view.enabled && view.state == "disabled",
            may_disable: view.enabled && editable,
            may_enable: !view.enabled && editable,
            bars: bars(&view.days),
            chart_label: format!("{counts} in the last 10 days"),
            counts,
            last: view
                .last_attempt
                .as_ref()
                .map(|last| Last { at: last.at.clone(), said: answered(last.status, last.outcome.as_str()) }),
            skipped: view.skipped.iter().map(|(skip, count)| (why(*skip), *count)).collect(),
        }
    }
}

fn counts(deliveries: u64, failures: u64) -> String {
    let all = deliveries + failures;
    if all == 0 {
        return "no calls".to_owned();
    }
    let calls = if all == 1 { "call" } else { "calls" };
    let rate = failures as f64 * 100.0 / all as f64;
    let rate = if failures == 0 { "no errors".to_owned() } else { format!("{rate:.1} % errors") };
    format!("{all} {calls}, {rate}")
}

fn line(before: impl Into<String>, at: Option<&str>, after: impl Into<String>) -> Line {
    let at = at.map(str::to_owned);
    Line { before: before.into(), at, after: after.into(), soon: None, end: "" }
}

fn explained(view: &WebhookView, rule: &WindowRule) -> Vec<Line> {
    let waiting = |what: &str| {
        let calls = if view.parked == 1 { "call" } else { "calls" };
        format!("{} {calls} {what}", view.parked)
    };
    let mut lines = Vec::new();
    let last = view.last_attempt.as_ref();
    let failed = last.map(|last| format!("The last call: {}.", answered(last.status, last.outcome.as_str())));
    match (view.enabled, view.state) {
        (false, _) => lines.push(line("Its owner switched it off: nothing is collected or sent.", None, "")),
        (true, "tripped") => {
            let failures = format!(", {} of {TOLERATED} failures, next try", view.failures);
            lines.push(Line {
                soon: view.next_attempt_at.clone(),
                end: ".",
                ..line("Failing since", view.since.as_deref(), failures)
            });
            lines.extend(failed.map(|failed| line(failed, None, "")));
            lines.push(line(format!("{}, in order.", waiting("waiting")), None, ""));
        }
        (true, "disabled") => {
            lines.push(line("Disabled after more than 10 failures in a row, at", view.since.as_deref(), "."));
            lines.extend(failed.map(|failed| line(failed, None, "")));
            lines.push(line(format!("{} until", waiting("held")), view.held_until.as_deref(), "."));
        }
        (true, _) if view.last_attempt.is_none() => {
            lines.push(line("On, and nothing was sent yet.", None, ""));
        }
        (true, _) => lines.push(line("What is sent arrives.", None, "")),
    }
    if view.enabled && view.granularity != Granularity::None {
        let window = rule.window(view.granularity, clock::now());
        let closes = crate::model::time::Millis(window.end.0 + rule.grace_ms).to_rfc3339();
        lines.push(line("The open windows close at", Some(&closes), "; their bundles are sent then."));
    }
    lines
}

/// What would help.
fn hint(view: &WebhookView) -> Option<String> {
    let status = view.last_attempt.as_ref().and_then(|last| last.status);
    if let Some(status) =
        status.filter(|status| (201..300).contains(status) && view.success == SuccessRule::Only200)
    {
        return Some(format!(
            "The receiver answers {status}: it has the message, but only 200 counts. In the settings, let any 2xx be a success."
        ));
    }
    let is_zapier = url::Url::parse(&view.url).is_ok_and(|url| url.host_str() == Some("hooks.zapier.com"));
    let hint = "Zapier takes at most 25 calls a second. Set that as most calls a second in the settings.";
    (is_zapier && view.max_per_second.is_none_or(|most| most > 25)).then(|| hint.to_owned())
}

fn bars(days: &[DayCounts]) -> Vec<Bar> {
    let most = days.iter().map(|day| day.deliveries + day.failures).max().unwrap_or_default().max(1);
    // Whatever there is can be seen.
    let height = |count: u64| if count == 0 { 0 } else { (count * HIGHEST / most).max(2) };
    let bar = |(index, day): (usize, &DayCounts)| Bar {
        x: 3 + index * 20,
        ok: height(day.deliveries),
        ko: height(day.failures),
        title: format!("{}: {} delivered, {} failed", day.day, day.deliveries, day.failures),
    };
    days.iter().enumerate().map(bar).collect()
}

fn answered(status: Option<u16>, outcome: &str) -> String {
    match status {
        Some(status) => format!("answered {status}"),
        None => outcome.replace('_', " "),
    }
}

fn why(skip: Skip) -> &'static str {
    match skip {
        Skip::Attachments => "It has an attachment",
        Skip::EmptyText => "It has no text",
        Skip::TooOld => "It is too old",
        Skip::Duplicate => "It came before",
        Skip::UnknownWorkspace => "No webhook",
        Skip::NoEnabledWebhook => "Webhooks were off",
    }
}

/// An attempt in words.
pub struct Attempt {
    pub id: String,
    pub class: &'static str,
    pub word: &'static str,
    pub said: String,
    pub at: String,
    pub took: u64,
    pub number: u32,
    pub kind: Option<String>,
    pub messages: u32,
    pub next: Option<String>,
    pub bundle: String,
    pub request: String,
    pub response: String,
    pub resendable: bool,
}

impl Attempt {
    pub fn new(logged: Logged) -> Self {
        let Logged { attempt, body } = logged;
        let (class, word) = match (attempt.outcome.as_str(), attempt.settled.as_deref()) {
            (_, Some("delivered")) | ("delivered", None) => ("healthy", "Delivered"),
            (_, Some(_)) => ("disabled", "Rejected"),
            _ => ("failing", "Failed"),
        };
        let headers = |headers: &[(String, String)]| -> String {
            headers.iter().flat_map(|(name, value)| [name, ": ", value, "\n"]).collect()
        };
        let request = format!(
            "{} {}\n{}\n{}",
            attempt.request.method,
            attempt.request.url,
            headers(&attempt.request.headers),
            pretty(body.as_deref().unwrap_or("(the body is no longer kept)")),
        );
        let response = attempt.response.as_ref().map_or_else(
            || attempt.error.clone().unwrap_or_default(),
            |response| {
                let cut = if response.truncated { "\n(cut)" } else { "" };
                format!("{}\n{}\n{}{cut}", response.status, headers(&response.headers), response.body)
            },
        );
        let by = |asked: Option<String>| asked.map(|by| format!(" by {by}")).unwrap_or_default();
        Self {
            id: attempt.attempt_id.to_string(),
            class,
            word,
            said: attempt.error.unwrap_or_else(|| {
                attempt
                    .response
                    .as_ref()
                    .map_or_else(String::new, |response| format!("answered {}", response.status))
            }),
            at: attempt.started_at,
            took: attempt.duration_ms,
            number: attempt.attempt,
            resendable: attempt.kind != "test",
            kind: match attempt.kind.as_str() {
                "test" => Some(format!("a test{}", by(attempt.requested_by))),
                "resend" => Some(format!("sent again{}", by(attempt.requested_by))),
                _ => None,
            },
            messages: attempt.bundle.messages,
            next: attempt.next_attempt_at,
            bundle: attempt.bundle.bundle_id.to_string(),
            request,
            response,
        }
    }
}

/// JSON in lines; anything else as it is.
fn pretty(body: &str) -> String {
    let parsed: Result<&serde_json::value::RawValue, _> = serde_json::from_str(body);
    if parsed.is_err() {
        return body.to_owned();
    }
    let mut pretty = String::with_capacity(body.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for c in body.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        if quoted || c == '"' || escaped {
            pretty.push(c);
            continue;
        }
        let mut new_line = |depth: usize| {
            pretty.push('\n');
            pretty.extend(std::iter::repeat_n("  ", depth));
        };
        match c {
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                new_line(depth);
                pretty.push(c);
            }
            '{' | '[' => {
                depth += 1;
                pretty.push(c);
                pretty.push('\n');
                pretty.extend(std::iter::repeat_n("  ", depth));
            }
            ',' => {
                pretty.push(c);
                pretty.push('\n');
                pretty.extend(std::iter::repeat_n("  ", depth));
            }
            ':' => pretty.push_str(": "),
            c if c.is_whitespace() => {}
            c => pretty.push(c),
        }
    }
    pretty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_and_nothing_else_is_changed() {
        let body = r#"{"a":{"b":[1,"x, {y}: \"z\""]},"c":null}"#;
        let laid_out = pretty(body);
        assert_eq!(
            laid_out,
            "{\n  \"a\": {\n    \"b\": [\n      1,\n      \"x, {y}: \\\"z\\\"\"\n    ]\n  },\n  \"c\": null\n}"
        );
        assert_eq!(pretty("not JSON {"), "not JSON {");
    }

    #[test]
    fn calls_are_counted_in_words() {
        assert_eq!(counts(0, 0), "no calls");
        assert_eq!(counts(1, 0), "1 call, no errors");
        assert_eq!(counts(3, 1), "4 calls, 25.0 % errors");
    }
}

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr, time::Duration};

use lettre::message::Mailbox;
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use super::{Given, InFile, value};
use crate::model::retry::RetrySchedule;

/// How e-mails are written and sent.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "E-mail")]
pub struct MailSettings {
    /// Sender of e-mails, an address or `Name <address>`.
    #[arg(
        long,
        env = "BUNDLEHOOK_MAIL_FROM",
        default_value = "Bundlehook <bundlehook@localhost>",
        value_parser = value::mailbox
    )]
    pub mail_from: Mailbox,
    /// Where people reach the console, for the links in e-mails. Without it they have none.
    #[arg(long, env = "BUNDLEHOOK_CONSOLE_URL", value_name = "URL", value_parser = value::web_url)]
    pub console_url: Option<Url>,
    /// A PEM file of certificate authorities to trust beside those that browsers trust. Read anew for each e-mail.
    #[arg(long, env = "BUNDLEHOOK_SMTP_CA_BUNDLE", value_name = "FILE")]
    pub smtp_ca_bundle: Option<PathBuf>,
    /// Longest wait for an answer of the SMTP server.
    #[arg(long, env = "BUNDLEHOOK_SMTP_TIMEOUT", default_value = "1m", value_parser = value::duration)]
    pub smtp_timeout: Duration,
    /// Pauses after the first, second … failure to send; the last one repeats while the server can't be used.
    #[arg(
        long,
        env = "BUNDLEHOOK_MAIL_RETRY_SCHEDULE",
        default_value = "5s,30s,2m,5m",
        value_parser = value::retry_schedule
    )]
    pub mail_retry_schedule: RetrySchedule,
}

/// The server that the role `notify` sends through.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "E-mail")]
pub struct SmtpSettings {
    /// SMTP server, such as `smtp://user:password@mail.example.com:587` (STARTTLS) or `smtps://mail.example.com` (TLS).
    /// `?tls=none` sends in the clear.
    #[arg(
        long,
        env = "BUNDLEHOOK_SMTP_URL",
        hide_env_values = true,
        value_name = "URL",
        required_unless_present = "smtp_url_file"
    )]
    smtp_url: Option<SmtpUrl>,
    /// A file with that URL, to keep its password out of variables. Read anew for each e-mail.
    #[arg(long, env = "BUNDLEHOOK_SMTP_URL_FILE", value_name = "FILE", conflicts_with = "smtp_url")]
    smtp_url_file: Option<InFile<SmtpUrl>>,
}

impl SmtpSettings {
    /// The server.
    #[must_use]
    pub fn server(self) -> Given<SmtpUrl> {
        let given = Given::either(self.smtp_url, self.smtp_url_file);
        given.expect("the command line demands one of both")
    }
}

/// The same where there may be none.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "E-mail")]
pub struct OptionalSmtpSettings {
    /// SMTP server, such as `smtp://user:password@mail.example.com:587` (STARTTLS) or `smtps://mail.example.com` (TLS).
    /// `?tls=none` sends in the clear. Without it no e-mails are sent from here.
    #[arg(long, env = "BUNDLEHOOK_SMTP_URL", hide_env_values = true, value_name = "URL")]
    smtp_url: Option<SmtpUrl>,
    /// A file with that URL, to keep its password out of variables. Read anew for each e-mail.
    #[arg(long, env = "BUNDLEHOOK_SMTP_URL_FILE", value_name = "FILE", conflicts_with = "smtp_url")]
    smtp_url_file: Option<InFile<SmtpUrl>>,
}

impl OptionalSmtpSettings {
    /// The server, if there is one.
    #[must_use]
    pub fn server(self) -> Option<Given<SmtpUrl>> {
        Given::either(self.smtp_url, self.smtp_url_file)
    }
}

/// How the way to the SMTP server is kept secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// TLS from the first byte on.
    Implicit,
    /// STARTTLS, or nothing is sent.
    Required,
    /// In the clear.
    None,
}

/// An SMTP server.
#[derive(Clone)]
pub struct SmtpUrl {
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    /// Name and password.
    pub login: Option<(String, SecretString)>,
}

impl fmt::Debug for SmtpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} ({:?})", self.host, self.port, self.tls)
    }
}

impl FromStr for SmtpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected a URL like `smtp://user:password@mail.example.com:587`, `smtps://mail.example.com` or \
             `smtp://127.0.0.1:25?tls=none`"
                .to_owned()
        };
        let url = Url::parse(text).map_err(|_| expected())?;
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(expected)?;
        let (tls, port) = match (url.scheme(), url.query()) {
            ("smtps", None) => (SmtpTls::Implicit, 465),
            ("smtp", None | Some("tls=required")) => (SmtpTls::Required, 587),
            ("smtp", Some("tls=none")) => (SmtpTls::None, 25),
            _ => return Err(expected()),
        };
        let decoded = |part: &str| percent_decode_str(part).decode_utf8().map(Cow::into_owned);
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (name, Some(password)) if !name.is_empty() => {
                let (name, password) = (decoded(name), decoded(password));
                Some((name.map_err(|_| expected())?, password.map_err(|_| expected())?.into()))
            }
            _ => return Err(expected()),
        };
        // An address of IPv6 stands in brackets in a URL.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { host, port: url.port().unwrap_or(port), tls, login })
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_server_is_read_with_its_ways_to_keep_secrets() {
        let read = |text: &str| text.parse::<SmtpUrl>().unwrap();
        let server = read("smtp://ann%40x.example:p%3Aw@mail.example.com");
        assert_eq!(
            (server.host.as_str(), server.port, server.tls),
            ("mail.example.com", 587, SmtpTls::Required)
        );
        let (name, password) = server.login.clone().unwrap();
        assert_eq!((name.as_str(), password.expose_secret()), ("ann@x.example", "p:w"));
        assert!(!format!("{server:?}").contains("p:w"));
        assert_eq!(read("smtps://mail.example.com").port, 465);
        assert_eq!(read("smtp://[::1]:2525?tls=none").host, "::1");
    }

    #[test]
    fn other_texts_are_refused_without_being_shown() {
        for text in
            ["mail.example.com", "http://x", "smtp://x?tls=maybe", "smtp://s3cret@x", "smtps://x?tls=none"]
        {
            let problem = text.parse::<SmtpUrl>().unwrap_err();
            assert!(problem.starts_with("expected ") && !problem.contains("s3cret"), "{text}");
        }
    }
}

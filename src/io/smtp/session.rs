//! One conversation with an SMTP server, step by step, so that it is known which failures come before the e-mail was
//! handed over.

use std::time::Duration;

use lettre::{
    address::Envelope,
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, TlsParameters},
        commands::{Data, Mail, Rcpt},
        extension::{ClientId, Extension, MailParameter},
        response::Response,
    },
};
use secrecy::ExposeSecret;

use crate::config::{SmtpTls, SmtpUrl};

/// Why an e-mail was not handed over.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The server can't be used now, whatever the e-mail is.
    #[error("the SMTP server can't be used: {0}")]
    Server(String),
    /// The server does not want this e-mail now.
    #[error("the SMTP server put the e-mail off: {0}")]
    Deferred(String),
    /// The server will never take this e-mail.
    #[error("the SMTP server refused the e-mail: {0}")]
    Refused(String),
    /// The connection ended before the server said whether it took the e-mail.
    #[error("the SMTP server did not say whether it took the e-mail: {0}")]
    Unsure(String),
}

/// A conversation that has got past the greeting.
pub(super) struct Session {
    connection: AsyncSmtpConnection,
    /// The longest that an answer may take.
    timeout: Duration,
}

impl Session {
    /// Connects, and says who we are.
    pub(super) async fn open(
        server: &SmtpUrl,
        timeout: Duration,
        tls: &TlsParameters,
    ) -> Result<Self, SendError> {
        let hello = ClientId::default();
        let implicit = (server.tls == SmtpTls::Implicit).then(|| tls.clone());
        let connecting = AsyncSmtpConnection::connect_tokio1(
            (&*server.host, server.port),
            Some(timeout),
            &hello,
            implicit,
            None,
        );
        let mut connection = within(timeout, connecting).await?;
        if server.tls == SmtpTls::Required {
            if !connection.can_starttls() {
                return Err(SendError::Server("it offers no STARTTLS, expected it".to_owned()));
            }
            within(timeout, connection.starttls(tls.clone(), &hello)).await?;
        }
        if let Some((name, password)) = &server.login {
            let credentials = Credentials::new(name.clone(), password.expose_secret().to_owned());
            within(timeout, connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials)).await?;
        }
        Ok(Self { connection, timeout })
    }

    /// Names sender and recipients, until the server waits for the text.
    pub(super) async fn offer(&mut self, envelope: &Envelope) -> Result<(), SendError> {
        let mut parameters = Vec::new();
        let all = envelope.from().into_iter().chain(envelope.to());
        if all.into_iter().any(|address| !address.to_string().is_ascii()) {
            if !self.connection.server_info().supports_feature(Extension::SmtpUtfEight) {
                let problem = "it takes no addresses beyond ASCII".to_owned();
                return Err(SendError::Refused(problem));
            }
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let sender = Mail::new(envelope.from().cloned(), parameters);
        // A sender that is refused is refused for every e-mail.
        within(self.timeout, self.connection.command(sender)).await?;
        for recipient in envelope.to() {
            let command = self.connection.command(Rcpt::new(recipient.clone(), Vec::new()));
            answer_within(self.timeout, command).await?;
        }
        answer_within(self.timeout, self.connection.command(Data)).await?;
        Ok(())
    }

    async fn hand_over(mut self, text: &[u8]) -> Result<Response, SendError> {
        let response = answer_within(self.timeout, self.connection.message(text)).await;
        let response = response.map_err(|error| match error {
            SendError::Server(problem) => SendError::Unsure(problem),
            other => other,
        })?;
        // It is done; whether the goodbye is heard does not matter.
        let _ = within(self.timeout, self.connection.quit()).await;
        Ok(response)
    }
}

/// An e-mail that the server waits for.
pub struct Pending {
    session: Session,
    text: Vec<u8>,
}

impl Pending {
    pub(super) fn new(session: Session, text: Vec<u8>) -> Self {
        Self { session, text }
    }

    /// Hands the e-mail over. What the server said is returned.
    ///
    /// # Errors
    /// [`SendError`]
    pub async fn hand_over(self) -> Result<String, SendError> {
        let response = self.session.hand_over(&self.text).await?;
        Ok(response.first_line().unwrap_or_default().to_owned())
    }
}

/// Like [`within`], of a step whose answer is about the e-mail.
async fn answer_within<T>(
    timeout: Duration,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, SendError> {
    match tokio::time::timeout(timeout, step).await {
        Ok(done) => done.map_err(|error| answered(&error)),
        Err(_) => Err(silent(timeout)),
    }
}

fn silent(timeout: Duration) -> SendError {
    SendError::Server(format!("no answer within {} s", timeout.as_secs_f64()))
}

async fn within<T>(timeout: Duration, step: impl Future<Output = Result<T, Error>>) -> Result<T, SendError> {
    let done = tokio::time::timeout(timeout, step).await;
    let done = done.map_err(|_| silent(timeout))?;
    done.map_err(|error| SendError::Server(said(&error)))
}

/// What an answer to an e-mail means. A server that closes (421) is not about this e-mail.
fn answered(error: &Error) -> SendError {
    let closes = error.status().is_some_and(|code| u16::from(code) == 421);
    if error.is_permanent() {
        SendError::Refused(said(error))
    } else if error.is_transient() && !closes {
        SendError::Deferred(said(error))
    } else {
        SendError::Server(said(error))
    }
}

/// The error with what caused it.
fn said(error: &Error) -> String {
    use std::error::Error as _;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

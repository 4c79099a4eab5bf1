//! E-mails: written, and handed over to an SMTP server.

pub mod letter;
pub mod outbox;
mod session;

use std::{io, path::PathBuf, time::Duration};

use lettre::{
    Message,
    transport::smtp::client::{Certificate, TlsParameters, TlsVersion},
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use self::session::Session;
pub use self::session::{Pending, SendError};
use crate::config::{Given, SmtpTls, SmtpUrl};

/// Hands e-mails over to one server.
pub struct SmtpClient {
    server: Given<SmtpUrl>,
    timeout: Duration,
    /// A PEM file of roots to trust as well.
    bundle: Option<PathBuf>,
}

impl SmtpClient {
    /// Connects to nothing yet. `bundle` is a PEM file of roots to trust as well.
    ///
    /// # Errors
    /// If the bundle can't be used.
    pub fn new(server: Given<SmtpUrl>, timeout: Duration, bundle: Option<PathBuf>) -> io::Result<Self> {
        let client = Self { server, timeout, bundle };
        client.tls(client.server.first())?;
        Ok(client)
    }

    /// Whom to trust, by the file as it is now.
    fn tls(&self, server: &SmtpUrl) -> io::Result<TlsParameters> {
        let mut builder = TlsParameters::builder(server.host.clone()).set_min_tls_version(TlsVersion::Tlsv12);
        if let Some(path) = &self.bundle {
            let named = |problem: String| {
                io::Error::other(format!("the CA bundle `{}` can't be used: {problem}", path.display()))
            };
            for root in CertificateDer::pem_file_iter(path).map_err(|error| named(error.to_string()))? {
                let root = root.map_err(|error| named(error.to_string()))?;
                let root = Certificate::from_der(root.to_vec()).map_err(|error| named(error.to_string()))?;
                builder = builder.add_root_certificate(root);
            }
        }
        builder.build().map_err(io::Error::other)
    }

    /// Goes so far with an e-mail that the server waits for its text. Nothing is sent as long as that is not said.
    /// Where the server's URL stands in a file, that and the bundle count as they are now.
    ///
    /// # Errors
    /// [`SendError`], never [`SendError::Unsure`].
    pub async fn offer(&self, message: &Message) -> Result<Pending, SendError> {
        let server = self.server.now().map_err(SendError::Server)?;
        let tls = self.tls(&server).map_err(|error| SendError::Server(error.to_string()))?;
        let mut session = Session::open(&server, self.timeout, &tls).await?;
        session.offer(message.envelope()).await?;
        Ok(Pending::new(session, message.formatted()))
    }

    /// True if passwords and e-mails go over the network in the clear.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.server.first().tls == SmtpTls::None
    }
}

//! A mail server: aiosmtpd, which notes each e-mail and answers as told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

use serde_json::Value;

use super::{HeldPort, LIMIT, children, wait_until};

/// A running mail server.
pub struct MailServer {
    port: HeldPort,
    folder: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    /// TLS begins with the first byte.
    implicit: bool,
    child: Option<Child>,
}

/// Starts a server that takes e-mails in the clear.
pub async fn mail_server() -> MailServer {
    let mut server = MailServer {
        port: HeldPort::new(),
        folder: children::folder("mail"),
        certificate: None,
        implicit: false,
        child: None,
    };
    server.start().await;
    server
}

/// Starts one that wants STARTTLS, or TLS from the first byte on, with a fresh certificate of its own, and the login `ann`
/// with `s3cret` until that is changed.
pub async fn secure_mail_server(implicit: bool) -> MailServer {
    let folder = children::folder("mail");
    let certificate = Some((folder.join("certificate.pem"), folder.join("key.pem")));
    let mut server = MailServer { port: HeldPort::new(), folder, certificate, implicit, child: None };
    server.renew("s3cret").await;
    server
}

impl MailServer {
    /// Starts it again, at the same port.
    pub async fn start(&mut self) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = children::command(root.join("deploy/local/target/python/bin/python"));
        command.arg(root.join("tests/smtp/server.py")).arg(self.port.number().to_string()).arg(&self.folder);
        if let Some((certificate, key)) = &self.certificate {
            command.arg(certificate).arg(key);
            if self.implicit {
                command.arg("implicit");
            }
        }
        self.child = Some(children::spawn(command, &self.folder.join("log")));
        let addr = self.port.addr();
        wait_until("the mail server", LIMIT, async || tokio::net::TcpStream::connect(addr).await.is_ok())
            .await;
    }

    /// Starts it with a fresh certificate and another password.
    pub async fn renew(&mut self, password: &str) {
        self.stop();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]);
        let made = made.expect("the name is valid");
        let (certificate, key) = self.certificate.as_ref().expect("it has a certificate");
        let files = [
            (certificate, made.cert.pem()),
            (key, made.signing_key.serialize_pem()),
            (&self.folder.join("password"), password.to_owned()),
        ];
        for (path, content) in files {
            fs::write(path, content).expect("the rig's folder can be written");
        }
        self.start().await;
    }

    /// Ends it.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            children::end(&mut child);
        }
    }

    /// What it answers from now on; see `tests/smtp/server.py`.
    pub fn set(&self, mode: &str) {
        let (file, new) = (self.folder.join("mode"), self.folder.join("mode.new"));
        let written = fs::write(&new, mode).and_then(|()| fs::rename(&new, &file));
        written.expect("the rig's folder can be written");
    }

    /// The setting that leads to it.
    pub fn url(&self) -> String {
        let port = self.port.number();
        if self.certificate.is_none() {
            return format!("smtp://127.0.0.1:{port}?tls=none");
        }
        let scheme = if self.implicit { "smtps" } else { "smtp" };
        format!("{scheme}://ann:s3cret@localhost:{port}")
    }

    /// The certificate that it must be trusted by.
    pub fn certificate(&self) -> &Path {
        &self.certificate.as_ref().expect("it has a certificate").0
    }

    /// The e-mails that came whole, in order.
    pub fn mails(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("mails")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// Waits for so many e-mails.
    pub async fn wait_for(&self, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} e-mails"), LIMIT, async || self.mails().len() >= count).await;
        self.mails()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("---- the mail server said:\n{}", children::tail(&self.folder.join("log"), 40));
        }
    }
}

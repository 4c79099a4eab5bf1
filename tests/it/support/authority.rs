//! An authority of a test's own, and certificates for servers and clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::children;

/// Signs certificates. They are made as the test runs, in a folder of their own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate and its key, as files in PEM.
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Identity {
    /// Both in one file.
    pub fn both(&self) -> PathBuf {
        let path = self.certificate.with_extension("both");
        let read = |path| fs::read_to_string(path).expect("the file was written before");
        fs::write(&path, read(&self.key) + &read(&self.certificate))
            .expect("the rig's folder can be written");
        path
    }
}

impl Authority {
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no name is a bad one");
        let name = format!("authority {}", uuid::Uuid::new_v4());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can sign its own certificate");
        let folder = children::folder("authority");
        fs::write(folder.join("ca.pem"), issuer.pem()).expect("the rig's folder can be written");
        Self { issuer, folder }
    }

    /// Its own certificate, in PEM.
    pub fn bundle(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// A certificate as told, and the key that was made for it.
    pub fn sign(&self, params: &CertificateParams) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("an authority can sign");
        (certificate, key)
    }

    /// A certificate for somebody who is called so, valid for servers at 127.0.0.1.
    pub fn identity(&self, name: &str) -> Identity {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("they are names");
        params.distinguished_name.push(DnType::CommonName, name);
        let (certificate, key) = self.sign(&params);
        let write = |ending: &str, text: String| {
            let path = self.folder.join(format!("{name}.{ending}"));
            fs::write(&path, text).expect("the rig's folder can be written");
            path
        };
        Identity { certificate: write("pem", certificate.pem()), key: write("key", key.serialize_pem()) }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // A later run removes what is left.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A server with a certificate.
pub fn tls_server(certificate: &Certificate, key: &KeyPair) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key);
    Arc::new(config.expect("key and certificate fit"))
}

/// A path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("the rig's paths are UTF-8")
}

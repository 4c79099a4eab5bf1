//! TLS to the endpoints: rustls with ring, the roots that browsers trust, and those of the deployment.

use std::{io, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_rustls::TlsConnector;

/// What makes TLS sessions. `bundle` is a PEM file of roots to trust as well.
///
/// # Errors
/// If the bundle can't be read or holds no certificate.
pub fn connector(bundle: Option<&Path>) -> io::Result<TlsConnector> {
    let mut roots: RootCertStore = webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect();
    if let Some(path) = bundle {
        add(&mut roots, path).map_err(|problem| {
            io::Error::other(format!("the CA bundle `{}` can't be used: {problem}", path.display()))
        })?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Sees whether a bundle could be used.
///
/// # Errors
/// As [`connector`].
pub fn check(bundle: Option<&Path>) -> io::Result<()> {
    connector(bundle).map(drop)
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let known = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.len() == known { Err("it holds no certificate".to_owned()) } else { Ok(()) }
}

//! What a connection by TLS trusts and shows.

use std::{fs, path::Path};

use redis::{ClientTlsConfig, ErrorKind, RedisError, TlsCertificates};
use url::Url;

use crate::config::RedisTls;

/// True if a server is reached by TLS.
pub(super) fn is_used(url: &Url) -> bool {
    url.scheme() == "rediss"
}

/// Reads the files.
///
/// # Errors
/// If one can't be read; the error names it.
pub(super) fn certificates(tls: &RedisTls) -> Result<TlsCertificates, RedisError> {
    let root_cert = tls.redis_ca_bundle.as_deref().map(read).transpose()?;
    let client_tls = match (&tls.redis_certificate, &tls.redis_certificate_key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        }
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

fn read(path: &Path) -> Result<Vec<u8>, RedisError> {
    fs::read(path).map_err(|error| {
        let detail = format!("`{}`: {error}, expected a file in PEM", path.display());
        RedisError::from((ErrorKind::InvalidClientConfig, "a file for TLS can't be read", detail))
    })
}

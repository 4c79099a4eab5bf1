//! Whom to believe: the keys that tokens are signed with, and the hashes of admin tokens. Their files are read again while the
//! program runs, so that a key can be changed without a restart.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::identity::{Caller, Role};
use crate::{
    config::SignInSettings,
    model::{ids::WorkspaceId, time::Millis, webhook::Owner},
};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes that a secret for HS256 must have.
const SECRET_BYTES: usize = 32;
/// Seconds that clocks may differ.
const LEEWAY: u64 = 30;

/// Why nobody could sign in.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file can't be read.
    #[error("`{0}` can't be read: {1}")]
    File(String, std::io::Error),
    /// It holds something else.
    #[error("`{0}` can't be used: {1}")]
    Content(String, String),
    /// There is none.
    #[error(
        "nobody could sign in: set `BUNDLEHOOK_JWT_JWKS` or `BUNDLEHOOK_JWT_SECRET` for people, or \
         `BUNDLEHOOK_ADMIN_TOKENS` for operators"
    )]
    Nobody,
}

/// A key with the one algorithm that it is used with.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

/// Whom to believe.
pub struct Authority {
    keys: Vec<Key>,
    issuer: String,
    audience: String,
    /// Names by the hash of the token.
    admins: HashMap<[u8; 32], String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    email: Option<String>,
    workspace_id: WorkspaceId,
    role: Role,
    owner: Option<Owner>,
    /// When the token ends, in seconds of Unix time.
    exp: f64,
}

impl Authority {
    /// Understands the files that the settings name.
    fn of(settings: &SignInSettings, files: &Files) -> Result<Self, AuthorityError> {
        let mut authority = Self::new(settings);
        if let Some(file) = &files.jwks {
            let set: JwkSet =
                serde_json::from_str(&file.text).map_err(|error| file.wrong(format!("no JWKS: {error}")))?;
            for jwk in &set.keys {
                authority.keys.push(key(jwk).map_err(|problem| file.wrong(problem))?);
            }
        }
        if let Some(file) = &files.secret {
            authority.secret(file.text.trim()).map_err(|problem| file.wrong(problem))?;
        }
        for (file, (index, line)) in
            files.admins.iter().flat_map(|file| file.text.lines().enumerate().map(move |line| (file, line)))
        {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) = admin(line).ok_or_else(|| {
                let line = index + 1;
                file.wrong(format!("line {line} is wrong, expected `NAME:SHA256` in 64 hexadecimal digits"))
            })?;
            authority.admins.insert(hash, name);
        }
        if authority.keys.is_empty() && authority.admins.is_empty() {
            return Err(AuthorityError::Nobody);
        }
        Ok(authority)
    }

    fn new(settings: &SignInSettings) -> Self {
        Self {
            keys: Vec::new(),
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
            admins: HashMap::new(),
        }
    }

    fn with_secret(settings: &SignInSettings, secret: &str) -> Self {
        let mut authority = Self::new(settings);
        // Whoever made it up made it long enough.
        let _ = authority.secret(secret);
        authority
    }

    fn secret(&mut self, secret: &str) -> Result<(), String> {
        if secret.len() < SECRET_BYTES {
            return Err(format!("the secret has {} bytes, expected {SECRET_BYTES} or more", secret.len()));
        }
        let decoding = DecodingKey::from_secret(secret.as_bytes());
        self.keys.push(Key { id: None, algorithm: Algorithm::HS256, decoding });
        Ok(())
    }

    /// Who shows a token.
    pub(super) fn caller(&self, token: &str) -> Result<Caller, String> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(name) = self.admins.get(&hash) {
            return Ok(Caller {
                name: name.clone(),
                workspace: None,
                role: Role::Editor,
                owner: None,
                until: None,
            });
        }
        let head =
            decode_header(token).map_err(|_| "the token is neither a JWT nor an admin token".to_owned())?;
        let fits = |key: &&Key| {
            key.algorithm == head.alg && (head.kid.is_none() || key.id.is_none() || key.id == head.kid)
        };
        let mut problem = "the token was signed by a key or an algorithm that is not trusted".to_owned();
        for key in self.keys.iter().filter(fits) {
            let mut validation = Validation::new(key.algorithm);
            validation.set_issuer(&[&self.issuer]);
            validation.set_audience(&[&self.audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud"]);
            validation.validate_nbf = true;
            validation.leeway = LEEWAY;
            match decode::<Claims>(token, &key.decoding, &validation) {
                Ok(decoded) => return Ok(Caller::from(decoded.claims)),
                Err(error) => problem = format!("the token is not valid: {error}"),
            }
        }
        Err(problem)
    }
}

impl From<Claims> for Caller {
    fn from(claims: Claims) -> Self {
        let name = claims.email.or(claims.sub).unwrap_or_else(|| "somebody".to_owned());
        // By then it is refused, whose time is counted in whole seconds.
        let until = Millis(((claims.exp + LEEWAY as f64 + 1.0) * 1000.0) as i64);
        Self {
            name,
            workspace: Some(claims.workspace_id),
            role: claims.role,
            owner: claims.owner,
            until: Some(until),
        }
    }
}

/// A file, as it was read.
#[derive(PartialEq, Eq)]
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(path: Option<&PathBuf>) -> Result<Option<Self>, AuthorityError> {
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| AuthorityError::File(path.display().to_string(), error))?;
        Ok(Some(Self { path: path.clone(), text }))
    }

    fn wrong(&self, problem: String) -> AuthorityError {
        AuthorityError::Content(self.path.display().to_string(), problem)
    }
}

/// All files.
#[derive(PartialEq, Eq)]
struct Files {
    jwks: Option<File>,
    secret: Option<File>,
    admins: Option<File>,
}

impl Files {
    fn read(settings: &SignInSettings) -> Result<Self, AuthorityError> {
        Ok(Self {
            jwks: File::read(settings.jwt_jwks.as_ref())?,
            secret: File::read(settings.jwt_secret.as_ref())?,
            admins: File::read(settings.admin_tokens.as_ref())?,
        })
    }
}

/// How many could sign in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Believable {
    /// Keys that people's tokens may be signed with.
    pub keys: usize,
    /// Operators with a token of their own.
    pub operators: usize,
}

/// Who could sign in by the files that the settings name.
///
/// # Errors
/// If one can't be used, or nobody could.
pub fn believable(settings: &SignInSettings) -> Result<Believable, AuthorityError> {
    let authority = Authority::of(settings, &Files::read(settings)?)?;
    Ok(Believable { keys: authority.keys.len(), operators: authority.admins.len() })
}

/// Whom to believe at the moment.
pub type Believed = watch::Receiver<Arc<Authority>>;

/// Reads the files that the settings name, and again whenever they have changed. A file that can't be used leaves what was
/// read before in force.
///
/// # Errors
/// If one can't be used at the start, or nobody could sign in.
pub fn believed(settings: &SignInSettings, stop: CancellationToken) -> Result<Believed, AuthorityError> {
    let files = Files::read(settings)?;
    let (sender, believed) = watch::channel(Arc::new(Authority::of(settings, &files)?));
    tokio::spawn(keep_up(settings.clone(), files, sender, stop));
    Ok(believed)
}

async fn keep_up(
    settings: SignInSettings,
    mut files: Files,
    sender: watch::Sender<Arc<Authority>>,
    stop: CancellationToken,
) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let from = settings.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || Files::read(&from)).await else { return };
        let understood = read.and_then(|read| {
            let new = (read != files).then(|| Authority::of(&settings, &read)).transpose()?;
            Ok(new.map(|authority| (read, authority)))
        });
        match understood {
            Ok(None) => said.clear(),
            Ok(Some((read, authority))) => {
                info!("the keys and admin tokens were read again");
                files = read;
                sender.send_replace(Arc::new(authority));
            }
            Err(error) => {
                let error = error.to_string();
                if error != said {
                    warn!(error, "the former keys and admin tokens stay in force");
                }
                said = error;
            }
        }
    }
}

/// One that believes a secret that was made up just now, and stays as it is; for `dev`.
#[must_use]
pub fn believed_secret(settings: &SignInSettings, secret: &str) -> Believed {
    watch::channel(Arc::new(Authority::with_secret(settings, secret))).1
}

fn key(jwk: &jsonwebtoken::jwk::Jwk) -> Result<Key, String> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        _ => return Err("it has a key that is neither of RSA nor of P-256".to_owned()),
    };
    let decoding =
        DecodingKey::from_jwk(jwk).map_err(|error| format!("it has a key that can't be used: {error}"))?;
    Ok(Key { id: jwk.common.key_id.clone(), algorithm, decoding })
}

/// A line of the file with admin tokens.
fn admin(line: &str) -> Option<(String, [u8; 32])> {
    let (name, digits) = line.split_once(':')?;
    let (name, digits) = (name.trim(), digits.trim());
    if name.is_empty() || digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).ok()?;
    }
    Some((name.to_owned(), hash))
}

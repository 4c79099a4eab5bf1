//! Who asks: a person by a signed token (JWT), or an operator by an admin token that is known by its hash.

use std::{collections::HashMap, net::SocketAddr, path::Path, time::Instant};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, Method, header, request::Parts},
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, jwk::JwkSet};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Shared, problem::Problem};
use crate::{
    config::ServeSettings,
    model::{
        ids::{WebhookId, WorkspaceId},
        webhook::Owner,
    },
};

/// The cookie that holds the token of whoever is signed in to the console.
pub const COOKIE: &str = "bundlehook_token";
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

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look and change.
    Editor,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As the change log names them.
    pub name: String,
    /// Theirs; none for an operator, to whom all belong.
    pub workspace: Option<WorkspaceId>,
    pub role: Role,
    /// The owner of their workspace, if the token says.
    pub owner: Option<Owner>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    email: Option<String>,
    workspace_id: WorkspaceId,
    role: Role,
    owner: Option<Owner>,
}

impl Authority {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// [`AuthorityError`]
    pub fn read(settings: &ServeSettings) -> Result<Self, AuthorityError> {
        let mut authority = Self::new(settings);
        if let Some(path) = &settings.jwt_jwks {
            let content = |problem: String| AuthorityError::Content(path.display().to_string(), problem);
            let set: JwkSet =
                serde_json::from_str(&text(path)?).map_err(|error| content(format!("no JWKS: {error}")))?;
            for jwk in &set.keys {
                authority.keys.push(key(jwk).map_err(content)?);
            }
        }
        if let Some(path) = &settings.jwt_secret {
            let secret = text(path)?;
            authority
                .secret(secret.trim())
                .map_err(|problem| AuthorityError::Content(path.display().to_string(), problem))?;
        }
        if let Some(path) = &settings.admin_tokens {
            for (index, line) in text(path)?.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let (name, hash) = admin(line).ok_or_else(|| {
                    let problem = format!(
                        "line {} is wrong, expected `NAME:SHA256` in 64 hexadecimal digits",
                        index + 1
                    );
                    AuthorityError::Content(path.display().to_string(), problem)
                })?;
                authority.admins.insert(hash, name);
            }
        }
        if authority.keys.is_empty() && authority.admins.is_empty() {
            return Err(AuthorityError::Nobody);
        }
        Ok(authority)
    }

    fn new(settings: &ServeSettings) -> Self {
        Self {
            keys: Vec::new(),
            issuer: settings.jwt_issuer.clone(),
            audience: settings.jwt_audience.clone(),
            admins: HashMap::new(),
        }
    }

    /// One that believes a secret that was made up just now; for `dev`.
    #[must_use]
    pub fn with_secret(settings: &ServeSettings, secret: &str) -> Self {
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
    fn caller(&self, token: &str) -> Result<Caller, String> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(name) = self.admins.get(&hash) {
            return Ok(Caller { name: name.clone(), workspace: None, role: Role::Editor, owner: None });
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
        Self { name, workspace: Some(claims.workspace_id), role: claims.role, owner: claims.owner }
    }
}

fn text(path: &Path) -> Result<String, AuthorityError> {
    std::fs::read_to_string(path).map_err(|error| AuthorityError::File(path.display().to_string(), error))
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

/// The token of a request, and whether it came in a cookie, which a browser sends by itself.
fn token(headers: &HeaderMap) -> Option<(&str, bool)> {
    if let Some(bearer) = headers.get(header::AUTHORIZATION) {
        return Some((bearer.to_str().ok()?.strip_prefix("Bearer ")?.trim(), false));
    }
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|cookies| cookies.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
    let found = pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
    Some((found, true))
}

/// True if a request that changes something comes from a page of our own.
pub fn is_from_our_page(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let host = text("host");
    let origin = text("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    host.is_some() && origin == host
}

impl super::Console {
    /// Who sends a token from an address; counts failures.
    ///
    /// # Errors
    /// 401, or 429 after too many failures.
    pub(super) fn sign_in(&self, token: &str, from: SocketAddr) -> Result<Caller, Problem> {
        let now = Instant::now();
        if let Some(seconds) = self.failed.wait(from.ip(), now) {
            return Err(Problem::too_many(seconds));
        }
        self.authority.caller(token).map_err(|problem| {
            self.failed.failed(from.ip(), now);
            Problem::unauthorized(problem)
        })
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, console: &Shared) -> Result<Self, Problem> {
        let Some((token, is_cookie)) = token(&parts.headers) else {
            return Err(Problem::unauthorized("there is no token, expected `authorization: Bearer …`"));
        };
        if is_cookie && parts.method != Method::GET && !is_from_our_page(&parts.headers) {
            return Err(Problem::forbidden("the request does not come from a page of the console"));
        }
        let ConnectInfo(from) = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .copied()
            .ok_or_else(|| Problem::unauthorized("the caller's address is not known"))?;
        console.sign_in(token, from)
    }
}

impl Caller {
    /// True if a webhook of a workspace is theirs to see.
    #[must_use]
    pub fn sees(&self, workspace: &WorkspaceId) -> bool {
        self.workspace.as_ref().is_none_or(|own| own == workspace)
    }

    /// True if they may change something.
    #[must_use]
    pub fn edits(&self) -> bool {
        self.role == Role::Editor
    }

    /// Refuses viewers.
    ///
    /// # Errors
    /// 403
    pub fn must_edit(&self) -> Result<(), Problem> {
        if self.edits() {
            return Ok(());
        }
        Err(Problem::forbidden("your role is `viewer`, expected `editor`"))
    }
}

/// One that is not theirs is as unknown as one that does not exist.
pub fn unknown(id: &WebhookId) -> Problem {
    Problem::missing(format!("webhook `{id}` does not exist"))
}

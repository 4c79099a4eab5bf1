use std::{net::SocketAddr, path::PathBuf};

use ipnet::IpNet;

use super::value;

/// How the API and the console are served.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Console")]
pub struct ServeSettings {
    /// Address for the console and the API.
    #[arg(
        long,
        env = "BUNDLEHOOK_CONSOLE_ADDR",
        default_value = "127.0.0.1:8080",
        value_parser = value::socket_addr
    )]
    pub console_addr: SocketAddr,
    #[command(flatten)]
    pub sign_in: SignInSettings,
    /// Who writes webhook settings: people in the console, or a system upstream (the console shows them read-only, and
    /// can enable, test and re-send).
    #[arg(long = "settings-by", env = "BUNDLEHOOK_SETTINGS", default_value = "console")]
    pub settings_by: SettingsBy,
    /// Most webhooks of a workspace.
    #[arg(
        long,
        env = "BUNDLEHOOK_MAX_WEBHOOKS",
        default_value_t = 10,
        value_parser = value::number::<u32>(1..=1000)
    )]
    pub max_webhooks: u32,
    /// Origins whose pages may show the console in a frame and sign people in, such as `https://app.example.com`, separated
    /// by commas.
    #[arg(
        long,
        env = "BUNDLEHOOK_FRAME_ANCESTORS",
        value_delimiter = ',',
        value_parser = value::origin,
        value_name = "ORIGIN"
    )]
    pub frame_ancestors: Vec<String>,
    /// Networks of the proxies before the console, such as `10.0.0.0/8`, separated by commas. Their word for who the client
    /// is counts where failed tries to sign in are limited.
    #[arg(
        long,
        env = "BUNDLEHOOK_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_parser = value::network,
        value_name = "NETWORK"
    )]
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which those proxies name the client. They must add to it, or replace it, in each request.
    #[arg(long, env = "BUNDLEHOOK_FORWARDED_HEADER", default_value = "x-forwarded-for")]
    pub forwarded_header: ForwardedHeader,
}

/// Who can sign in.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Console")]
pub struct SignInSettings {
    /// A file with the public keys (JWKS) of whoever signs tokens with RS256 or ES256.
    #[arg(long, env = "BUNDLEHOOK_JWT_JWKS", value_name = "FILE")]
    pub jwt_jwks: Option<PathBuf>,
    /// A file with the secret of whoever signs tokens with HS256, 32 bytes or more.
    #[arg(long, env = "BUNDLEHOOK_JWT_SECRET", value_name = "FILE", conflicts_with = "jwt_jwks")]
    pub jwt_secret: Option<PathBuf>,
    /// The issuer that tokens must name.
    #[arg(long, env = "BUNDLEHOOK_JWT_ISSUER", default_value = "bundlehook")]
    pub jwt_issuer: String,
    /// The audience that tokens must name.
    #[arg(long, env = "BUNDLEHOOK_JWT_AUDIENCE", default_value = "bundlehook")]
    pub jwt_audience: String,
    /// A file with admin tokens, a line `NAME:SHA256` each: the hash of the token in hexadecimal digits.
    #[arg(long, env = "BUNDLEHOOK_ADMIN_TOKENS", value_name = "FILE")]
    pub admin_tokens: Option<PathBuf>,
}

impl SignInSettings {
    /// True if there is a file that could name somebody.
    #[must_use]
    pub fn is_given(&self) -> bool {
        [&self.jwt_jwks, &self.jwt_secret, &self.admin_tokens].iter().any(|file| file.is_some())
    }
}

/// In which form a proxy names the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, by RFC 7239.
    Forwarded,
}

/// Who writes webhook settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SettingsBy {
    /// People, in the console and through the API.
    Console,
    /// A system that publishes to `webhook-settings`.
    Upstream,
}

/// How secrets are sealed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Console")]
pub struct SealingSettings {
    /// A file with the keys that seal secrets and header values, a line `ID:BASE64` each, 32 bytes. The first one seals.
    /// Without it settings that hold secrets are refused. Where it changes, the role begins anew.
    #[arg(long, env = "BUNDLEHOOK_SEALING_KEYS", value_name = "FILE")]
    pub sealing_keys: Option<PathBuf>,
}

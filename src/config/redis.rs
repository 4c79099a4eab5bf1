use std::{path::PathBuf, str::FromStr, time::Duration};

use redis::IntoConnectionInfo as _;
use url::Url;

use super::{Given, InFile, ReadOnce};

/// What a URL of Redis may look like.
const EXPECTED: &str = "expected a URL like `redis://host:6379/0`, `rediss://user:password@host`, `redis+unix:///path`, \
     `redis+sentinel://host:26379,host:26379/service` or `redis+cluster://host:6379,host:6379`";

/// Where a sentinel listens unless the URL says.
const SENTINEL_PORT: u16 = 26379;

/// How to reach Redis.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Redis")]
pub struct RedisSettings {
    /// One server: `redis://[user:password@]host[:port][/database]`, with TLS `rediss://`, or `redis+unix:///path`.
    /// The master that sentinels name: `redis+sentinel://[user:password@]host[:port],…/service[/database]`; the
    /// sentinels' own login is `?sentinel_username=…&sentinel_password=…`. A Redis Cluster:
    /// `redis+cluster://[user:password@]host[:port],…`. With TLS `rediss+sentinel://` and `rediss+cluster://`.
    #[arg(
        long = "redis-url",
        env = "BUNDLEHOOK_REDIS_URL",
        value_name = "URL",
        value_parser = RedisServers::from_str,
        required_unless_present = "servers_file",
        hide_env_values = true
    )]
    servers: Option<RedisServers>,
    /// A file with that URL, to keep its password out of variables. Read anew for each connection; where it is that of a
    /// Cluster and changes, a role begins anew.
    #[arg(
        long = "redis-url-file",
        env = "BUNDLEHOOK_REDIS_URL_FILE",
        value_name = "FILE",
        conflicts_with = "servers"
    )]
    servers_file: Option<InFile<RedisServers>>,
    /// How long to wait for an answer before the call counts as failed, though it may have been carried out.
    #[arg(long = "redis-timeout", env = "BUNDLEHOOK_REDIS_TIMEOUT", default_value = "5s", value_parser = super::value::duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub tls: RedisTls,
}

impl RedisSettings {
    /// Settings for servers whose certificates, if any, the system trusts.
    #[must_use]
    pub fn new(servers: RedisServers, timeout: Duration) -> Self {
        Self { servers: Some(servers), servers_file: None, timeout, tls: RedisTls::default() }
    }

    /// Which servers there are.
    #[must_use]
    pub fn servers(&self) -> Given<RedisServers> {
        let given = Given::either(self.servers.clone(), self.servers_file.clone());
        given.expect("the command line demands one of both")
    }

    /// Adds the files of a Cluster, whose client reads them as it is made. For other servers they are read anew for each
    /// connection.
    pub fn add_read_once(&self, files: &mut ReadOnce) {
        if !matches!(self.servers().first(), RedisServers::Cluster(_)) {
            return;
        }
        if let Some(file) = &self.servers_file {
            files.add_read(file);
        }
        let RedisTls { redis_ca_bundle, redis_certificate, redis_certificate_key } = &self.tls;
        let named = [redis_ca_bundle, redis_certificate, redis_certificate_key];
        named.into_iter().flatten().for_each(|path| files.add(path));
    }
}

/// Whom to trust, and what to show, where Redis is reached by TLS. The files are read anew for each connection; where
/// those of a Cluster change, a role begins anew.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RedisTls {
    /// The authorities that may have signed the servers' certificates, in PEM, instead of those that the system trusts.
    #[arg(long, env = "BUNDLEHOOK_REDIS_CA_BUNDLE", value_name = "FILE")]
    pub redis_ca_bundle: Option<PathBuf>,
    /// The certificate to show to servers that ask for one, followed by those up to its authority, in PEM.
    #[arg(
        long,
        env = "BUNDLEHOOK_REDIS_CERTIFICATE",
        value_name = "FILE",
        requires = "redis_certificate_key"
    )]
    pub redis_certificate: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    #[arg(
        long,
        env = "BUNDLEHOOK_REDIS_CERTIFICATE_KEY",
        value_name = "FILE",
        requires = "redis_certificate"
    )]
    pub redis_certificate_key: Option<PathBuf>,
}

/// Which servers there are, and how the one to ask is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisServers {
    /// Always the same, or whatever stands behind its address.
    Single(Url),
    /// The one that sentinels call the master.
    Sentinel {
        /// Each with the sentinels' login.
        sentinels: Vec<Url>,
        /// The name under which they know the master.
        service: String,
        /// How to log in to the master; the host is that name.
        login: Url,
    },
    /// The one that has a key's slot, found from any of these.
    Cluster(Vec<Url>),
}

impl FromStr for RedisServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| EXPECTED.to_owned())
    }
}

fn parse(text: &str) -> Option<RedisServers> {
    let (scheme, rest) = text.split_once("://")?;
    let (base, topology) = match scheme {
        "redis" | "rediss" | "unix" | "redis+unix" => return url(text).map(RedisServers::Single),
        "redis+sentinel" | "redis+cluster" | "rediss+sentinel" | "rediss+cluster" => {
            scheme.split_once('+')?
        }
        _ => return None,
    };
    // The host of a URL is a single one: each gets a URL of its own.
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    if topology == "cluster" {
        let nodes = hosts.split(',').map(|host| url(&format!("{base}://{login}{host}")));
        return nodes
            .collect::<Option<_>>()
            .filter(|_| path.trim_matches('/').is_empty())
            .map(RedisServers::Cluster);
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let (service, database) = path.strip_prefix('/')?.split_once('/').unwrap_or((&path[1..], ""));
    let login = url(&format!("{base}://{login}{service}/{database}"))?;
    let sentinels =
        hosts.split(',').map(|host| sentinel(&format!("{base}://{host}"), query)).collect::<Option<_>>()?;
    Some(RedisServers::Sentinel { sentinels, service: service.to_owned(), login })
}

/// A URL of one server that the client can read.
fn url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let named = url.host_str().is_some_and(|host| !host.is_empty()) || url.scheme().ends_with("unix");
    (named && url.clone().into_connection_info().is_ok()).then_some(url)
}

fn sentinel(text: &str, query: &str) -> Option<Url> {
    let mut url = url(text)?;
    url.set_port(url.port().or(Some(SENTINEL_PORT))).ok()?;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "sentinel_username" => url.set_username(&value).ok()?,
            "sentinel_password" => url.set_password(Some(&value)).ok()?,
            _ => return None,
        }
    }
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| Url::parse(text).unwrap()).collect()
    }

    #[test]
    fn each_form_names_its_servers() {
        let single = |text: &str| RedisServers::Single(Url::parse(text).unwrap());
        for text in
            ["redis://host", "rediss://u:p@host:1/2", "redis+unix:///tmp/x.sock", "redis://[::1]:6379/0"]
        {
            assert_eq!(text.parse(), Ok(single(text)));
        }
        assert_eq!(
            "rediss+cluster://:p@a:1,b".parse(),
            Ok(RedisServers::Cluster(urls(&["rediss://:p@a:1", "rediss://:p@b"])))
        );
        assert_eq!(
            "redis+sentinel://u:p@a:1,[::1]/main/2?sentinel_password=s3%40".parse(),
            Ok(RedisServers::Sentinel {
                sentinels: urls(&["redis://:s3%40@a:1", "redis://:s3%40@[::1]:26379"]),
                service: "main".to_owned(),
                login: Url::parse("redis://u:p@main/2").unwrap(),
            })
        );
    }

    #[test]
    fn what_names_no_servers_is_refused_with_what_is_expected() {
        for text in [
            "http://x",
            "host:6379",
            "redis://",
            "redis://host/first",
            "redis+sentinel://a:1,b:2",
            "redis+sentinel://a:1/",
            "redis+sentinel://a:1/main/first",
            "redis+sentinel://a:1/main?password=x",
            "redis+cluster://",
            "redis+cluster://a:1,,b:2",
            "redis+cluster://a:1/1",
            "redis+cluster://a:x",
        ] {
            let refused = text.parse::<RedisServers>();
            assert!(
                refused.as_ref().is_err_and(|error| error.starts_with("expected ")),
                "{text}: {refused:?}"
            );
        }
    }
}

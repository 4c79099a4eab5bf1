//! The URL of a webhook: one parser for settings and for sending. What counts is the serialised form.

use http::Uri;
use url::{Host, ParseError, Url};

/// Most bytes of a URL.
pub const MAX_URL_BYTES: usize = 4_096;
/// Most bytes of a name in DNS, without the final dot.
const MAX_NAME_BYTES: usize = 253;
/// Most bytes of a label of a name.
const MAX_LABEL_BYTES: usize = 63;

/// Last labels that never lead to the public internet: special-use domain names of IANA, and what networks and
/// clusters commonly use inside.
const SPECIAL_NAMES: [&str; 18] = [
    "alt",
    "arpa",
    "consul",
    "corp",
    "example",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "svc",
    "test",
    "workgroup",
];

/// Why a text is no URL to send to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Longer than [`MAX_URL_BYTES`].
    #[error("it has {0} bytes, expected at most {MAX_URL_BYTES}")]
    TooLong(usize),
    /// Parsers differ in what they make of these.
    #[error("it holds white space, a control character or a backslash, expected them percent-encoded")]
    Character,
    /// Not a URL.
    #[error("{0}, expected an absolute `http` or `https` URL")]
    NotAUrl(#[from] ParseError),
    /// Another scheme.
    #[error("the scheme is `{0}`, expected an absolute `http` or `https` URL")]
    Scheme(String),
    /// A user name or password.
    #[error("it holds a user name or password, expected them in the header `authorization`")]
    Credentials,
    /// A name that DNS can't hold.
    #[error("the host `{0}` is no domain name and no address, expected one")]
    Host(String),
    /// Two parsers see two different hosts or ports.
    #[error("it can be read in more than one way, expected it without unusual characters")]
    Ambiguous,
}

/// Reads the URL of a webhook.
///
/// Whether its host and port may be dialled is another question, which the deployment decides
/// ([`super::address::AddressPolicy`]).
///
/// # Errors
/// If it is no absolute `http` or `https` URL, or if it is written so that two parsers may disagree about it.
pub fn parse_endpoint(text: &str) -> Result<Url, EndpointError> {
    if text.len() > MAX_URL_BYTES {
        return Err(EndpointError::TooLong(text.len()));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(EndpointError::Character);
    }
    let url = Url::parse(text)?;
    // What is not ASCII gets longer.
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(EndpointError::TooLong(url.as_str().len()));
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EndpointError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() || has_userinfo(text) {
        return Err(EndpointError::Credentials);
    }
    if let Some(Host::Domain(name)) = url.host()
        && !is_domain_name(name)
    {
        return Err(EndpointError::Host(name.to_owned()));
    }
    agrees(&url).then_some(url).ok_or(EndpointError::Ambiguous)
}

/// An empty user name, as in `http://@host/`, is not in the parsed URL. The number of slashes does not matter.
fn has_userinfo(text: &str) -> bool {
    let authority = text.split_once(':').and_then(|(_, rest)| {
        let rest = rest.trim_start_matches('/');
        rest.split(['/', '?', '#']).next()
    });
    authority.is_some_and(|authority| authority.contains('@'))
}

fn is_domain_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= MAX_NAME_BYTES && name.split('.').all(is_label)
}

/// True if what sends the request sees the same host and port in the serialised form.
fn agrees(url: &Url) -> bool {
    url.as_str().parse::<Uri>().is_ok_and(|uri| uri.host() == url.host_str() && uri.port_u16() == url.port())
}

/// True if a name is a single label or ends in one that never leads to the public internet.
#[must_use]
pub fn is_special_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.rsplit_once('.') {
        None => true,
        Some((_, last)) => SPECIAL_NAMES.iter().any(|special| special.eq_ignore_ascii_case(last)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_in_its_serialised_form() {
        for (text, serialised) in [
            ("HTTPS://Hooks.Example.com/a?b#c", "https://hooks.example.com/a?b#c"),
            ("https://hooks.example.com:443/", "https://hooks.example.com/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://bücher.example.com/", "http://xn--bcher-kva.example.com/"),
            ("https://h.example.com/a%20b", "https://h.example.com/a%20b"),
        ] {
            assert_eq!(parse_endpoint(text).unwrap().as_str(), serialised);
        }
    }

    #[test]
    fn a_url_that_two_parsers_may_read_differently_is_refused() {
        for (text, error) in [
            ("http://h.example.com/a b", EndpointError::Character),
            (" http://h.example.com/", EndpointError::Character),
            ("http://h.example.com\t/", EndpointError::Character),
            ("http://h.example.com\\@127.0.0.1/", EndpointError::Character),
            ("http://@h.example.com/", EndpointError::Credentials),
            ("http://a:b@h.example.com/", EndpointError::Credentials),
            ("gopher://h.example.com/", EndpointError::Scheme("gopher".to_owned())),
            ("http://a..b.example.com/", EndpointError::Host("a..b.example.com".to_owned())),
            ("http://h*.example.com/", EndpointError::Host("h*.example.com".to_owned())),
        ] {
            assert_eq!(parse_endpoint(text), Err(error), "{text}");
        }
        let long = format!("http://h.example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert!(matches!(parse_endpoint(&long), Err(EndpointError::TooLong(_))));
        // Its serialised form is what counts, and has to be read again.
        let longer = format!("http://h.example.com/{}", "ü".repeat(MAX_URL_BYTES / 4));
        assert!(matches!(parse_endpoint(&longer), Err(EndpointError::TooLong(_))));
        assert!(matches!(parse_endpoint("/relative"), Err(EndpointError::NotAUrl(_))));
    }

    #[test]
    fn names_inside_networks_are_special() {
        for name in ["localhost", "db", "a.localhost.", "x.LOCAL", "metadata.google.internal", "a.b.svc"] {
            assert!(is_special_name(name), "{name}");
        }
        for name in ["hooks.example.com", "local.example.org.", "localhost.example.com"] {
            assert!(!is_special_name(name), "{name}");
        }
    }
}

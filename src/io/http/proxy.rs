//! The way out through an egress proxy: a tunnel by CONNECT to the vetted address.

use std::{fmt, io, net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use super::connector::DialError;

/// At most so large may the proxy's answer be.
const HEAD_BYTES: usize = 8 * 1024;
/// Most headers of the proxy's answer.
const MAX_HEADERS: usize = 100;

/// An egress proxy.
#[derive(Clone)]
pub struct Proxy {
    authority: String,
    authorization: Option<SecretString>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxy").field(&self.authority).finish()
    }
}

impl From<&Url> for Proxy {
    /// From `http://user:password@host:port`.
    fn from(url: &Url) -> Self {
        let port = url.port_or_known_default().unwrap_or(80);
        let authority = format!("{}:{port}", url.host_str().unwrap_or_default());
        let password = url.password().unwrap_or_default();
        let authorization = (!url.username().is_empty()).then(|| {
            let decode = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            let credentials = format!("{}:{}", decode(url.username()), decode(password));
            SecretString::from(format!("Basic {}", BASE64_STANDARD.encode(credentials)))
        });
        Self { authority, authorization }
    }
}

impl Proxy {
    /// Connects to an address through the proxy, which has to take the connection within a time.
    ///
    /// # Errors
    /// [`DialError::Connect`] if the proxy says that the address can't be reached; everything else is ours.
    pub async fn connect(&self, to: SocketAddr, within: Duration) -> Result<TcpStream, DialError> {
        let taken = tokio::time::timeout(within, TcpStream::connect(&self.authority)).await;
        let silent = |_| Err(io::Error::other("the egress proxy does not take connections"));
        let mut stream = taken.unwrap_or_else(silent).map_err(DialError::Local)?;
        stream.set_nodelay(true).map_err(DialError::Local)?;
        stream.write_all(self.request(to).as_bytes()).await.map_err(DialError::Local)?;
        match read_status(&mut stream).await.map_err(DialError::Local)? {
            200..=299 => Ok(stream),
            status @ (502..=504) => {
                let error = io::Error::other(format!("the egress proxy answered {status}"));
                Err(DialError::Connect { address: to, error })
            }
            status => Err(DialError::Local(io::Error::other(format!("the egress proxy answered {status}")))),
        }
    }

    fn request(&self, to: SocketAddr) -> String {
        let authorization = self.authorization.as_ref().map_or_else(String::new, |authorization| {
            format!("proxy-authorization: {}\r\n", authorization.expose_secret())
        });
        format!("CONNECT {to} HTTP/1.1\r\nhost: {to}\r\n{authorization}\r\n")
    }
}

/// Reads the head of the answer and not a byte of what follows it.
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_BYTES {
            return Err(io::Error::other("the egress proxy's answer is too large"));
        }
        head.push(stream.read_u8().await?);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(io::Error::other)?;
    response.code.ok_or_else(|| io::Error::other("the egress proxy's answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_sent_to_the_proxy_and_never_shown() {
        let url = Url::parse("http://me:p%40ss@proxy.example:3128").unwrap();
        let proxy = Proxy::from(&url);
        let request = proxy.request("203.0.113.7:443".parse().unwrap());
        let expected = "CONNECT 203.0.113.7:443 HTTP/1.1\r\nhost: 203.0.113.7:443\r\n\
                        proxy-authorization: Basic bWU6cEBzcw==\r\n\r\n";
        assert_eq!(request, expected);
        assert_eq!(format!("{proxy:?}"), "Proxy(\"proxy.example:3128\")");
    }
}

//! A `redis-server` of our own on a private socket, for `dev`.

use std::{io, path::PathBuf, process::Stdio, time::Duration};

use tokio::process::{Child, Command};
use url::Url;

/// What to say where there is no Redis.
const REMEDY: &str = "`redis-server` is not on the PATH; install it (Debian: apt-get install redis-server)";

/// Ends Redis when its standard input closes, so that it never outlives us, however we end.
const KEEPER: &str = r#""$@" & server=$!; read -r _; kill "$server"; wait "$server""#;

/// A running server. It ends when this is dropped, or when the process ends in whatever way.
pub struct RedisServer {
    _keeper: Child,
    folder: PathBuf,
}

impl RedisServer {
    /// Starts a server that stores nothing on disk.
    ///
    /// # Errors
    /// If there is no `redis-server`, or it does not start.
    pub async fn start() -> io::Result<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().await;
        if !found.is_ok_and(|status| status.success()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, REMEDY));
        }
        let folder = std::env::temp_dir().join(format!("bundlehook-dev-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder)?;
        let socket = folder.join("redis.sock");
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", "redis-server", "--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .args(["--unixsocketperm", "700", "--dir"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()?;
        let server = Self { _keeper: keeper, folder };
        for _ in 0..200 {
            if socket.exists() {
                return Ok(server);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "redis-server did not start within 5 s"))
    }

    /// How to reach it.
    ///
    /// # Errors
    /// If the folder for temporary files has a name that no URL can hold.
    pub fn url(&self) -> Result<Url, url::ParseError> {
        Url::parse(&format!("redis+unix://{}", self.folder.join("redis.sock").display()))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // The server has no use for it any more; what is left is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

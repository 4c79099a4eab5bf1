//! The product's own program as processes of their own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::children::{self, tail};
use super::{HeldPort, LIMIT, wait_until};

/// How many lines of a process's output a failed test shows.
const SHOWN_LINES: usize = 60;

/// A process to be started: `process("aggregate")`. The first argument is a role or a tool.
pub fn process(role: &str) -> Launch {
    Launch { args: vec![role.to_owned()], env: Vec::new(), input: Vec::new() }
}

/// What to start.
#[derive(Debug, Clone)]
#[must_use]
pub struct Launch {
    args: Vec<String>,
    env: Vec<(String, String)>,
    input: Vec<u8>,
}

impl Launch {
    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable. No `BUNDLEHOOK_*` of the test's own environment is passed on.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// What the process reads on its standard input; nothing by default.
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Starts it, with metrics and probes on a port that the rig chooses.
    ///
    /// # Panics
    ///
    /// If it can't be started.
    pub fn start(self) -> Process {
        let folder = children::folder("process");
        let port = HeldPort::new();
        let name = self.args.join(" ");
        let mut command = children::command(binary());
        for (variable, _) in std::env::vars_os().filter(|(variable, _)| is_ours(variable)) {
            command.env_remove(variable);
        }
        command.env("BUNDLEHOOK_HTTP_ADDR", port.addr().to_string()).args(&self.args).envs(self.env);
        if !self.input.is_empty() {
            let input = folder.join("input");
            fs::write(&input, &self.input).expect("the rig's folder can be written");
            command.stdin(File::open(&input).expect("the file was just written"));
        }
        let (stdout, stderr) = (folder.join("stdout"), folder.join("stderr"));
        let child = Mutex::new(children::spawn_with(command, &stdout, &stderr));
        Process { name, port, stdout, stderr, folder, child }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    ///
    /// If that takes over a minute.
    pub async fn run(self) -> Finished {
        let process = self.start();
        let status = process.wait_exit(LIMIT).await;
        Finished { status, stdout: process.stdout(), stderr: process.stderr() }
    }
}

/// The program under test: the debug build, or the one that `BUNDLEHOOK_TEST_BINARY` names.
fn binary() -> OsString {
    std::env::var_os("BUNDLEHOOK_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_bundlehook").into())
}

/// Whether a variable may change what the product does.
fn is_ours(variable: &std::ffi::OsStr) -> bool {
    let name = variable.to_string_lossy();
    name.starts_with("BUNDLEHOOK_") || name == "RUST_LOG"
}

/// A process that has ended by itself.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// A running process. Dropping it kills it, and shows its output if the test has failed.
#[derive(Debug)]
pub struct Process {
    name: String,
    port: HeldPort,
    stdout: PathBuf,
    stderr: PathBuf,
    folder: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Where it serves metrics and probes.
    pub fn http_addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.lock().expect("no holder panics").id()
    }

    /// Asks it to stop.
    pub fn sigterm(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Kills it without warning.
    pub fn sigkill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Makes it stand still.
    pub fn sigstop(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Lets it go on.
    pub fn sigcont(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// True while it stands still.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The name before it stands in parentheses, and may hold anything.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    }

    /// Sends any signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32);
        // The id can't be another process's by now: ours is not reaped before the end was seen here.
        if self.exit_status().is_none() {
            kill(pid, signal).expect("a child can be signalled");
        }
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child.lock().expect("no holder panics").try_wait().expect("a child can be asked")
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    ///
    /// If that takes longer than `limit`.
    pub async fn wait_exit(&self, limit: Duration) -> ExitStatus {
        wait_until(&format!("`{}` to end", self.name), limit, async || self.exit_status().is_some()).await;
        self.exit_status().expect("it has ended")
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    ///
    /// If the process ends, or is not ready within a minute.
    pub async fn wait_ready(&self) {
        wait_until(&format!("`{}` to be ready", self.name), LIMIT, async || {
            let ended = self.exit_status();
            assert!(ended.is_none(), "`{}` ended with {ended:?} before it was ready", self.name);
            self.get("/readyz").await.is_ok_and(|(status, _)| status == 200)
        })
        .await;
    }

    /// The page `/metrics`.
    ///
    /// # Panics
    ///
    /// If it is not served.
    pub async fn metrics(&self) -> String {
        match self.get("/metrics").await {
            Ok((200, page)) => page,
            other => panic!("`{}` serves no metrics: {other:?}", self.name),
        }
    }

    /// The value of one series, named as on the page: `name` or `name{label="value"}`; none if it is not there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let page = self.metrics().await;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        Some(value.trim().parse().unwrap_or_else(|error| panic!("`{series}` is `{value}`: {error}")))
    }

    /// Status and body of a GET of its own port.
    ///
    /// # Errors
    ///
    /// If nobody answers, or not in HTTP.
    pub async fn get(&self, path: &str) -> io::Result<(u16, String)> {
        let answer = tokio::time::timeout(Duration::from_secs(5), get(self.port.addr(), path));
        answer.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        children::end(&mut self.child.lock().expect("no holder panics"));
        if std::thread::panicking() {
            for (stream, file) in [("standard output", &self.stdout), ("standard error", &self.stderr)] {
                eprintln!(
                    "---- last of {stream} of `{}` ({}):\n{}",
                    self.name,
                    file.display(),
                    tail(file, SHOWN_LINES)
                );
            }
        } else {
            // A later run removes what is left.
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn read(file: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(file).expect("the output is a file")).into_owned()
}

/// Status and body of a GET over HTTP/1.0, whose answer ends with the connection.
pub async fn get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut connection = tokio::net::TcpStream::connect(addr).await?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    let parsed = answer.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| io::Error::other(format!("`{answer}` is not HTTP")))
}

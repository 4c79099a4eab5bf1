//! Child processes and their folders, all of which end with the test program, however that ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;

/// A command which the kernel kills when the test program ends; to be started by [`spawn`].
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// Starts a process, with standard output and error appended to `log`.
pub fn spawn(command: Command, log: &Path) -> Child {
    spawn_with(command, log, log)
}

/// Starts a process, with standard output and standard error appended to files.
pub fn spawn_with(mut command: Command, stdout: &Path, stderr: &Path) -> Child {
    let open =
        |file| File::options().create(true).append(true).open(file).expect("the rig's folder can be written");
    command.stdout(open(stdout)).stderr(open(stderr));
    let program = format!("{command:?}");
    on_spawner(command).unwrap_or_else(|error| panic!("failed to start {program}: {error}"))
}

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a process from a thread that never ends: the kernel kills the child when the *thread* that made it ends.
fn on_spawner(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    // Whoever asked has gone only if its test ended; then nobody wants the child.
                    if let Err(mpsc::SendError(Ok(mut unwanted))) = reply.send(command.spawn()) {
                        end(&mut unwanted);
                    }
                }
            })
            .expect("a thread can be started");
        orders
    });
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).expect("the spawner never ends");
    answer.recv().expect("the spawner answers each order")
}

/// Kills a process and waits until it is gone.
pub fn end(child: &mut Child) {
    // It may have ended by itself, which is as good.
    let _ = child.kill();
    let _ = child.wait();
}

/// A new folder for files of this run; removed by a later run, once this program has ended.
pub fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let folder = run_folder().join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&folder).expect("the rig's folder can be written");
    folder
}

/// The folder of this run, locked for as long as the program lives.
fn run_folder() -> &'static Path {
    static RUN: OnceLock<(PathBuf, File)> = OnceLock::new();
    let (folder, _lock) = RUN.get_or_init(|| {
        let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rig/runs");
        let folder = runs.join(std::process::id().to_string());
        let opened = fs::create_dir_all(&runs).and_then(|()| {
            // Two programs that start at once must not remove each other's folder before it is locked.
            let all = File::create(runs.join("lock"))?;
            all.lock()?;
            remove_ended_runs(&runs)?;
            fs::create_dir_all(&folder)?;
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        });
        (folder, opened.expect("the folder for test files can be written"))
    });
    folder
}

/// Removes the folders of runs whose program has ended, which is seen by their lock being free.
fn remove_ended_runs(runs: &Path) -> io::Result<()> {
    for run in fs::read_dir(runs)? {
        let folder = run?.path();
        let Ok(lock) = File::open(folder.join("lock")) else {
            continue;
        };
        if lock.try_lock().is_ok() {
            fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

/// The last lines of a file, for messages.
pub fn tail(file: &Path, lines: usize) -> String {
    let text = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

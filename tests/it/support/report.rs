//! Notes for the summary at the end of `make test`: which broker served, and what could not run.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::thread;

/// Notes which broker the tests of this program ran on.
pub fn broker(name: &str) {
    note("broker", name);
}

/// Notes that the test which runs on this thread can't do its work, and why.
///
/// # Panics
///
/// Where `CI=true`: a test that is left out there is a failure.
pub fn not_run(reason: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "`{test}` can't run: {reason}");
    eprintln!("NOT RUN: {test}: {reason}");
    note("not-run", &format!("{test}: {reason}"));
}

fn note(file: &str, line: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rig/report");
    let appended = fs::create_dir_all(&folder).and_then(|()| {
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join(file))?;
        file.write_all(format!("{line}\n").as_bytes())
    });
    appended.expect("the folder for test files can be written");
}

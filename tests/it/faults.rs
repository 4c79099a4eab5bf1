//! The fault suite, which breaks the whole product under load: the account that it keeps, and a short run of it.

use tokio::process::Command;

use crate::support::kafka;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults");

/// Runs Python in the folder of the suite; what it says, once it has ended well.
async fn python(arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.arg("-B").args(arguments).current_dir(FOLDER).kill_on_drop(true);
    let output = command.output().await.expect("python3 can be started");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test]
async fn the_account_notices_whatever_is_wrong() {
    python(&["-m", "unittest", "discover"]).await;
}

#[tokio::test]
async fn random_kills_and_losses_of_redis_cost_no_message_and_no_order() {
    // The suite starts a broker of its own from what this one was started from.
    if kafka().await.is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("there is room for files");
    let folder = folder.path().to_str().expect("the path is text");
    let program = env!("CARGO_BIN_EXE_bundlehook");
    // Long waits, as the machine may be busy: nothing here depends on how fast it is.
    let row = ["run", "--faults", "short", "--seed", "1", "--patience", "300"];
    println!("{}", python(&[&row[..], &["--binary", program, "--folder", folder]].concat()).await);
}

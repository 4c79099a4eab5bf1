//! The fault suite, which breaks the whole product under load: the account that it keeps.

use tokio::process::Command;

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

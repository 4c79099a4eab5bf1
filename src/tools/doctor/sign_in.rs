//! Whether anybody could sign in to `serve`.

use super::{Check, Level};
use crate::{
    config::SignInSettings,
    console::{Believable, believable},
};

/// What the files of keys and tokens say; none where no settings name one, as where other roles run.
pub fn check(settings: &SignInSettings) -> Option<Check> {
    settings.is_given().then(|| {
        let expected = "somebody can sign in to the console and the API";
        match believable(settings) {
            Ok(Believable { keys, operators }) => {
                let seen = format!("keys of people's tokens: {keys}, operators: {operators}");
                Check::ok("sign-in", seen, expected)
            }
            Err(error) => Check::ok("sign-in", error.to_string(), expected).found(
                Level::Fail,
                "mend the file: `serve` does not start with it, and one that runs goes on with what the file held before",
            ),
        }
    })
}

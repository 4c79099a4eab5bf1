//! The file that holds the sealing keys.

use std::{io, path::Path};

use crate::wire::sealing::Keys;

/// Reads the keys from a file.
///
/// # Errors
/// If it can't be read, or a line is wrong. Never shows a key.
pub fn read(path: &Path) -> io::Result<Keys> {
    let named = |problem: &dyn ToString| {
        let problem = problem.to_string();
        io::Error::other(format!("the sealing keys in `{}` can't be used: {problem}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    Keys::parse(&text).map_err(|error| named(&error))
}

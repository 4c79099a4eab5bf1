//! Settings that may hold a password: each is given as it is, or by the name of a file that holds it.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::read_once::Content;

/// A setting that stands in a file, as a mounted secret does. Its variable ends in `_FILE`.
#[derive(Clone)]
pub struct InFile<T> {
    path: PathBuf,
    /// What the file held at the start.
    first: T,
    /// The same by its bytes.
    content: Content,
}

impl<T: FromStr<Err: fmt::Display>> FromStr for InFile<T> {
    type Err = String;

    fn from_str(path: &str) -> Result<Self, String> {
        let path = PathBuf::from(path);
        let (first, content) = read(&path)?;
        Ok(Self { path, first, content })
    }
}

impl<T> InFile<T> {
    /// What the file held at the start.
    pub(super) fn first(&self) -> &T {
        &self.first
    }

    /// The same by its bytes.
    pub(super) fn content(&self) -> Content {
        self.content
    }

    /// The name of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Shows no content.
impl<T> fmt::Debug for InFile<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFile").field(&self.path).finish()
    }
}

/// A setting as it was given.
#[derive(Debug, Clone)]
pub enum Given<T> {
    /// By a flag or a variable.
    Value(T),
    /// By the name of a file.
    File(InFile<T>),
}

impl<T> Given<T> {
    /// One of both; the command line refuses more.
    pub(super) fn either(value: Option<T>, file: Option<InFile<T>>) -> Option<Self> {
        file.map(Self::File).or_else(|| value.map(Self::Value))
    }

    /// As it was at the start.
    pub fn first(&self) -> &T {
        match self {
            Self::Value(value) => value,
            Self::File(file) => file.first(),
        }
    }
}

impl<T: FromStr<Err: fmt::Display> + Clone> Given<T> {
    /// As it is now: a file is read anew.
    ///
    /// # Errors
    /// If the file can't be read or used any more. Names it, and never shows what it holds.
    pub fn now(&self) -> Result<T, String> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::File(file) => {
                let read = read(&file.path);
                read.map(|(value, _)| value)
                    .map_err(|problem| format!("`{}`: {problem}", file.path.display()))
            }
        }
    }
}

/// What a file holds, as a value and by its bytes. The ends of lines after the value do not count.
fn read<T: FromStr<Err: fmt::Display>>(path: &Path) -> Result<(T, Content), String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("the file can't be read ({error}), expected one"))?;
    let content = Content::of(text.as_bytes());
    let text = text.trim_end_matches(['\n', '\r']);
    if text.trim().is_empty() {
        return Err("the file is empty, expected the setting in it".to_owned());
    }
    let value = text.parse().map_err(|expected| format!("what the file holds can't be used, {expected}"))?;
    Ok((value, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_and_what_is_wrong_names_it_without_its_content() {
        let path = std::env::temp_dir().join(format!("given-{}", uuid::Uuid::new_v4()));
        let text = path.to_str().unwrap();
        fs::write(&path, "5\r\n\n").unwrap();
        let given = Given::File(text.parse::<InFile<u8>>().unwrap());
        assert_eq!((*given.first(), given.now()), (5, Ok(5)));
        fs::write(&path, "6").unwrap();
        assert_eq!((*given.first(), given.now()), (5, Ok(6)));
        for (held, part) in [(" \n", "is empty"), ("s3cret", "can't be used")] {
            fs::write(&path, held).unwrap();
            let problem = given.now().unwrap_err();
            assert!(problem.contains(text) && problem.contains(part), "{problem}");
            assert!(!problem.contains("s3cret"), "{problem}");
        }
        fs::remove_file(&path).unwrap();
        assert!(given.now().unwrap_err().contains("can't be read"));
        assert_eq!(format!("{given:?}"), format!("File(InFile({text:?}))"), "it shows no content");
    }
}

//! Files of which a process takes in what they hold only as it starts.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::InFile;

/// Such files, and what each held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOnce(BTreeMap<PathBuf, Content>);

/// The hash of what a file holds, or of what all files of a folder hold; none where that can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content(Option<[u8; 32]>);

impl Content {
    /// Of a file whose bytes these are.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Some(Sha256::digest(bytes).into()))
    }

    fn look(path: &Path) -> Self {
        let read = if path.is_dir() { read_folder(path) } else { fs::read(path) };
        read.map_or(Self(None), |bytes| Self::of(&bytes))
    }
}

/// The files of a folder, by their names, one after the other.
fn read_folder(folder: &Path) -> io::Result<Vec<u8>> {
    let entries: Vec<_> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    let mut paths: Vec<_> = entries.iter().map(fs::DirEntry::path).filter(|path| path.is_file()).collect();
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(path.as_os_str().as_encoded_bytes());
        all.extend(fs::read(&path)?);
    }
    Ok(all)
}

impl ReadOnce {
    /// Adds a file, as it is now.
    pub fn add(&mut self, path: &Path) {
        self.0.insert(path.to_owned(), Content::look(path));
    }

    /// Adds a file that a setting was read from, as it was then.
    pub(super) fn add_read<T>(&mut self, file: &InFile<T>) {
        self.0.insert(file.path().to_owned(), file.content());
    }

    /// The same files as they are now.
    #[must_use]
    pub fn now(&self) -> Self {
        Self(self.0.keys().map(|path| (path.clone(), Content::look(path))).collect())
    }

    /// The names of those that hold something else in `other`, for people; empty if there are none.
    #[must_use]
    pub fn differing(&self, other: &Self) -> String {
        let differing = self.0.iter().filter(|(path, content)| other.0.get(*path) != Some(content));
        differing.map(|(path, _)| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
    }

    /// True if there are no such files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_counts_by_what_it_holds_and_a_folder_by_all_its_files() {
        let folder = std::env::temp_dir().join(format!("read-once-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&folder).unwrap();
        let (key, ca) = (folder.join("key"), folder.join("ca"));
        fs::create_dir(&ca).unwrap();
        let mut files = ReadOnce::default();
        files.add(&key);
        files.add(&ca);
        assert_eq!(files.differing(&files.now()), "", "what is not there stays so");

        fs::write(&key, "one").unwrap();
        let with_key = files.now();
        assert_eq!(files.differing(&with_key), format!("`{}`", key.display()));
        // As a mounted secret is changed: by another file under the same name.
        fs::write(folder.join("key.new"), "one").unwrap();
        fs::rename(folder.join("key.new"), &key).unwrap();
        assert_eq!(with_key.now(), with_key, "it holds the same");
        fs::write(ca.join("a.pem"), "one").unwrap();
        assert_eq!(with_key.differing(&with_key.now()), format!("`{}`", ca.display()));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_setting_in_a_file_counts_as_it_was_read() {
        let path = std::env::temp_dir().join(format!("read-once-{}", uuid::Uuid::new_v4()));
        fs::write(&path, "5\n").unwrap();
        let setting: InFile<u8> = path.to_str().unwrap().parse().unwrap();
        let mut files = ReadOnce::default();
        fs::write(&path, "6\n").unwrap();
        files.add_read(&setting);
        assert_eq!(files.differing(&files.now()), format!("`{}`", path.display()));
        fs::write(&path, "5\n").unwrap();
        assert_eq!(files.now(), files);
        fs::remove_file(&path).unwrap();
    }
}

//! A JSONL file, or standard input.

use std::{
    fmt::{self, Write},
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek},
    path::Path,
};

use anyhow::{Context, bail};

use super::record::{Kind, Secrets};

/// Wrong lines that are named; more are only counted.
const MAX_NAMED: u64 = 10;

/// Lines that can be read twice: a file is, anything else is held in memory.
pub struct Input {
    name: String,
    source: Source,
}

enum Source {
    File(File),
    Held(Vec<u8>),
}

impl Input {
    /// Opens a file; `-` is standard input, which is read to its end.
    ///
    /// # Errors
    /// If it can't be opened, or not be read where it has to be held.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            let name = "standard input".to_owned();
            return Self::hold(name, io::stdin());
        }
        let name = format!("`{}`", path.display());
        let file = File::open(path).with_context(|| format!("failed to open {name}"))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            Ok(Self { name, source: Source::File(file) })
        } else {
            Self::hold(name, file)
        }
    }

    fn hold(name: String, mut reader: impl Read) -> anyhow::Result<Self> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).with_context(|| format!("failed to read {name}"))?;
        Ok(Self { name, source: Source::Held(bytes) })
    }

    /// What it is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The lines from the first one on.
    ///
    /// # Errors
    /// If the file can't be read again from its beginning.
    pub fn lines(&mut self) -> anyhow::Result<Lines<'_>> {
        let reader: Box<dyn BufRead + '_> = match &mut self.source {
            Source::File(file) => {
                file.rewind().with_context(|| format!("failed to read {} from its beginning", self.name))?;
                Box::new(BufReader::with_capacity(1 << 20, file))
            }
            Source::Held(bytes) => Box::new(bytes.as_slice()),
        };
        Ok(Lines { name: &self.name, reader, line: Vec::new(), number: 0 })
    }

    /// Reads every line and counts the records.
    ///
    /// # Errors
    /// Names the lines that are wrong.
    pub fn validate(&mut self, kind: Kind, secrets: &Secrets) -> anyhow::Result<u64> {
        let (mut count, mut wrong) = (0, Wrong::default());
        let mut lines = self.lines()?;
        while let Some((number, line)) = lines.next()? {
            count += 1;
            let read = kind.read(line).and_then(|record| kind.keep(record, secrets));
            if let Err(fault) = read {
                wrong.add(number, &fault);
            }
        }
        drop(lines);
        match wrong.count {
            0 => Ok(count),
            1 => bail!("a line of {} is wrong; nothing was published{wrong}", self.name),
            many => bail!("{many} lines of {} are wrong; nothing was published{wrong}", self.name),
        }
    }
}

/// The wrong lines of an input.
#[derive(Debug, Default)]
struct Wrong {
    count: u64,
    named: String,
}

impl Wrong {
    fn add(&mut self, number: usize, fault: &str) {
        self.count += 1;
        if self.count <= MAX_NAMED {
            // Writing to a string can't fail.
            let _ = write!(self.named, "\n  line {number}: {fault}");
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.named)?;
        match self.count.saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

/// Lines with their numbers, from 1; blank ones are left out.
pub struct Lines<'a> {
    name: &'a str,
    reader: Box<dyn BufRead + 'a>,
    line: Vec<u8>,
    number: usize,
}

impl Lines<'_> {
    /// The next line, without its end.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn next(&mut self) -> anyhow::Result<Option<(usize, &[u8])>> {
        loop {
            self.line.clear();
            let read = self.reader.read_until(b'\n', &mut self.line);
            if read.with_context(|| format!("failed to read {}", self.name))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(Some((self.number, self.line.trim_ascii())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(text: &str) -> Input {
        Input { name: "standard input".to_owned(), source: Source::Held(text.as_bytes().to_vec()) }
    }

    #[test]
    fn lines_keep_their_numbers_over_blank_ones() {
        let mut input = held("a\r\n\n  \nb");
        for _ in 0..2 {
            let mut lines = input.lines().unwrap();
            assert_eq!(lines.next().unwrap(), Some((1, &b"a"[..])));
            assert_eq!(lines.next().unwrap(), Some((4, &b"b"[..])));
            assert_eq!(lines.next().unwrap(), None);
        }
    }

    #[test]
    fn a_file_is_read_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        std::fs::write(&path, include_str!("../../../tests/examples/events.jsonl")).unwrap();
        let mut input = Input::open(&path).unwrap();
        assert!(matches!(input.source, Source::File(_)));
        assert_eq!(input.validate(Kind::Events, &Secrets::Plain).unwrap(), 5);
        assert_eq!(input.validate(Kind::Events, &Secrets::Plain).unwrap(), 5);
    }

    #[test]
    fn wrong_lines_are_named_and_counted() {
        let error = held("{}\n{").validate(Kind::Events, &Secrets::Plain).unwrap_err().to_string();
        assert!(
            error.starts_with("2 lines of standard input are wrong; nothing was published\n  line 1: "),
            "{error}"
        );
        assert!(error.contains("\n  line 2: the value is not JSON"), "{error}");
        let error = held(&"{}\n".repeat(15)).validate(Kind::Events, &Secrets::Plain).unwrap_err().to_string();
        assert!(error.ends_with("\n  and 5 more"), "{error}");
    }
}

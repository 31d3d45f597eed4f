//! Where in a file something is wrong, and the sentence that tells a person what to do. Never prints a file's lines,
//! for they may hold secrets.

pub mod toml;

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Something wrong at a place in a file: `path:line:column: message`, then a hint on its own line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, or the name of an environment variable.
    pub path: PathBuf,
    /// From 1; 0 where the fault is the whole file's.
    pub line: usize,
    /// From 1, in characters; 0 where only the line is known.
    pub column: usize,
    /// Lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        for number in [self.line, self.column].into_iter().take_while(|number| *number > 0) {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}

impl Fault {
    /// A fault of the whole file.
    pub fn of_file(path: &Path, message: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line: 0, column: 0, message: message.to_string(), hint: None }
    }

    /// A fault in one line.
    pub fn of_line(path: &Path, line: usize, message: impl fmt::Display) -> Self {
        Self { line, ..Self::of_file(path, message) }
    }

    /// A file that cannot be opened or read.
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "create the file, or take it out of the configuration",
            std::io::ErrorKind::InvalidData => return Self::of_file(path, "is not UTF-8 text").hint("save it as UTF-8"),
            std::io::ErrorKind::PermissionDenied => "let the relay's user read it",
            _ => "see that the file and its disk are sound",
        };
        Self::of_file(path, format_args!("cannot be read: {error}")).hint(hint)
    }

    /// The same fault with advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Line and column, both from 1, of the start of a span of bytes.
pub fn line_and_column(text: &str, span: &Range<usize>) -> (usize, usize) {
    let before = text.get(..span.start).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What somebody wrote, for an error: one line, not endless, control characters made visible.
pub fn shown(text: &str) -> String {
    let mut start: String =
        text.chars().take(80).flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    if text.chars().nth(80).is_some() {
        start.push('…');
    }
    format!("`{start}`")
}

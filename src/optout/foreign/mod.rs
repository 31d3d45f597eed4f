//! Lists as other programs write them, row by row in bounded memory: CSV by its columns, JSON, Postfix access maps, plain text.
//! A row that names nobody is told with its line and never ends the reading. Never judges, never writes.

mod columns;
mod json;
mod lines;
mod postfix;
mod provider;
mod rows;

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::entry::{Attributes, EntryError, Subject};
use super::file;
use crate::place::Fault;

pub use columns::Column;

/// How a list is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// By its looks.
    #[default]
    Auto,
    /// One entry a line.
    Text,
    /// A table, by the names of its columns.
    Csv,
    /// JSON: objects, in a list or one after another, also within an object.
    Json,
    /// A list of our own, as in `config/blacklist.toml`.
    Toml,
    /// An access(5) table.
    Postfix,
    /// What a mail provider exports: CSV from its pages, JSON from its API.
    Of(Provider),
}

pub use provider::Provider;

/// What a row turned out to be.
#[derive(Debug)]
pub enum Found {
    /// An opt-out.
    Entry(Subject, Attributes),
    /// No opt-out, and not meant as one: a line of an access map that lets mail pass.
    Other,
    /// Meant as one, but it cannot be in force; what is wrong, without its place.
    Wrong(String),
}

/// What a reading needs to know.
#[derive(Debug, Default)]
pub struct Manner {
    /// How the list is written.
    pub form: Form,
    /// Columns with names that are not known by themselves.
    pub columns: Vec<Column>,
}

/// No entry is longer, with all that stands beside it; bytes.
const MAX_ROW: usize = 1 << 20;

/// No list in TOML is longer; bytes.
const MAX_TOML: u64 = 64 << 20;

/// Takes a row: its line (from 1; of JSON the number of the entry) and what it is. An error ends the reading.
pub type Take<'a> = dyn FnMut(u64, Found) -> io::Result<()> + 'a;

/// Why a list was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// By what stands in it.
    #[error("{0}")]
    By(#[from] Fault),
    /// By whoever took the rows.
    #[error("{0}")]
    Taker(#[from] io::Error),
}

/// Hands every row to `take`, unpacked where it is gzip. `path` names the list in errors, and tells its form by its ending.
/// Returns the provider whose export it is, by its columns or by the form.
pub fn read_foreign(path: &Path, source: impl Read, manner: &Manner, take: &mut Take<'_>) -> Result<Option<Provider>, Ended> {
    let mut source = BufReader::with_capacity(1 << 18, source);
    if source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?.starts_with(&[0x1f, 0x8b]) {
        return read_plain(path, &mut BufReader::with_capacity(1 << 18, MultiGzDecoder::new(source)), manner, take);
    }
    read_plain(path, &mut source, manner, take)
}

fn read_plain(path: &Path, source: &mut dyn BufRead, manner: &Manner, take: &mut Take<'_>) -> Result<Option<Provider>, Ended> {
    let head = source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?;
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(Fault::of_line(path, 1, "is UTF-16 text").hint("save the list as UTF-8").into());
    }
    let form = if manner.form == Form::Auto { by_looks(path, head) } else { manner.form };
    match form {
        Form::Text | Form::Auto => lines::read(path, source, take).map(|()| None),
        Form::Postfix => postfix::read(path, source, take).map(|()| None),
        Form::Toml => toml(path, source, take).map(|()| None),
        Form::Json => json::read(path, source, &manner.columns, None, take),
        Form::Csv => rows::read(path, source, &manner.columns, None, take),
        Form::Of(provider) if looks_like_json(head) => json::read(path, source, &manner.columns, Some(provider), take),
        Form::Of(provider) => rows::read(path, source, &manner.columns, Some(provider), take),
    }
}

fn by_looks(path: &Path, head: &[u8]) -> Form {
    let ending = path.file_name().and_then(|name| name.to_str()).map(|name| name.trim_end_matches(".gz").to_ascii_lowercase());
    let ends = |with: &str| ending.as_deref().is_some_and(|name| name.ends_with(with));
    if ends(".toml") {
        Form::Toml
    } else if looks_like_json(head) {
        Form::Json
    } else if ends(".csv") || ends(".tsv") {
        Form::Csv
    } else if postfix::looks_like(head) {
        // Before tables: a tab may stand between the two words of a line.
        Form::Postfix
    } else if rows::looks_like(head) {
        Form::Csv
    } else {
        Form::Text
    }
}

fn looks_like_json(head: &[u8]) -> bool {
    let mut signs = without_mark(head).iter().filter(|b| !b.is_ascii_whitespace());
    match signs.next() {
        // An address may begin with it.
        Some(b'{') => signs.next().is_none_or(|b| b"\"}".contains(b)),
        Some(b'[') => signs.next().is_some_and(|b| b"{\"]".contains(b)),
        _ => false,
    }
}

/// Some programs put a byte order mark in front.
fn without_mark(head: &[u8]) -> &[u8] {
    head.strip_prefix("\u{feff}".as_bytes()).unwrap_or(head)
}

fn toml(path: &Path, source: &mut dyn BufRead, take: &mut Take<'_>) -> Result<(), Ended> {
    // The only form that is read whole.
    let mut text = Vec::new();
    source.take(MAX_TOML).read_to_end(&mut text).map_err(|e| Fault::unreadable(path, &e))?;
    if text.len() as u64 == MAX_TOML {
        let hint = "take it apart, or write it as CSV or one entry a line";
        return Err(Fault::of_file(path, "is longer than any list of this form: 64 MiB").hint(hint).into());
    }
    let mut taken = Ok(());
    file::read_toml(path, text.as_slice(), &mut |line, subject, attributes| {
        if taken.is_ok() {
            taken = take(u64::from(line), Found::Entry(subject, attributes));
        }
    })?;
    Ok(taken?)
}

/// An entry of any kind; a hash may go without the name of its kind, which its length tells.
fn subject(text: &str) -> Result<Subject, EntryError> {
    let is_hex = text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
    match text.len() {
        32 if is_hex => Subject::hash(&format!("md5:{text}")),
        64 if is_hex => Subject::hash(&format!("sha256:{text}")),
        _ => Subject::guess(text),
    }
}

fn wrong(error: &EntryError) -> Found {
    let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    Found::Wrong(format!("{error}{hint}"))
}

/// For people, on one line and not without end.
pub(super) fn short(text: &str) -> String {
    text.chars().take(500).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Ends a reading that goes on too long without a row: a quote that is never closed would take all of it into memory.
struct Bounded<'a, R> {
    source: R,
    since_row: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since_row.get() > MAX_ROW {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "one row is longer than 1 MiB"));
        }
        let count = self.source.read(buffer)?;
        self.since_row.set(self.since_row.get() + count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;

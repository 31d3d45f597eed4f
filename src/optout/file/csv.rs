//! Lists as CSV, with a header row that names the columns. Never takes two rows for one.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::{Add, line_number, refuse, until};
use crate::optout::entry::{Attributes, EntryError, ReadSubject, Subject, senders};
use crate::place::Fault;

/// What a column of addresses may be called.
const NAMES: [&str; 6] = ["address", "email", "e-mail", "email_address", "email address", "recipient"];

pub fn read(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    let mut source = BufReader::with_capacity(1 << 18, source);
    let head = source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?;
    let separator = separator(head);
    let quotes = Cell::new(0);
    let mut rows = dialect(separator).from_reader(Quotes { source, count: &quotes });
    let header = rows.headers().map_err(|e| of_csv(path, &e))?;
    if header.iter().any(swallows_a_row) {
        return Err(unclosed(path, 1));
    }
    let (columns, width) = (Columns::new(header), header.len());
    if columns.names.is_empty() {
        return Err(Fault::of_line(path, 1, "has no column `address`, `domain`, `pattern` or `hash`")
            .hint("name the columns in the first row, as in: address,since,reason"));
    }
    let (mut row, mut last) = (csv::StringRecord::new(), 1);
    while rows.read_record(&mut row).map_err(|e| of_csv(path, &e))? {
        let line = line_of(row.position(), rows.position(), row.iter().map(str::as_bytes));
        if row.len() == 1 && row[0].is_empty() {
            continue; // an empty line
        }
        let subject = columns.subject(&row).map_err(|e| refuse(path, line, &e))?;
        let attributes = columns.attributes(&row).map_err(|e| refuse(path, line, &e))?;
        // No column stands for what is behind the last one; somebody who stands there would be lost.
        if row.iter().skip(width).any(|cell| cell.contains('@') && Subject::guess(cell).is_ok()) {
            return Err(refuse(path, line, &EntryError::Two));
        }
        if row.iter().any(swallows_a_row) {
            return Err(unclosed(path, line));
        }
        add(line_number(line), subject, attributes);
        last = line;
    }
    if quotes.get().is_multiple_of(2) { Ok(()) } else { Err(unclosed(path, last)) }
}

/// How tables are taken apart, wherever one is read: what is read in one way and written anew in another would break.
pub fn dialect(separator: u8) -> csv::ReaderBuilder {
    let mut dialect = csv::ReaderBuilder::new();
    // With `\r\n` as the end of a row the reader would count the lines one behind; so `\r` is space, and trimmed. A lone one ends no
    // row.
    dialect.delimiter(separator).terminator(csv::Terminator::Any(b'\n')).flexible(true).trim(csv::Trim::All);
    dialect
}

/// Which of `,`, `;` and tab the first row has most of; `head` is how the table begins.
pub fn separator(head: &[u8]) -> u8 {
    let row = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = |separator| row.iter().filter(|b| **b == separator).count();
    if count(b';') > count(b',') {
        b';'
    } else if count(b'\t') > count(b',') {
        b'\t'
    } else {
        b','
    }
}

/// The line on which a row stands: the reader counts from where it began to look for it, before the empty lines.
pub fn line_of<'a>(begun: Option<&csv::Position>, after: &csv::Position, cells: impl Iterator<Item = &'a [u8]>) -> usize {
    let inside: usize = cells.map(|cell| memchr::memchr_iter(b'\n', cell).count()).sum();
    (after.line() as usize).saturating_sub(1 + inside).max(begun.map_or(0, |begun| begun.line() as usize))
}

/// Counts the quotes that pass.
pub struct Quotes<'a, R> {
    pub source: R,
    pub count: &'a Cell<usize>,
}

impl<R: Read> Read for Quotes<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count.set(self.count.get() + memchr::memchr_iter(b'"', &buffer[..count]).count());
        Ok(count)
    }
}

/// A quote that was never closed makes the rows after it a part of its field, and their opt-outs would be lost.
pub fn swallows_a_row(field: &str) -> bool {
    field.split_once('\n').is_some_and(|(_, rest)| rest.contains('@'))
}

pub fn unclosed(path: &Path, line: usize) -> Fault {
    Fault::of_line(path, line, "a quote that is not closed takes in the rows after it").hint("close it, or take it out")
}

fn of_csv(path: &Path, error: &csv::Error) -> Fault {
    let line = error.position().map_or(0, csv::Position::line) as usize;
    let cause = match error.kind() {
        csv::ErrorKind::Io(e) => return Fault::unreadable(path, e),
        csv::ErrorKind::Utf8 { .. } => "is not UTF-8 text",
        _ => "is not a row of CSV",
    };
    Fault::of_line(path, line, cause).hint("save the list as CSV in UTF-8")
}

/// The name of a column in comparing form.
pub fn column_name(name: &str) -> String {
    name.trim_start_matches('\u{feff}').to_lowercase()
}

/// Which column says what.
pub struct Columns {
    names: Vec<(usize, ReadSubject)>,
    others: Vec<(usize, String)>,
}

impl Columns {
    pub fn new(header: &csv::StringRecord) -> Self {
        let (mut names, mut others) = (Vec::new(), Vec::new());
        for (at, name) in header.iter().enumerate() {
            let name = column_name(name);
            match name.as_str() {
                "domain" => names.push((at, Subject::domain as ReadSubject)),
                "pattern" => names.push((at, Subject::pattern)),
                "hash" => names.push((at, Subject::hash)),
                name if NAMES.contains(&name) => names.push((at, Subject::guess)),
                _ => others.push((at, name)),
            }
        }
        Self { names, others }
    }

    /// The cell that names somebody.
    pub fn place(&self, row: &csv::StringRecord) -> Option<usize> {
        self.names.iter().map(|(at, _)| *at).find(|at| row.get(*at).is_some_and(|text| !text.is_empty()))
    }

    pub fn subject(&self, row: &csv::StringRecord) -> Result<Subject, EntryError> {
        let mut given = self.names.iter().filter_map(|(at, parse)| row.get(*at).filter(|t| !t.is_empty()).map(parse));
        match (given.next(), given.next()) {
            (Some(subject), None) => subject,
            (None, _) => Err(EntryError::Nobody),
            (Some(_), Some(_)) => Err(EntryError::Two),
        }
    }

    /// Columns with other names are the user's own.
    fn attributes(&self, row: &csv::StringRecord) -> Result<Attributes, EntryError> {
        let mut attributes = Attributes::default();
        for (at, name) in &self.others {
            let Some(text) = row.get(*at).filter(|text| !text.is_empty()) else { continue };
            match name.as_str() {
                "since" => attributes.since = Some(text.into()),
                "until" => attributes.until = Some(until(text)?),
                "reason" => attributes.reason = Some(text.into()),
                "source" => attributes.source = Some(text.into()),
                "note" => attributes.note = Some(text.into()),
                "senders" => attributes.senders = senders(text.split_whitespace())?,
                "action" => attributes.action = Some(text.parse()?),
                _ => {}
            }
        }
        Ok(attributes)
    }
}

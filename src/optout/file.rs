//! Opt-out lists as files: TOML, plain text and CSV, by their ending. An entry that is none is an error with its
//! line; nothing is skipped silently. Never judges, never writes.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::value::Datetime;

use super::entry::{Action, Attributes, EntryError, ReadSubject, Subject, hex, senders};
use super::list::{Builder, OptOutList, Twin};
use crate::mail::PlusTags;
use crate::place::toml::place_in;
use crate::place::{Fault, line_and_column};

/// A list with what is worth a warning.
#[derive(Debug)]
pub struct Loaded {
    /// Ready to judge by.
    pub list: OptOutList,
    /// The first hundred entries that name somebody named before.
    pub twins: Vec<Twin>,
    /// How many such entries there are.
    pub twin_count: usize,
}

/// Reads all files into one list. The first fault ends it: half a list would mail the other half.
pub fn load(paths: &[PathBuf], tags: PlusTags) -> Result<Loaded, Fault> {
    let mut builder = Builder::new(tags);
    let mut digest = Sha256::new();
    for path in paths {
        builder.file(path);
        let file = File::open(path).map_err(|e| Fault::unreadable(path, &e))?;
        let source = Hashed { file, digest: &mut digest };
        read_from(path, source, &mut |line, subject, attributes| builder.add(line, subject, attributes))?;
    }
    builder.fingerprint(hex(&digest.finalize()[..8]));
    let (twins, twin_count) = builder.twins();
    let twins = twins.to_vec();
    Ok(Loaded { list: builder.finish(), twins, twin_count })
}

/// A file that is hashed while it is read.
struct Hashed<'a> {
    file: File,
    digest: &'a mut Sha256,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

type Add<'a> = dyn FnMut(u32, Subject, Attributes) + 'a;

/// Hands every entry of one list to `add`, with its line, in the order of the file.
pub fn read(path: &Path, add: &mut Add<'_>) -> Result<(), Fault> {
    let file = File::open(path).map_err(|e| Fault::unreadable(path, &e))?;
    read_from(path, file, add)
}

fn read_from(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("toml") => read_toml(path, source, add),
        Some("txt") => read_text(path, source, add),
        Some("csv") => read_csv(path, source, add),
        _ => Err(Fault::of_file(path, "is no list that can be read")
            .hint("a list ends in .toml, .txt (one entry a line) or .csv (with a header row)")),
    }
}

fn refuse(path: &Path, line: usize, error: &EntryError) -> Fault {
    Fault::of_line(path, line, error).hint(error.hint())
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

// --- plain text: one entry a line, `#` begins a comment ---

fn read_text(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    let mut source = BufReader::with_capacity(1 << 18, source);
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        // An entry is short; a "line" without end is no list, and is not read into memory.
        let count = source.by_ref().take(4096).read_until(b'\n', &mut bytes).map_err(|e| Fault::unreadable(path, &e))?;
        if count == 0 {
            return Ok(());
        }
        line += 1;
        if count == 4096 {
            return Err(Fault::of_line(path, line, "is longer than any entry").hint("one entry a line"));
        }
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Fault::of_line(path, line, "is not UTF-8 text").hint("save the list as UTF-8"))?;
        let entry = without_comment(text.trim_start_matches('\u{feff}')).trim();
        if !entry.is_empty() {
            let subject = Subject::guess(entry).map_err(|e| refuse(path, line, &e))?;
            add(line_number(line), subject, Attributes::default());
        }
    }
}

/// A `#` begins a comment at the start of a line or after a space; within an address it is a letter like others.
fn without_comment(text: &str) -> &str {
    let begins = |&(at, _): &(usize, &str)| at == 0 || text.as_bytes()[at - 1].is_ascii_whitespace();
    text.match_indices('#').find(begins).map_or(text, |(at, _)| &text[..at])
}

// --- CSV with a header row ---

const NAMES: [&str; 6] = ["address", "email", "e-mail", "email_address", "email address", "recipient"];

fn read_csv(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    let mut source = BufReader::with_capacity(1 << 18, source);
    let head = source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?;
    let head = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let count = |separator| head.iter().filter(|b| **b == separator).count();
    let separator = if count(b';') > count(b',') {
        b';'
    } else if count(b'\t') > count(b',') {
        b'\t'
    } else {
        b','
    };
    let quotes = Cell::new(0);
    let source = Quotes { source, count: &quotes };
    // With `\r\n` as the end of a row the reader would count the lines one behind; so `\r` is space, and trimmed.
    let mut rows = csv::ReaderBuilder::new()
        .delimiter(separator)
        .terminator(csv::Terminator::Any(b'\n'))
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(source);
    let columns = Columns::new(rows.headers().map_err(|e| of_csv(path, &e))?);
    if columns.names.is_empty() {
        return Err(Fault::of_line(path, 1, "has no column `address`, `domain`, `pattern` or `hash`")
            .hint("name the columns in the first row, as in: address,since,reason"));
    }
    let (mut row, mut last) = (csv::StringRecord::new(), 1);
    while rows.read_record(&mut row).map_err(|e| of_csv(path, &e))? {
        let line = row.position().map_or(0, csv::Position::line) as usize;
        if row.len() == 1 && row[0].is_empty() {
            continue; // an empty line
        }
        let subject = columns.subject(&row).map_err(|e| refuse(path, line, &e))?;
        let attributes = columns.attributes(&row).map_err(|e| refuse(path, line, &e))?;
        if row.iter().any(swallows_a_row) {
            return Err(unclosed(path, line));
        }
        add(line_number(line), subject, attributes);
        last = line;
    }
    if quotes.get().is_multiple_of(2) { Ok(()) } else { Err(unclosed(path, last)) }
}

/// Counts the quotes that pass.
struct Quotes<'a, R> {
    source: R,
    count: &'a Cell<usize>,
}

impl<R: Read> Read for Quotes<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.count.set(self.count.get() + memchr::memchr_iter(b'"', &buffer[..count]).count());
        Ok(count)
    }
}

/// A quote that was never closed makes the rows after it a part of its field, and their opt-outs would be lost.
fn swallows_a_row(field: &str) -> bool {
    field.split_once('\n').is_some_and(|(_, rest)| rest.contains('@'))
}

fn unclosed(path: &Path, line: usize) -> Fault {
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

/// Which column says what.
struct Columns {
    names: Vec<(usize, ReadSubject)>,
    others: Vec<(usize, String)>,
}

impl Columns {
    fn new(header: &csv::StringRecord) -> Self {
        let (mut names, mut others) = (Vec::new(), Vec::new());
        for (at, name) in header.iter().enumerate() {
            let name = name.trim_start_matches('\u{feff}').to_lowercase();
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

    fn subject(&self, row: &csv::StringRecord) -> Result<Subject, EntryError> {
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

/// A day counts to its end; a time without a zone is UTC.
fn until(text: &str) -> Result<Timestamp, EntryError> {
    let day_end = |day: civil::Date| day.to_datetime(civil::Time::MAX);
    let utc = |time: civil::DateTime| jiff::tz::TimeZone::UTC.to_timestamp(time).ok();
    let is_day = text.len() == 10;
    let moment = if is_day {
        text.parse().ok().map(day_end).and_then(utc)
    } else {
        text.parse().ok().or_else(|| text.parse().ok().and_then(utc))
    };
    moment.ok_or_else(|| EntryError::Date(text.into()))
}

// --- TOML: short lists, and one table an entry ---

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    addresses: Vec<Spanned<String>>,
    domains: Vec<Spanned<String>>,
    patterns: Vec<Spanned<String>>,
    hashes: Vec<Spanned<String>>,
    opt_out: Vec<Spanned<Table>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    address: Option<String>,
    domain: Option<String>,
    pattern: Option<String>,
    hash: Option<String>,
    since: Option<Datetime>,
    until: Option<Datetime>,
    reason: Option<String>,
    source: Option<String>,
    action: Option<Action>,
    senders: Vec<String>,
    note: Option<String>,
}

pub(super) fn read_toml(path: &Path, mut source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    let mut text = String::new();
    source.read_to_string(&mut text).map_err(|e| Fault::unreadable(path, &e))?;
    let document: Document = toml::from_str(&text).map_err(|e| Fault::of_toml(path, &text, &e))?;
    let mut lines = Lines { text: &text, at: 0, line: 1 };
    let short: [(Vec<_>, ReadSubject); 4] = [
        (document.addresses, Subject::address),
        (document.domains, Subject::domain),
        (document.patterns, Subject::pattern),
        (document.hashes, Subject::hash),
    ];
    for (entries, parse) in short {
        for entry in entries {
            let line = lines.of(entry.span().start);
            let subject = parse(entry.as_ref()).map_err(|e| {
                let (line, column) = line_and_column(&text, &entry.span());
                Fault { line, column, ..refuse(path, line, &e) }
            })?;
            add(line_number(line), subject, Attributes::default());
        }
    }
    for (at, table) in document.opt_out.into_iter().enumerate() {
        let line = lines.of(table.span().start);
        let (subject, attributes) = table.into_inner().entry().map_err(|e| {
            let place = e.key().and_then(|key| place_in(&text, "opt_out", at, key));
            let (line, column) = place.unwrap_or((line, 0));
            Fault { line, column, ..refuse(path, line, &e) }
        })?;
        add(line_number(line), subject, attributes);
    }
    Ok(())
}

/// Turns rising byte offsets into line numbers without counting from the start each time.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, offset: usize) -> usize {
        if offset < self.at {
            (self.at, self.line) = (0, 1);
        }
        let passed = self.text.as_bytes().get(self.at..offset).unwrap_or_default();
        self.line += memchr::memchr_iter(b'\n', passed).count();
        self.at = offset;
        self.line
    }
}

impl Table {
    fn entry(self) -> Result<(Subject, Attributes), EntryError> {
        let named: [(Option<String>, ReadSubject); 4] = [
            (self.address, Subject::address),
            (self.domain, Subject::domain),
            (self.pattern, Subject::pattern),
            (self.hash, Subject::hash),
        ];
        let mut named = named.into_iter().filter_map(|(text, parse)| text.map(|text| parse(&text)));
        let subject = match (named.next(), named.next()) {
            (Some(subject), None) => subject?,
            (None, _) => return Err(EntryError::Nobody),
            (Some(_), Some(_)) => return Err(EntryError::Two),
        };
        let attributes = Attributes {
            since: self.since.map(|when| when.to_string()),
            until: self.until.map(|when| until(&when.to_string())).transpose()?,
            reason: self.reason,
            source: self.source,
            action: self.action,
            senders: senders(self.senders.iter().map(String::as_str))?,
            note: self.note,
        };
        Ok((subject, attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(name: &str, text: &str) -> Result<Vec<(u32, String, Attributes)>, String> {
        let mut found = Vec::new();
        read_from(Path::new(name), text.as_bytes(), &mut |line, subject, attributes| {
            found.push((line, subject.to_string(), attributes));
        })
        .map(|()| found)
        .map_err(|fault| fault.to_string())
    }

    #[test]
    fn both_forms_may_stand_in_one_file() {
        let text = "addresses = [\n  \"A@b.example\",\n  'c@d.example',\n]\ndomains = [\"*.x.example\"]\n\n[[opt_out]]\naddress = \"e@f.example\"\nsince = 2017-03-27\nuntil = 2030-01-01\naction = \"drop\"\nsenders = [\"*@Shop-A.example\"]\n";
        let found = entries("l.toml", text).unwrap();
        let places: Vec<_> = found.iter().map(|(line, subject, _)| (*line, subject.as_str())).collect();
        assert_eq!(places, [(2, "a@b.example"), (3, "c@d.example"), (5, "*.x.example"), (7, "e@f.example")]);
        let last = &found[3].2;
        assert_eq!(last.since.as_deref(), Some("2017-03-27"));
        assert_eq!(last.until.unwrap().to_string(), "2030-01-01T23:59:59.999999999Z");
        assert_eq!((last.action, last.senders[0].as_str()), (Some(Action::Drop), "*@shop-a.example"));
    }

    #[test]
    fn text_has_comments_and_crlf() {
        let found = entries("l.txt", "\u{feff}# all\r\n a@b.example # x\r\n\r\na#1@b.example\r\n*.c.example").unwrap();
        let places: Vec<_> = found.iter().map(|(line, subject, _)| (*line, subject.as_str())).collect();
        assert_eq!(places, [(2, "a@b.example"), (4, "a#1@b.example"), (5, "*.c.example")]);
    }

    #[test]
    fn csv_is_read_by_its_header() {
        let found = entries("l.csv", "Email;Since;Action;Shop\na@b.example;2020;drop;x\n\"c@d.example\";;;\n").unwrap();
        assert_eq!(found[0].2.since.as_deref(), Some("2020"));
        assert_eq!(found[0].2.action, Some(Action::Drop));
        assert_eq!((found[1].0, found[1].1.as_str()), (3, "c@d.example"));
    }

    #[test]
    fn a_fault_says_where() {
        for (name, text, expected) in [
            ("l.txt", "a@b.example\ninfo@\n", "l.txt:2: `info@` is not an address"),
            ("l.csv", "address\na b@c\n", "l.csv:2: `a b@c` is not an address"),
            ("l.csv", "adress\na@b.example\n", "l.csv:1: has no column `address`"),
            ("l.csv", "address,until\na@b.example,soon\n", "l.csv:2: `soon` is not a date"),
            ("l.toml", "\n[[opt_out]]\naddress = \"info@\"\n", "l.toml:3:11: `info@` is not an address"),
            ("l.toml", "[[opt_out]]\nreason = \"x\"\n", "l.toml:1: the entry names nobody"),
            (
                "l.toml",
                "[[opt_out]]\naddress = \"a@b.example\"\nuntill = 2030-01-01\n",
                "l.toml:3:1: unknown key `opt_out.untill`",
            ),
            ("l.toml", "adresses = []\n", "did you mean `addresses`?"),
            ("l.toml", "[[opt_out]]\nsince = \"2020\"\n", "write dates without quotes"),
            ("l.toml", "addresses = [\"a@b.example\"\n", "l.toml:"),
            ("l.list", "", "a list ends in .toml"),
        ] {
            let fault = entries(name, text).unwrap_err();
            assert!(fault.contains(expected), "{fault}\nwants: {expected}");
        }
    }
}

//! Opt-out lists as files: TOML, plain text and CSV, by their ending. An entry that is none is an error with its
//! line; nothing is skipped silently. Never judges, never writes.

mod csv;
mod text;
mod toml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use jiff::{Timestamp, civil};
use sha2::{Digest, Sha256};

use super::entry::{Attributes, EntryError, Subject, hex};
use super::list::{Builder, OptOutList, Twin};
use crate::disk::Counted;
use crate::mail::PlusTags;
use crate::place::Fault;

pub(super) use csv::{Columns, Quotes, column_name, dialect, line_of, separator, swallows_a_row, unclosed};
pub(super) use text::without_comment;
pub(super) use toml::read as read_toml;

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
    load_counted(paths, tags, &AtomicU64::new(0))
}

/// The same, with the bytes that are read counted, for whoever wants to see how far it is.
pub fn load_counted(paths: &[PathBuf], tags: PlusTags, passed: &AtomicU64) -> Result<Loaded, Fault> {
    let mut builder = Builder::new(tags);
    let mut digest = Sha256::new();
    for path in paths {
        builder.file(path);
        let file = File::open(path).map_err(|e| Fault::unreadable(path, &e))?;
        let mut source = Hashed { file: Counted { source: file, passed }, digest: &mut digest, bytes: 0 };
        read_from(path, &mut source, &mut |line, subject, attributes| builder.add(line, subject, attributes))?;
        builder.file_read(source.bytes);
    }
    builder.fingerprint(hex(&digest.finalize()[..8]));
    let (list, twins) = builder.finish_and_tell();
    Ok(Loaded { list, twins: twins.shown, twin_count: twins.count })
}

/// A file that is hashed while it is read.
struct Hashed<'a> {
    file: Counted<'a, File>,
    digest: &'a mut Sha256,
    bytes: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.digest.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

type Add<'a> = dyn FnMut(u32, Subject, Attributes) + 'a;

/// Hands every entry of one list to `add`, with its line, in the order of the file.
pub fn read(path: &Path, add: &mut Add<'_>) -> Result<(), Fault> {
    let file = File::open(path).map_err(|e| Fault::unreadable(path, &e))?;
    read_from(path, file, add)
}

/// The same for a list that lies elsewhere; `path` tells its kind, and names it in errors.
pub fn read_from(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    match path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("toml") => toml::read(path, source, add),
        Some("txt") => text::read(path, source, add),
        Some("csv") => csv::read(path, source, add),
        _ => Err(Fault::of_file(path, "is no list that can be read")
            .hint("a list ends in .toml, .txt (one entry a line) or .csv (with a header row)")),
    }
}

fn refuse(path: &Path, line: usize, error: &EntryError) -> Fault {
    Fault::of_line(path, line, error)
        .hint(error.hint().unwrap_or("correct the entry or delete it; until then no change of this list is in force"))
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// A day counts to its end; a time without a zone is UTC.
pub fn until(text: &str) -> Result<Timestamp, EntryError> {
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

#[cfg(test)]
mod tests {
    use super::super::entry::Action;
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
        // Empty lines, and rows of several lines, are counted.
        let found = entries("l.csv", "email,note\r\n\r\na@b.example,\"two\r\nlines\"\r\n\r\n\r\nc@d.example,\r\n").unwrap();
        assert_eq!((found[0].0, found[1].0), (3, 7));
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

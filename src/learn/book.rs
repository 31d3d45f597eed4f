//! `learned.toml`: what the relay has learned, as a list like any other. Entries are appended and on disk before anybody is
//! told; people may change and take out what they like. Never judges, never changes an entry.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::lesson::Entry;
use crate::disk::{locked, sync_above};
use crate::mail::PlusTags;
use crate::optout::{Attributes, Subject, lines, read_from};
use crate::place::Fault;

const HEADER: &str = "\
# Opt-outs that the relay has learned from notices, reports and refusals. It appends to this file and reads it like any list:
# entries may be changed and taken out by hand, or by `optout-relay list remove`. `verified = false`: nobody has vouched
# for the notice.
";

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is on disk.
    Written,
    /// It stood there already.
    Known,
    /// It was learned from this mail before, and a person has ended it since.
    Ended,
    /// As many as may be learned in a day were learned.
    TooMany,
}

/// The file, and what is known to stand in it.
#[derive(Debug)]
pub struct Book {
    path: PathBuf,
    tags: PlusTags,
    known: Known,
}

/// What stands in the file, as of one state of it.
#[derive(Debug, Default)]
struct Known {
    /// Inode and bytes of the file.
    state: (u64, u64),
    /// Whom it names, for good.
    subjects: HashSet<String>,
    /// What was learned from which mail, also where it holds no more.
    lessons: HashSet<(String, String)>,
    /// When entries were learned.
    times: Vec<Timestamp>,
    /// Those at the end of the file.
    latest: VecDeque<Entry>,
}

/// No more can have been written without a line in the log: one batch.
const LATEST: usize = 1000;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BookError {
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// What stands in it.
    #[error("{0}")]
    List(#[from] Fault),
}

impl Book {
    /// Opens the file, or begins it. An entry that was half written when the relay died is put aside: nobody was told of it.
    pub fn open(path: &Path, tags: PlusTags) -> Result<Self, BookError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match File::create_new(path) {
            Ok(mut file) => begin(path, &mut file)?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e.into()),
        }
        let _lock = locked(path)?;
        let text = fs::read(path)?;
        if let Err(fault) = entries(path, &text) {
            let torn = torn_from(path, &text).ok_or(fault)?;
            set_aside(path, &text, torn)?;
        }
        let mut book = Self { path: path.to_owned(), tags, known: Known::default() };
        book.read_again()?;
        Ok(book)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entries at its end, in order.
    pub fn latest(&self) -> impl Iterator<Item = &Entry> {
        self.known.latest.iter()
    }

    /// Appends what does not stand in the file yet, and returns when it is on disk. At most `most` entries may have been
    /// learned within the last day; no value: any number.
    pub fn append(&mut self, entries: &[Entry], most: Option<usize>, now: Timestamp) -> Result<Vec<Fate>, Fault> {
        let path = self.path.clone();
        let unusable = |e: io::Error| Fault::unreadable(&path, &e);
        let lock = locked(&self.path).map_err(unusable)?;
        if state_of(&lock).map_err(unusable)? != self.known.state {
            self.read_again()?;
        }
        let a_day_ago = now - SignedDuration::from_hours(24);
        let mut lately = self.known.times.iter().filter(|time| **time > a_day_ago).count();
        let (mut text, mut new) = (String::new(), HashSet::new());
        let fates = entries.iter().map(|entry| {
            let key = key(&entry.subject, self.tags);
            if self.known.subjects.contains(&key) || new.contains(&key) {
                return Fate::Known;
            }
            if lesson(&key, &entry.attributes).is_some_and(|lesson| self.known.lessons.contains(&lesson)) {
                return Fate::Ended;
            }
            if most.is_some_and(|most| lately >= most) {
                return Fate::TooMany;
            }
            lately += 1;
            new.insert(key);
            text.push_str(&lines(&entry.subject, &entry.attributes));
            Fate::Written
        });
        let fates: Vec<_> = fates.collect();
        if !text.is_empty() {
            let written = self.write(text.as_bytes()).map_err(|e| {
                Fault::of_file(&self.path, format_args!("cannot be written: {e}")).hint("free space, or mend its folder")
            });
            written?;
            for (entry, _) in entries.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Written) {
                self.known.add(&entry.subject, &entry.attributes, self.tags);
            }
            self.known.state = state_of(&lock).map_err(unusable)?;
        }
        Ok(fates)
    }

    fn write(&self, text: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if written.is_err() {
            // Nobody is told of it, so it should not be there; a half one is put aside when the file is opened next.
            let _ = file.set_len(before);
        }
        written
    }

    fn read_again(&mut self) -> Result<(), Fault> {
        let file = File::open(&self.path).map_err(|e| Fault::unreadable(&self.path, &e))?;
        let mut known = Known { state: state_of(&file).map_err(|e| Fault::unreadable(&self.path, &e))?, ..Known::default() };
        read_from(&self.path, file, &mut |_, subject, attributes| known.add(&subject, &attributes, self.tags))?;
        self.known = known;
        Ok(())
    }
}

impl Known {
    fn add(&mut self, subject: &Subject, attributes: &Attributes, tags: PlusTags) {
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(Entry { subject: subject.clone(), attributes: attributes.clone() });
        let key = key(subject, tags);
        self.lessons.extend(lesson(&key, attributes));
        if attributes.until.is_none() {
            self.subjects.insert(key);
        }
        if let Some(evidence) = &attributes.evidence {
            self.times.extend(evidence.learned.as_deref().and_then(|time| time.parse::<Timestamp>().ok()));
        }
    }
}

fn key(subject: &Subject, tags: PlusTags) -> String {
    match subject {
        Subject::Address(address) => address.key(tags).to_string(),
        other => other.to_string(),
    }
}

/// Whom the entry names, and the mail that says so.
fn lesson(key: &str, attributes: &Attributes) -> Option<(String, String)> {
    let message_id = attributes.evidence.as_ref()?.message_id.clone()?;
    Some((key.to_owned(), message_id))
}

fn state_of(file: &File) -> io::Result<(u64, u64)> {
    let meta = file.metadata()?;
    Ok((meta.ino(), meta.len()))
}

fn begin(path: &Path, file: &mut File) -> io::Result<()> {
    file.write_all(HEADER.as_bytes())?;
    file.sync_all()?;
    sync_above(path)
}

fn entries(path: &Path, text: &[u8]) -> Result<(), Fault> {
    read_from(path, text, &mut |_, _, _| {})
}

/// Where what was half written begins, if all before it is sound: the last entry, which has no end, or what follows its end.
/// Ours end with their evidence.
fn torn_from(path: &Path, text: &[u8]) -> Option<usize> {
    let start = memchr::memmem::rfind(text, b"\n[[opt_out]]").or_else(|| text.iter().rposition(|byte| *byte == b'\n'))? + 1;
    let last = &text[start..];
    let evidence = memchr::memmem::find(last, b"\nevidence = {").map(|at| at + 1);
    let end = evidence.and_then(|at| memchr::memmem::find(&last[at..], b"}\n").map(|end| at + end + 2));
    let torn = start + end.unwrap_or(0);
    (torn < text.len() && entries(path, &text[..torn]).is_ok()).then_some(torn)
}

fn set_aside(path: &Path, text: &[u8], from: usize) -> io::Result<()> {
    let aside = path.with_extension("torn");
    fs::write(&aside, &text[from..])?;
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(from as u64)?;
    file.sync_all()?;
    tracing::warn!("{} ended in a half-written entry, which was put aside as {}", path.display(), aside.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optout::Evidence;

    fn entry(name: &str, message_id: &str, learned: &str) -> Entry {
        let evidence = Evidence { message_id: Some(message_id.into()), learned: Some(learned.into()), ..Evidence::default() };
        let attributes = Attributes {
            verified: Some(false),
            evidence: Some(Box::new(evidence)),
            source: Some("x".into()),
            ..Attributes::default()
        };
        Entry { subject: Subject::guess(name).unwrap(), attributes }
    }

    const NOW: &str = "2026-11-25T12:00:00Z";

    fn append(book: &mut Book, names: &[&str], most: usize) -> Vec<Fate> {
        let entries: Vec<_> = names.iter().map(|name| entry(name, name, NOW)).collect();
        book.append(&entries, Some(most), NOW.parse().unwrap()).unwrap()
    }

    fn names(path: &Path) -> Vec<String> {
        let mut names = Vec::new();
        read_from(path, File::open(path).unwrap(), &mut |_, subject, _| names.push(subject.to_string())).unwrap();
        names
    }

    #[test]
    fn each_stands_once_whoever_has_written_it() {
        use Fate::*;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.toml");
        let open = || Book::open(&path, PlusTags::Ignore).unwrap();
        let (mut book, mut other) = (open(), open());
        assert_eq!(append(&mut book, &["a@x.example", "A+1@x.example", "111-1111111-1111111"], 9), [Written, Known, Written]);
        assert_eq!(append(&mut other, &["a@x.example", "b@x.example"], 9), [Known, Written]);
        assert_eq!(append(&mut book, &["b@x.example"], 9), [Known]);
        crate::optout::remove(&path, &Subject::guess("a@x.example").unwrap(), PlusTags::Ignore).unwrap();
        assert_eq!(append(&mut book, &["a@x.example"], 9), [Written]);
        assert_eq!(names(&path), ["111-1111111-1111111", "b@x.example", "a@x.example"]);
    }

    #[test]
    fn what_a_person_has_ended_is_learned_from_another_notice_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.toml");
        let mut book = Book::open(&path, PlusTags::Ignore).unwrap();
        append(&mut book, &["a@x.example"], 9);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\nverified =", "\nuntil = 2026-11-24\nverified =")).unwrap();
        assert_eq!(append(&mut book, &["a@x.example"], 9), [Fate::Ended]);
        let again = entry("a@x.example", "another", NOW);
        assert_eq!(book.append(&[again], None, NOW.parse().unwrap()).unwrap(), [Fate::Written]);
    }

    #[test]
    fn no_more_than_the_day_may_have() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.toml");
        let mut book = Book::open(&path, PlusTags::Ignore).unwrap();
        let old = entry("old@x.example", "old", "2026-11-24T11:59:59Z");
        book.append(&[old], None, NOW.parse().unwrap()).unwrap();
        assert_eq!(append(&mut book, &["a@x.example", "b@x.example", "c@x.example"], 2)[1..], [Fate::Written, Fate::TooMany]);
        let mut book = Book::open(&path, PlusTags::Ignore).unwrap();
        assert_eq!(append(&mut book, &["c@x.example"], 2), [Fate::TooMany]);
        assert_eq!(append(&mut book, &["c@x.example"], 3), [Fate::Written]);
    }

    #[test]
    fn a_half_written_entry_is_put_aside_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("learned.toml");
        let mut book = Book::open(&path, PlusTags::Ignore).unwrap();
        append(&mut book, &["a@x.example"], 9);
        let whole = fs::read(&path).unwrap().len();
        append(&mut book, &["b@x.example"], 9);
        let text = fs::read(&path).unwrap();
        for length in whole..text.len() {
            for zeros in [0, 7] {
                let torn = [&text[..length], &[0; 7][..zeros]].concat();
                fs::write(&path, torn).unwrap();
                let mut book = Book::open(&path, PlusTags::Ignore).unwrap_or_else(|fault| panic!("{length}, {zeros}: {fault}"));
                append(&mut book, &["b@x.example"], 9);
                assert_eq!(names(&path), ["a@x.example", "b@x.example"], "{length}, {zeros}");
            }
        }
        // What a person broke is not ours to take away.
        for broken in
            ["addresses = [\n[[opt_out]]\naddress = \"b@x.example\"\n", "[[opt_out]]\nadress = \"b@x.example\"\nevidence = {}\n"]
        {
            fs::write(&path, broken).unwrap();
            assert!(Book::open(&path, PlusTags::Ignore).is_err(), "{broken}");
            assert_eq!(fs::read_to_string(&path).unwrap(), broken);
        }
    }
}

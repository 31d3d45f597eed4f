//! What the logs hold, also in the files that were rotated away, packed or not: read in pieces, on all cores, the oldest or the
//! newest first. Never changes a file. Blocks on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};

use flate2::read::MultiGzDecoder;
use jiff::Timestamp;

use super::chain::Link;
use super::question::{Line, Question};

/// One file of a log.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Where it lies.
    pub path: PathBuf,
    /// Compressed by gzip.
    packed: bool,
    /// When it was rotated away, as its name tells.
    ended: Option<Timestamp>,
    /// Bytes on disk.
    pub length: u64,
}

/// Which end of the log comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// As it was written.
    Oldest,
    /// For whoever asks what happened just now.
    Newest,
}

/// A line that was asked for, or one that is damaged.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its file.
    pub path: &'a Path,
    /// What it says; `None`: it is no line of a log.
    pub line: Option<Line>,
    /// As it stands there, without its line end.
    pub text: &'a str,
    /// Which line of the file it is, from 1; 0 where the newest come first.
    pub number: u64,
}

/// All files of a log, the oldest first: `name.jsonl`, what the relay has rotated away (`name-…jsonl`), and what others have
/// (`name.jsonl.1`, `name.jsonl-20261125`), each also with `.gz`.
pub fn volumes(folder: &Path, name: &str) -> io::Result<Vec<Volume>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let (bare, packed) = file.strip_suffix(".gz").map_or((file.as_str(), false), |bare| (bare, true));
        let Some(rest) = bare.strip_prefix(name) else { continue };
        let stamp = rest.strip_prefix('-').and_then(|rest| rest.strip_suffix(".jsonl"));
        let foreign = rest.strip_prefix(".jsonl").is_some_and(|end| end.is_empty() || end.starts_with(['.', '-']));
        if stamp.is_none() && !foreign {
            continue;
        }
        // Through a link, whose own length says nothing. What is no file is no part of a log, and a pipe would be waited for; one that
        // is not there any more was rotated away just now.
        let meta = match std::fs::metadata(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_file() {
            found.push(Volume { path: entry.path(), packed, ended: stamp.and_then(ended), length: meta.len() });
        }
    }
    let mut ordered: Vec<_> = found.into_iter().map(|volume| (volume.begins(), volume)).collect();
    ordered.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| x.path.cmp(&y.path)));
    Ok(ordered.into_iter().map(|(_, volume)| volume).collect())
}

impl Volume {
    /// Compressed, so that it cannot be read from its middle and does not grow.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// By this error while it was read: it cannot be unpacked any further, and others may still be read.
    pub fn is_broken_by(&self, error: &io::Error) -> bool {
        use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        self.packed && matches!(error.kind(), InvalidData | InvalidInput | UnexpectedEof)
    }

    /// Its lines from the first on.
    pub fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let file = File::open(&self.path)?;
        Ok(if self.packed {
            Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(BufReader::with_capacity(1 << 18, file))))
        } else {
            Box::new(BufReader::with_capacity(1 << 18, file))
        })
    }

    /// By what files are put in order: the number of their first record; where there is none, those of before the chain come first
    /// by their time, and an empty file last.
    fn begins(&self) -> (u64, String) {
        let mut line = Vec::new();
        let read = self.open().and_then(|mut lines| io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut line));
        if read.is_err() || line.is_empty() {
            return (u64::MAX, String::new());
        }
        let time = serde_json::from_slice::<Line>(&line).map_or_else(|_| String::new(), |line| line.time);
        let unreadable = !line.starts_with(b"{");
        match Link::told(&line) {
            Some((seq, _)) => (seq, time),
            // A first line that was damaged: its name says as much.
            None if unreadable => (self.ended.map_or(u64::MAX, |_| 0), self.path.to_string_lossy().into_owned()),
            None => (0, time),
        }
    }
}

/// A line is no longer; bytes.
pub(super) const MAX_LINE: u64 = 1 << 20;

/// Bytes that one core takes up at a time.
const PIECE: u64 = 4 << 20;

/// A part of a file: the lines that begin between two of its bytes.
#[derive(Clone, Copy, Debug)]
struct Piece {
    volume: usize,
    from: u64,
    to: u64,
}

/// What a piece gave.
#[derive(Debug, Default)]
struct Given {
    /// Line within the piece, from 1; what it says; its text.
    found: Vec<(u64, Option<Line>, String)>,
    lines: u64,
}

/// A log that is read.
#[derive(Clone, Debug)]
pub struct Past {
    volumes: Vec<Volume>,
}

impl Past {
    /// The files of a log that may answer a question.
    pub fn of(folder: &Path, name: &str, question: &Question) -> io::Result<Self> {
        let mut volumes = volumes(folder, name)?;
        volumes.retain(|volume| question.since.is_none_or(|since| volume.ended.is_none_or(|ended| ended >= since)));
        Ok(Self { volumes })
    }

    /// Bytes on disk.
    pub fn length(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.length).sum()
    }

    /// Hands over every line that is wanted, and every damaged one, in order, until told to stop. `passed` counts the bytes.
    pub fn search(
        &self,
        question: &Question,
        first: First,
        passed: &AtomicU64,
        take: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut pieces = self.pieces();
        if first == First::Newest {
            pieces.reverse();
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8).min(pieces.len().max(1));
        let desk = Desk::new(2 * cores);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(|| {
                    while let Some(at) = desk.next(pieces.len()) {
                        desk.give(at, self.read(pieces[at], question, passed));
                    }
                });
            }
            let given = self.hand_over(&pieces, &desk, first, take);
            desk.close();
            given
        })
    }

    fn hand_over(
        &self,
        pieces: &[Piece],
        desk: &Desk,
        first: First,
        take: &mut dyn FnMut(Found<'_>) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let (mut before, mut volume) = (0, usize::MAX);
        for (at, piece) in pieces.iter().enumerate() {
            let path = &self.volumes[piece.volume].path;
            let mut given = desk.take(at).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            if volume != piece.volume {
                (volume, before) = (piece.volume, 0);
            }
            if first == First::Newest {
                given.found.reverse();
            }
            for (number, line, text) in given.found {
                let number = if first == First::Oldest { before + number } else { 0 };
                if take(Found { path, line, text: &text, number }).is_break() {
                    return Ok(());
                }
            }
            before += given.lines;
        }
        Ok(())
    }

    /// A packed file cannot be read from its middle.
    fn pieces(&self) -> Vec<Piece> {
        let of = |(at, volume): (usize, &Volume)| {
            let size = if volume.packed { u64::MAX } else { PIECE };
            let count = volume.length.div_ceil(size);
            (0..count).map(move |piece| Piece { volume: at, from: piece * size, to: (piece + 1).saturating_mul(size) })
        };
        self.volumes.iter().enumerate().flat_map(of).collect()
    }

    /// Reads on behind the end of a piece until its last line is over.
    fn read(&self, piece: Piece, question: &Question, passed: &AtomicU64) -> io::Result<Given> {
        let volume = &self.volumes[piece.volume];
        let mut given = Given::default();
        if volume.packed {
            match read_lines(volume.open()?, u64::MAX, question, &mut given) {
                Err(error) if volume.is_broken_by(&error) => {
                    given.lines += 1;
                    given.found.push((given.lines, None, String::new()));
                }
                read => read?,
            }
            passed.fetch_add(volume.length, Relaxed);
            return Ok(given);
        }
        let mut file = File::open(&volume.path)?;
        // The line that ends at the first byte belongs to the piece before.
        let skip = piece.from > 0;
        let from = piece.from - u64::from(skip);
        file.seek(SeekFrom::Start(from))?;
        let mut lines = BufReader::with_capacity(1 << 18, file);
        let skipped = if skip { lines.by_ref().take(MAX_LINE).skip_until(b'\n')? as u64 } else { 0 };
        let length = (piece.to - from).saturating_sub(skipped);
        read_lines(lines, length, question, &mut given)?;
        passed.fetch_add(piece.to.min(volume.length) - piece.from, Relaxed);
        Ok(given)
    }
}

/// The lines that begin in the next `length` bytes.
fn read_lines(mut lines: impl BufRead, length: u64, question: &Question, given: &mut Given) -> io::Result<()> {
    let (mut text, mut passed) = (Vec::new(), 0);
    while passed < length {
        text.clear();
        let count = lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut text)? as u64;
        if count == 0 {
            break;
        }
        passed += count;
        given.lines += 1;
        let Some(whole) = text.strip_suffix(b"\n") else {
            // The last line of the file in use may still be on its way; one that is too long is none.
            if count == MAX_LINE {
                given.found.push((given.lines, None, String::new()));
                passed += lines.by_ref().skip_until(b'\n')? as u64;
            }
            continue;
        };
        match question.fits(whole) {
            Ok(None) => {}
            Ok(line) => given.found.push((given.lines, line, String::from_utf8_lossy(whole).into_owned())),
            Err(_) => given.found.push((given.lines, None, String::new())),
        }
    }
    Ok(())
}

/// Where readers lay down what they found, in any order, and one takes it up in order. Readers do not run far ahead, so what waits
/// here has a bound.
#[derive(Debug)]
struct Desk {
    ahead: usize,
    state: Mutex<Laid>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Laid {
    given: BTreeMap<usize, io::Result<Given>>,
    next: usize,
    taken: usize,
    closed: bool,
}

impl Desk {
    fn new(ahead: usize) -> Self {
        Self { ahead, state: Mutex::default(), changed: Condvar::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Laid> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece that nobody reads yet.
    fn next(&self, count: usize) -> Option<usize> {
        let wait = |laid: &mut Laid| !laid.closed && laid.next < count && laid.next >= laid.taken + self.ahead;
        let mut laid = self.changed.wait_while(self.state(), wait).unwrap_or_else(PoisonError::into_inner);
        if laid.closed || laid.next >= count {
            return None;
        }
        laid.next += 1;
        Some(laid.next - 1)
    }

    fn give(&self, at: usize, given: io::Result<Given>) {
        self.state().given.insert(at, given);
        self.changed.notify_all();
    }

    fn take(&self, at: usize) -> io::Result<Given> {
        let wait = |laid: &mut Laid| !laid.given.contains_key(&at);
        let mut laid = self.changed.wait_while(self.state(), wait).unwrap_or_else(PoisonError::into_inner);
        laid.taken = at + 1;
        let given = laid.given.remove(&at).unwrap_or_else(|| Ok(Given::default()));
        drop(laid);
        self.changed.notify_all();
        given
    }

    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }
}

/// When a file was rotated away: the stamp in its name.
fn ended(stamp: &str) -> Option<Timestamp> {
    let [year, month, day, hour, minute, second] =
        [0..4, 4..6, 6..8, 9..11, 11..13, 13..15].map(|range| stamp.get(range).and_then(|digits| digits.parse::<i16>().ok()));
    let time = jiff::civil::DateTime::new(year?, month? as i8, day? as i8, hour? as i8, minute? as i8, second? as i8, 0).ok()?;
    // Its last line came within that second.
    jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.checked_add(jiff::SignedDuration::from_secs(1)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn record(number: usize) -> String {
        format!("{{\"time\":\"2026-11-25T08:00:00Z\",\"recipient\":\"b{number}@x.example\",\"id\":\"i{number}\"}}\n")
    }

    fn found(folder: &Path, question: &Question, first: First) -> Vec<(String, u64)> {
        let (mut all, passed) = (Vec::new(), AtomicU64::new(0));
        let past = Past::of(folder, "sent", question).unwrap();
        past.search(question, first, &passed, &mut |found| {
            all.push((found.line.map_or_else(|| "damaged".into(), |line| line.id), found.number));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(passed.into_inner(), past.length());
        all
    }

    #[test]
    fn lines_come_in_order_from_all_pieces_of_all_files() {
        let folder = tempfile::tempdir().unwrap();
        let text = |range: std::ops::Range<usize>| range.map(record).collect::<String>();
        // Some pieces, and an end in the middle of one.
        std::fs::write(folder.path().join("sent-20261125T080000.000000Z.jsonl"), text(0..150_000)).unwrap();
        let packed = File::create(folder.path().join("sent.jsonl.1.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(text(150_000..150_100).replace("25T08", "25T09").as_bytes()).unwrap();
        packed.finish().unwrap();
        let end = text(150_100..150_110).replace("25T08", "25T10") + "{\"half\n{\"no end\":1";
        std::fs::write(folder.path().join("sent.jsonl"), end).unwrap();
        std::fs::write(folder.path().join("sent.head"), "no log").unwrap();
        let all = found(folder.path(), &Question::default(), First::Oldest);
        let mut expected: Vec<_> = (0..150_110).map(|number| format!("i{number}")).collect();
        expected.push("damaged".into());
        assert!(all.iter().map(|(id, _)| id).eq(&expected), "{} lines", all.len());
        assert_eq!((all[149_999].1, all[150_001].1, all[150_110].1), (150_000, 2, 11));
        expected.reverse();
        let all = found(folder.path(), &Question::default(), First::Newest);
        assert!(all.iter().map(|(id, _)| id).eq(&expected));
        let one = Question { id: Some("i77777".into()), ..Question::default() };
        assert_eq!(found(folder.path(), &one, First::Oldest)[0], ("i77777".into(), 77_778));
    }

    #[test]
    fn whoever_has_enough_stops() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("sent.jsonl"), (0..200_000).map(record).collect::<String>()).unwrap();
        let question = Question::default();
        let (mut count, past) = (0, Past::of(folder.path(), "sent", &question).unwrap());
        let mut take = |_: Found<'_>| {
            count += 1;
            if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        past.search(&question, First::Newest, &AtomicU64::new(0), &mut take).unwrap();
        assert_eq!(count, 3);
    }

    #[test]
    fn a_stamp_is_the_end_of_a_file() {
        assert_eq!(ended("20261125T081449.711083Z"), Some("2026-11-25T08:14:50Z".parse().unwrap()));
        assert_eq!(ended("x"), None);
    }
}

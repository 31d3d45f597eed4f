//! Where in the logs somebody may stand, and what was done on each day, so that a page needs not read them whole. Never holds what a
//! line says: only where to read, from which a search may be wrong towards reading too much. Blocks on the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{BuildHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use siphasher::sip::SipHasher13;

use super::chain::Link;
use super::past::{MAX_LINE, Volume, volumes};
use super::question::{Line, Question, Whom, field};
use crate::mail::{Address, PlusTags};

/// Bytes of a log that are looked through or passed over together.
const BLOCK: u64 = 1 << 20;

/// Bits for each line of a block: one block in a hundred is read in vain.
const BITS: usize = 10;

/// Bits that are set for each line.
const SET: u64 = 5;

/// Bytes of all filters; older blocks than these have none, and are read.
const MOST: usize = 64 << 20;

/// What was done on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Mails that the host has taken, a recipient each.
    pub sent: u64,
    /// Suppressed with `reject`.
    pub rejected: u64,
    /// With `drop`.
    pub dropped: u64,
    /// With `bounce`.
    pub bounced: u64,
    /// Let out although opted out, by `opt_out.mode` or `opt_out.exempt_subjects`.
    pub let_out: u64,
    /// Opt-outs that were learned.
    pub learned: u64,
}

impl Day {
    /// Did not leave, by whatever action.
    pub fn suppressed(&self) -> u64 {
        self.rejected + self.dropped + self.bounced
    }

    /// Both together.
    pub fn with(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
        self.bounced += other.bounced;
        self.let_out += other.let_out;
        self.learned += other.learned;
    }
}

/// Where a block begins.
#[derive(Clone, Copy, Debug, Default)]
struct First {
    /// Its number in the chain; 0 of a line from before it.
    seq: u64,
    /// When it was written; none where that cannot be read.
    time: Option<Timestamp>,
}

impl First {
    fn of(text: &[u8]) -> Self {
        let time = field(text, b"\"time\":\"").and_then(|time| std::str::from_utf8(time).ok()?.parse().ok());
        Self { seq: Link::told(text).map_or(0, |(seq, _)| seq), time }
    }

    /// Everything from here on is too new.
    fn is_past(&self, question: &Question) -> bool {
        question.before.is_some_and(|before| self.seq >= before.max(1))
            || question.until.is_some_and(|until| self.time >= Some(until))
    }

    /// Everything before is too old.
    fn ends(&self, question: &Question) -> bool {
        question.since.is_some_and(|since| self.time.is_some_and(|time| time < since))
    }
}

/// A part of a file, and who is not in it.
#[derive(Debug)]
struct Block {
    from: u64,
    to: u64,
    first: First,
    /// None: anybody may be.
    filter: Option<Filter>,
}

/// A Bloom filter over the hashes of addresses.
#[derive(Debug)]
struct Filter(Box<[u64]>);

impl Filter {
    fn of(hashes: &[u64]) -> Self {
        let words = (hashes.len() * BITS).div_ceil(64).next_power_of_two();
        let mut filter = Self(vec![0; words].into());
        for hash in hashes {
            for bit in 0..SET {
                let (word, mask) = filter.place(*hash, bit);
                filter.0[word] |= mask;
            }
        }
        filter
    }

    fn may_hold(&self, hash: u64) -> bool {
        (0..SET).all(|bit| {
            let (word, mask) = self.place(hash, bit);
            self.0[word] & mask != 0
        })
    }

    /// From two halves of the hash as many as are wanted (Kirsch and Mitzenmacher 2006). The number of words is a power of two.
    fn place(&self, hash: u64, bit: u64) -> (usize, u64) {
        let at = (hash & 0xffff_ffff).wrapping_add(bit.wrapping_mul(hash >> 32 | 1));
        ((at >> 6) as usize & (self.0.len() - 1), 1 << (at & 63))
    }

    fn size(&self) -> usize {
        self.0.len() * 8
    }
}

/// One file, as far as it was read.
#[derive(Debug)]
struct Shelf {
    volume: Volume,
    file: (u64, u64),
    read: u64,
    blocks: Vec<Block>,
    /// Those who stand behind the last block, and where that begins.
    open: Vec<u64>,
    first: First,
    days: BTreeMap<Date, Day>,
}

/// All files of one log, the oldest first.
#[derive(Debug)]
struct Log {
    name: &'static str,
    shelves: Vec<Shelf>,
}

/// What is known of the logs.
#[derive(Debug)]
pub struct Index {
    folder: PathBuf,
    logs: Vec<Log>,
    /// Our own, so that nobody chooses addresses that are all in one place.
    keys: SipHasher13,
}

/// Lines that were found, the newest first.
#[derive(Debug, Default)]
pub struct Answer {
    /// At most as many as were asked for.
    pub lines: Vec<Line>,
    /// There may be more.
    pub is_cut: bool,
    /// The search ended because it had read enough: [`Question::before`] of the one that goes on there.
    pub next: Option<u64>,
    /// So far back was looked then.
    pub looked_back_to: Option<Timestamp>,
}

impl Index {
    /// Of the logs in `folder`, none of which was read yet.
    pub fn new(folder: PathBuf) -> Self {
        let (one, two) = (std::hash::RandomState::new().hash_one(1), std::hash::RandomState::new().hash_one(2));
        let logs = ["suppressed", "learned", "sent"].map(|name| Log { name, shelves: Vec::new() });
        Self { folder, logs: logs.into(), keys: SipHasher13::new_with_keys(one, two) }
    }

    /// Reads what came since, and forgets files that are gone.
    pub fn refresh(&mut self) -> io::Result<()> {
        for log in &mut self.logs {
            log.refresh(&self.folder, &self.keys)?;
        }
        let mut room = MOST;
        // The newest keep theirs.
        for block in
            self.logs.iter_mut().flat_map(|log| log.shelves.iter_mut().rev()).flat_map(|shelf| shelf.blocks.iter_mut().rev())
        {
            let size = block.filter.as_ref().map_or(0, Filter::size);
            if size > room {
                block.filter = None;
            }
            room = room.saturating_sub(size);
        }
        Ok(())
    }

    /// Every day on which something was done, as far as it was read.
    pub fn days(&self) -> BTreeMap<Date, Day> {
        let mut days: BTreeMap<Date, Day> = BTreeMap::new();
        for shelf in self.logs.iter().flat_map(|log| &log.shelves) {
            for (date, day) in &shelf.days {
                days.entry(*date).or_default().add(day);
            }
        }
        days
    }

    /// Lines that answer a question in the logs that are named, the newest first: at most `most`, from at most about `budget` bytes.
    pub fn search(&self, names: &[&str], question: &Question, most: usize, budget: u64) -> io::Result<Answer> {
        let hash = question.about.as_ref().map(|whom| self.hash(whom));
        let mut answer = Answer::default();
        for log in self.logs.iter().filter(|log| names.contains(&log.name)) {
            log.search(question, hash, most, budget, &mut answer)?;
        }
        answer.lines.sort_by(|a, b| b.time.cmp(&a.time));
        answer.is_cut |= answer.lines.len() > most;
        answer.lines.truncate(most);
        Ok(answer)
    }

    fn hash(&self, whom: &Whom) -> u64 {
        let (local, domain) = whom.untagged();
        hash_of(&self.keys, local, domain)
    }
}

fn hash_of(keys: &SipHasher13, local: &str, domain: &str) -> u64 {
    let mut hasher = *keys;
    (local, domain).hash(&mut hasher);
    hasher.finish()
}

impl Log {
    fn refresh(&mut self, folder: &Path, keys: &SipHasher13) -> io::Result<()> {
        let mut known: Vec<_> = self.shelves.drain(..).collect();
        for volume in volumes(folder, self.name)? {
            let Ok(met) = std::fs::metadata(&volume.path) else { continue };
            let file = (met.dev(), met.ino());
            let same = |shelf: &Shelf| {
                shelf.file == file && shelf.volume.is_packed() == volume.is_packed() && shelf.volume.length <= volume.length
            };
            let mut shelf = match known.iter().position(same) {
                Some(at) => known.swap_remove(at),
                None => Shelf::new(&volume, file),
            };
            // What is packed does not grow.
            let is_read = shelf.read > 0 && (volume.is_packed() || shelf.read >= volume.length);
            shelf.volume = volume;
            if !is_read {
                shelf.read_on(keys)?;
            }
            self.shelves.push(shelf);
        }
        Ok(())
    }

    fn search(&self, question: &Question, hash: Option<u64>, most: usize, budget: u64, answer: &mut Answer) -> io::Result<()> {
        let (mut found, mut left, mut last) = (0, budget, First::default());
        for shelf in self.shelves.iter().rev() {
            let tail =
                Block { from: shelf.blocks.last().map_or(0, |block| block.to), to: shelf.read, first: shelf.first, filter: None };
            let may_hold = |block: &Block| {
                block.to > block.from
                    && !block.first.is_past(question)
                    && hash.is_none_or(|hash| block.filter.as_ref().is_none_or(|filter| filter.may_hold(hash)))
            };
            let wanted: Vec<_> =
                std::iter::once(&tail).chain(shelf.blocks.iter().rev()).filter(|block| may_hold(block)).collect();
            let mut reader = Blocks::open(&shelf.volume, &wanted)?;
            for block in wanted {
                if left == 0 {
                    answer.is_cut = true;
                    (answer.next, answer.looked_back_to) = (Some(last.seq).filter(|seq| *seq > 0), last.time);
                    return Ok(());
                }
                last = block.first;
                left = left.saturating_sub(block.to - block.from);
                let bytes = reader.read(block)?;
                for text in bytes.strip_suffix(b"\n").unwrap_or(&bytes).rsplit(|byte| *byte == b'\n') {
                    if let Ok(Some(line)) = question.fits(text) {
                        if found == most {
                            answer.is_cut = true;
                            return Ok(());
                        }
                        found += 1;
                        answer.lines.push(line);
                    }
                }
                if block.first.ends(question) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Blocks of one file; those of a packed one are unpacked together, for it cannot be read from its middle.
enum Blocks {
    Plain(File),
    Packed(BTreeMap<u64, Vec<u8>>),
}

impl Blocks {
    fn open(volume: &Volume, wanted: &[&Block]) -> io::Result<Self> {
        if !volume.is_packed() || wanted.is_empty() {
            return Ok(Self::Plain(File::open(&volume.path)?));
        }
        let (mut lines, mut at, mut blocks) = (volume.open()?, 0, BTreeMap::new());
        for block in wanted.iter().rev() {
            at += io::copy(&mut lines.by_ref().take(block.from - at), &mut io::sink())?;
            let mut bytes = Vec::new();
            at += lines.by_ref().take(block.to - block.from).read_to_end(&mut bytes)? as u64;
            blocks.insert(block.from, bytes);
        }
        Ok(Self::Packed(blocks))
    }

    fn read(&mut self, block: &Block) -> io::Result<Vec<u8>> {
        match self {
            Self::Packed(blocks) => Ok(blocks.remove(&block.from).unwrap_or_default()),
            Self::Plain(file) => {
                let mut bytes = Vec::with_capacity((block.to - block.from) as usize);
                file.seek(SeekFrom::Start(block.from))?;
                file.take(block.to - block.from).read_to_end(&mut bytes)?;
                Ok(bytes)
            }
        }
    }
}

impl Shelf {
    fn new(volume: &Volume, file: (u64, u64)) -> Self {
        Self {
            volume: volume.clone(),
            file,
            read: 0,
            blocks: Vec::new(),
            open: Vec::new(),
            first: First::default(),
            days: BTreeMap::new(),
        }
    }

    fn read_on(&mut self, keys: &SipHasher13) -> io::Result<()> {
        let mut lines: Box<dyn BufRead> = if self.volume.is_packed() {
            self.volume.open()?
        } else {
            let mut file = File::open(&self.volume.path)?;
            file.seek(SeekFrom::Start(self.read))?;
            Box::new(BufReader::with_capacity(1 << 18, file))
        };
        let mut text = Vec::new();
        loop {
            text.clear();
            let count = match lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut text) {
                // What stands before can be read.
                Err(error) if self.volume.is_broken_by(&error) => return Ok(()),
                count => count? as u64,
            };
            // The last line of the file in use may still be on its way.
            if count == 0 || !text.ends_with(b"\n") && count < MAX_LINE {
                return Ok(());
            }
            let from = self.blocks.last().map_or(0, |block| block.to);
            if self.read == from {
                self.first = First::of(&text);
            }
            self.note(&text, keys);
            self.read += count;
            if self.read - from >= BLOCK {
                let filter = Some(Filter::of(&self.open));
                self.blocks.push(Block { from, to: self.read, first: self.first, filter });
                self.open.clear();
            }
        }
    }

    fn note(&mut self, text: &[u8], keys: &SipHasher13) {
        // Some are about nobody: of an order, or damaged.
        if let Some(address) = whom(text) {
            let key = address.key(PlusTags::Ignore);
            self.open.push(hash_of(keys, key.local, key.domain));
        }
        let text_of = |name: &[u8]| field(text, name).and_then(|text| std::str::from_utf8(text).ok());
        let date = text_of(b"\"time\":\"").and_then(|time| time.get(..10)?.parse::<Date>().ok());
        let (Some(date), Some(event)) = (date, text_of(b"\"event\":\"")) else { return };
        let day = self.days.entry(date).or_default();
        match event {
            "sent" => day.sent += 1,
            "suppressed" => match text_of(b"\"action\":\"") {
                Some("drop") => day.dropped += 1,
                Some("bounce") => day.bounced += 1,
                _ => day.rejected += 1,
            },
            "observed" | "exempted" => day.let_out += 1,
            "learned" => day.learned += 1,
            _ => {}
        }
    }
}

/// Whom a line is about.
fn whom(text: &[u8]) -> Option<Address> {
    let plain = field(text, b"\"recipient\":\"").or_else(|| field(text, b"\"address\":\""));
    let whole = || serde_json::from_slice::<Line>(text).ok()?.about().map(str::to_owned);
    match plain {
        Some(plain) => Address::parse(std::str::from_utf8(plain).ok()?).ok(),
        None => Address::parse(&whole()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(day: usize, number: usize, who: &str) -> String {
        format!(
            "{{\"time\":\"2026-11-{day:02}T08:00:00.{number:06}Z\",\"event\":\"suppressed\",\"action\":\"drop\",\"recipient\":\"{who}\",\"id\":\"i{number}\",\"reply\":\"{}\"}}\n",
            "x".repeat(300)
        )
    }

    fn about(text: &str) -> Question {
        Question { about: Some(Whom::new(&Address::parse(text).unwrap(), PlusTags::Ignore)), ..Question::default() }
    }

    fn ids(index: &Index, question: &Question, most: usize) -> (Vec<String>, bool) {
        let answer = index.search(&["suppressed", "sent", "learned"], question, most, u64::MAX).unwrap();
        (answer.lines.into_iter().map(|line| line.id).collect(), answer.is_cut)
    }

    /// Three files, one of them packed, of more than one block each.
    fn shop() -> (tempfile::TempDir, Index) {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, from: usize| {
            let text: String = (from..from + 5000)
                .map(|n| {
                    line(
                        1 + from / 5000,
                        n,
                        &if n % 2500 == 0 { format!("Buyer+{n}@X.example") } else { format!("b{n}@x.example") },
                    )
                })
                .collect();
            if name.ends_with(".gz") {
                let file = File::create(folder.path().join(name)).unwrap();
                let mut packed = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                packed.write_all(text.as_bytes()).unwrap();
                packed.finish().unwrap();
            } else {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
        };
        write("suppressed-20261101T000000Z.jsonl.gz", 0);
        write("suppressed-20261102T000000Z.jsonl", 5000);
        write("suppressed.jsonl", 10000);
        let mut index = Index::new(folder.path().to_owned());
        index.refresh().unwrap();
        (folder, index)
    }

    #[test]
    fn somebody_is_found_in_all_files_and_nobody_else() {
        let (folder, mut index) = shop();
        let all = ["i12500", "i10000", "i7500", "i5000", "i2500", "i0"].map(str::to_owned);
        assert_eq!(ids(&index, &about("buyer@x.example"), 9), (all.to_vec(), false));
        assert_eq!(ids(&index, &about("buyer@x.example"), 4), (all[..4].to_vec(), true));
        assert_eq!(ids(&index, &about("b7@x.example"), 9).0, ["i7"]);
        assert_eq!(ids(&index, &about("nobody@x.example"), 9), (vec![], false));
        assert_eq!(ids(&index, &Question::default(), 2), (vec!["i14999".into(), "i14998".into()], true));
        // What comes later, also after a rotation, and a half line that is finished afterwards.
        let log = folder.path().join("suppressed.jsonl");
        let mut file = File::options().append(true).open(&log).unwrap();
        let late = line(9, 99_999, "buyer@x.example");
        file.write_all(&late.as_bytes()[..40]).unwrap();
        index.refresh().unwrap();
        assert_eq!(ids(&index, &about("buyer@x.example"), 1).0, ["i12500"]);
        file.write_all(&late.as_bytes()[40..]).unwrap();
        std::fs::rename(&log, folder.path().join("suppressed-20261109T000000Z.jsonl")).unwrap();
        std::fs::write(&log, line(10, 100_000, "buyer@x.example")).unwrap();
        index.refresh().unwrap();
        assert_eq!(ids(&index, &about("buyer@x.example"), 3).0, ["i100000", "i99999", "i12500"]);
        // A file that is gone is forgotten, with its days.
        assert_eq!(index.days().values().map(Day::suppressed).sum::<u64>(), 15_002);
        std::fs::remove_file(folder.path().join("suppressed-20261101T000000Z.jsonl.gz")).unwrap();
        index.refresh().unwrap();
        assert_eq!(index.days().values().map(Day::suppressed).sum::<u64>(), 10_002);
        assert_eq!(ids(&index, &about("buyer@x.example"), 9).0.len(), 6);
    }

    #[test]
    fn most_blocks_are_passed_over_and_a_search_ends_when_it_has_read_enough() {
        let (_folder, index) = shop();
        let blocks = || index.logs[0].shelves.iter().flat_map(|shelf| &shelf.blocks);
        let hash = index.hash(about("b7@x.example").about.as_ref().unwrap());
        let may = blocks().filter(|block| block.filter.as_ref().unwrap().may_hold(hash)).count();
        assert!(blocks().count() >= 3 && may < 3, "{may} of {}", blocks().count());
        let sum = |text: &str| ids(&index, &about(text), 1).0.len();
        assert_eq!(
            (0..15_000).step_by(2501).filter(|n| n % 2500 != 0).map(|n| sum(&format!("b{n}@x.example"))).sum::<usize>(),
            5
        );
        let nobody = Question { sender: Some("nobody".into()), ..Question::default() };
        let answer = index.search(&["suppressed"], &nobody, 10, 1).unwrap();
        assert!(answer.is_cut && answer.lines.is_empty() && answer.looked_back_to.is_some());
        let at = |text: &str| Some(text.parse().unwrap());
        let (since, until) = (at("2026-11-02T00:00:00Z"), at("2026-11-03T00:00:00Z"));
        let answer = index.search(&["suppressed"], &Question { since, until, ..Question::default() }, 9999, u64::MAX).unwrap();
        assert!(answer.lines.len() == 5000 && !answer.is_cut && answer.lines[0].id == "i9999");
    }
}

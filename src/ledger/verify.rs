//! Whether a log is as it was written: follows its chain through all its files. Never changes one. Blocks on the disk.

use std::io::{self, BufRead};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::chain::{Broken, Link};
use super::lines::head;
use super::past::{MAX_LINE, Volume, volumes};

/// What was seen of a log.
#[derive(Debug)]
pub struct Verified {
    /// Files that were read.
    pub files: usize,
    /// Records of the chain.
    pub records: u64,
    /// Lines from before logs were chained, of which only the last is covered.
    pub unsealed: u64,
    /// Number of the first record that is there; more than 1 where older files were deleted.
    pub first: u64,
    /// The newest record.
    pub newest: Link,
    /// It was noted beside the log too, so that nobody can have cut newer ones.
    pub end_is_known: bool,
    /// The first place at which it is broken.
    pub broken: Option<Place>,
    /// Whether the record that was noted elsewhere is still there; none: nothing was asked.
    pub noted: Option<bool>,
}

/// Where something is wrong.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// From 1.
    pub line: u64,
    /// What is wrong.
    pub broken: Broken,
}

/// Bytes of a log, for whoever shows how far it is.
pub fn length(folder: &Path, name: &str) -> io::Result<u64> {
    Ok(volumes(folder, name)?.iter().map(|volume| volume.length).sum())
}

/// Reads a log from its first record to its newest. `passed` counts the bytes.
pub fn verify(folder: &Path, name: &str, noted: Option<Link>, passed: &AtomicU64) -> io::Result<Verified> {
    // Whoever writes meanwhile only adds, and the head is older than what is read afterwards.
    let known = head(folder, name)?;
    let files = volumes(folder, name)?;
    let seen = Seen { link: None, first: 0, records: 0, unsealed: 0, noted: noted.map(|link| (link, false)), known: None };
    let mut seen = Seen { known: known.map(|link| (link, false)), ..seen };
    let (mut broken, mut last) = (None, (folder.join(format!("{name}.jsonl")), 0));
    for volume in &files {
        broken = seen.read(volume, &mut last, passed)?;
        if broken.is_some() {
            break;
        }
    }
    let (newest, end_is_known) = (seen.link.unwrap_or(Link::START), seen.known.is_some());
    let broken = broken.or_else(|| {
        let (known, was_met) = seen.known?;
        let broken = match known.seq {
            0 => return None,
            seq if seq > newest.seq => Broken::CutOff { last: newest.seq, known: seq },
            seq if !was_met && seq >= seen.first => Broken::Replaced { seq },
            _ => return None,
        };
        Some(Place { path: last.0, line: last.1, broken })
    });
    let (files, noted) = (files.len(), seen.noted.map(|(_, was_met)| was_met));
    Ok(Verified { files, records: seen.records, unsealed: seen.unsealed, first: seen.first, newest, end_is_known, broken, noted })
}

struct Seen {
    link: Option<Link>,
    first: u64,
    records: u64,
    unsealed: u64,
    noted: Option<(Link, bool)>,
    known: Option<(Link, bool)>,
}

impl Seen {
    fn read(&mut self, volume: &Volume, last: &mut (PathBuf, u64), passed: &AtomicU64) -> io::Result<Option<Place>> {
        let (mut lines, mut text, mut number) = (volume.open()?, Vec::new(), 0);
        loop {
            text.clear();
            let count = match io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut text) {
                Err(error) if volume.is_broken_by(&error) => {
                    return Ok(Some(Place { path: volume.path.clone(), line: number + 1, broken: Broken::Packed }));
                }
                count => count?,
            };
            passed.fetch_add(count as u64, Relaxed);
            if count == 0 || !(text.ends_with(b"\n") || count as u64 == MAX_LINE) {
                // A last line without an end is still on its way, or was cut: then the head knows of it.
                return Ok(None);
            }
            number += 1;
            *last = (volume.path.clone(), number);
            if let Err(broken) = self.follow(&text) {
                return Ok(Some(Place { path: volume.path.clone(), line: number, broken }));
            }
        }
    }

    fn follow(&mut self, line: &[u8]) -> Result<(), Broken> {
        // Older files may have been deleted as `log.keep` wants it: then the chain is taken up where it begins.
        let begins = || match Link::told(line) {
            Some((seq, hash)) => Link { seq: seq - 1, hash },
            None => Link::START,
        };
        let link = self.link.get_or_insert_with(begins);
        link.follow(line)?;
        if link.seq == 0 {
            self.unsealed += 1;
        } else {
            self.records += 1;
            if self.first == 0 {
                self.first = link.seq;
            }
        }
        for (other, was_met) in [&mut self.noted, &mut self.known].into_iter().flatten() {
            *was_met |= other == link;
        }
        Ok(())
    }
}

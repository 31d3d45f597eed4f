//! The chain of a log: every record carries its number and the hash of the line before it, so that nothing can be cut,
//! changed or moved without a trace. Never reads or writes a file.
//!
//! `sha256sum` of a line with its line end is the `prev` of the line after it.

use sha2::{Digest, Sha256};

/// How far a chain has come: the number of its last record, from 1, and the SHA-256 of that line with its line end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// 0: there is no record yet.
    pub seq: u64,
    /// All zero before the first line.
    pub hash: [u8; 32],
}

/// Where a chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The line has no seal, and lines with one stand before it.
    #[error("this line is no record of the chain: it was changed, or somebody else wrote it")]
    Unsealed,
    /// Its number is too high.
    #[error("{} missing before record {found}", records(*.expected, *.found - 1))]
    Missing {
        /// Number that should come.
        expected: u64,
        /// Number that came.
        found: u64,
    },
    /// Its number is too low.
    #[error("record {found} stands where record {expected} belongs: it was moved or copied here")]
    Moved {
        /// Number that should come.
        expected: u64,
        /// Number that came.
        found: u64,
    },
    /// The hash in it is not that of the line before it.
    #[error("record {seq} was not written after the line before it: one of the two was changed")]
    Changed {
        /// Its number.
        seq: u64,
    },
    /// The file is compressed and damaged.
    #[error("from here on the file cannot be unpacked: it was changed or cut")]
    Packed,
    /// The log ends before the newest record that is known.
    #[error("{} missing at the end", records(*.last + 1, *.known))]
    CutOff {
        /// Number of the last record that is there.
        last: u64,
        /// Number of the newest that was written.
        known: u64,
    },
    /// The record that was noted, or the newest, is there and is another one.
    #[error("record {seq} is not the one that was written: it was changed")]
    Replaced {
        /// Its number.
        seq: u64,
    },
}

fn records(first: u64, last: u64) -> String {
    if first == last { format!("record {first} is") } else { format!("records {first} to {last} are") }
}

const SEQ: &[u8] = b",\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const END: &[u8] = b"\"}\n";

impl Link {
    /// Before the first line of all.
    pub const START: Self = Self { seq: 0, hash: [0; 32] };

    /// After a line that carries no number, written before logs were chained.
    pub fn after_unsealed(line: &[u8]) -> Self {
        Self { seq: 0, hash: Sha256::digest(line).into() }
    }

    /// Appends a record, a JSON object without its line end, as the next line of the chain.
    pub fn seal(&mut self, record: &[u8], lines: &mut Vec<u8>) {
        let (start, open) = (lines.len(), record.strip_suffix(b"}").unwrap_or(record));
        lines.extend_from_slice(open);
        lines.extend_from_slice(SEQ);
        self.seq += 1;
        lines.extend_from_slice(self.seq.to_string().as_bytes());
        lines.extend_from_slice(PREV);
        push_hex(lines, &self.hash);
        lines.extend_from_slice(END);
        self.hash = Sha256::digest(&lines[start..]).into();
    }

    /// What a line, with its line end, says of itself: its number, and the hash of the line before it. None: it has no seal.
    pub fn told(line: &[u8]) -> Option<(u64, [u8; 32])> {
        let line = line.strip_suffix(END)?;
        let (rest, prev) = line.split_at_checked(line.len().checked_sub(64)?)?;
        let rest = rest.strip_suffix(PREV)?;
        let digits = rest.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (rest, seq) = rest.split_at(rest.len() - digits);
        let (seq, prev) = (std::str::from_utf8(seq).ok()?.parse().ok()?, from_hex(prev)?);
        (rest.ends_with(SEQ) && seq > 0).then_some((seq, prev))
    }

    /// How far the chain is after a line that is trusted.
    pub fn of(line: &[u8]) -> Self {
        Self { seq: Self::told(line).map_or(0, |(seq, _)| seq), hash: Sha256::digest(line).into() }
    }

    /// Goes on to the next line, with its line end, if that is the one that was written next.
    pub fn follow(&mut self, line: &[u8]) -> Result<(), Broken> {
        let Some((seq, prev)) = Self::told(line) else {
            // Lines from before the chain, and the last of them is held by the first of the chain.
            let old = self.seq == 0;
            *self = Self::after_unsealed(line);
            return if old { Ok(()) } else { Err(Broken::Unsealed) };
        };
        let expected = self.seq + 1;
        let is_next = prev == self.hash;
        *self = Self { seq, hash: Sha256::digest(line).into() };
        match seq.cmp(&expected) {
            std::cmp::Ordering::Greater => Err(Broken::Missing { expected, found: seq }),
            std::cmp::Ordering::Less => Err(Broken::Moved { expected, found: seq }),
            std::cmp::Ordering::Equal if !is_next => Err(Broken::Changed { seq }),
            std::cmp::Ordering::Equal => Ok(()),
        }
    }
}

/// `12:…`, as it is noted: number and hash.
impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut hash = Vec::with_capacity(64);
        push_hex(&mut hash, &self.hash);
        write!(f, "{}:{}", self.seq, String::from_utf8_lossy(&hash))
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Link {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = || {
            let (seq, hash) = text.split_once(':')?;
            Some(Self { seq: seq.parse().ok()?, hash: from_hex(hash.as_bytes())? })
        };
        parsed().ok_or("is not a number and a hash, as in 12:0a1b…; `optout-relay log verify` prints them")
    }
}

fn push_hex(text: &mut Vec<u8>, bytes: &[u8; 32]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Lower-case digits only: there is one way to write a hash.
fn from_hex(text: &[u8]) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(records: &[&str]) -> Vec<Vec<u8>> {
        let mut link = Link::START;
        let seal = |record: &&str| {
            let mut line = Vec::new();
            link.seal(record.as_bytes(), &mut line);
            line
        };
        records.iter().map(seal).collect()
    }

    fn followed(lines: &[Vec<u8>]) -> Result<Link, (usize, Broken)> {
        let mut link = Link::START;
        for (at, line) in lines.iter().enumerate() {
            link.follow(line).map_err(|broken| (at, broken))?;
        }
        Ok(link)
    }

    #[test]
    fn a_record_stays_json_and_names_the_line_before_it() {
        let lines = log(&["{\"a\":1}", "{\"a\":2}"]);
        let second: serde_json::Value = serde_json::from_slice(&lines[1]).unwrap();
        assert_eq!((&second["a"], &second["seq"]), (&2.into(), &2.into()));
        let hash = Link { seq: 0, hash: Sha256::digest(&lines[0]).into() }.to_string();
        assert_eq!(second["prev"], hash["0:".len()..]);
        assert_eq!(followed(&lines).unwrap(), Link::of(&lines[1]));
        assert_eq!(Link::of(&lines[1]).to_string().parse(), Ok(Link::of(&lines[1])));
    }

    #[test]
    fn what_is_cut_changed_or_moved_is_found() {
        let whole = log(&["{\"a\":1}", "{\"a\":2}", "{\"a\":3}", "{\"a\":4}"]);
        let broken = |change: fn(&mut Vec<Vec<u8>>)| {
            let mut lines = whole.clone();
            change(&mut lines);
            followed(&lines).unwrap_err()
        };
        assert_eq!(broken(|lines| drop(lines.remove(1))), (1, Broken::Missing { expected: 2, found: 3 }));
        assert_eq!(broken(|lines| drop(lines.remove(0))), (0, Broken::Missing { expected: 1, found: 2 }));
        assert_eq!(broken(|lines| lines.swap(1, 2)), (1, Broken::Missing { expected: 2, found: 3 }));
        assert_eq!(broken(|lines| lines.insert(3, lines[0].clone())), (3, Broken::Moved { expected: 4, found: 1 }));
        assert_eq!(broken(|lines| lines[1][5] = b'9'), (2, Broken::Changed { seq: 3 }));
        assert_eq!(broken(|lines| lines[2] = b"{}\n".to_vec()), (2, Broken::Unsealed));
        assert_eq!(Broken::Missing { expected: 2, found: 5 }.to_string(), "records 2 to 4 are missing before record 5");
    }

    #[test]
    fn a_chain_goes_on_from_lines_that_have_none() {
        let (mut link, mut lines) = (Link::of(b"{\"old\":1}\n"), vec![b"{\"old\":1}\n".to_vec(), Vec::new()]);
        link.seal(b"{\"new\":1}", &mut lines[1]);
        assert_eq!(followed(&lines).unwrap().seq, 1);
        lines[0][2] = b'x';
        assert_eq!(followed(&lines), Err((1, Broken::Changed { seq: 1 })));
    }

    #[test]
    fn only_a_whole_seal_is_one() {
        let line = log(&["{\"a\":1}"]).remove(0);
        for at in 7..line.len() {
            let mut other = line.clone();
            other[at] ^= 0x40;
            assert!(Link::told(&other) != Link::told(&line), "byte {at}");
        }
        for end in 0..line.len() {
            assert_eq!(Link::told(&line[..end]), None);
        }
    }
}

//! The mail of these tests: bytes that no relay likes, a name in the header by which it is found again, and a
//! fingerprint by which damage is seen.

use crate::chance::{Chance, fingerprint};

/// The field that names a letter, also in a report about it.
pub const NAME: &str = "X-Crash-Id: ";

/// Longest line, without its end.
const LINE: usize = 900;

#[derive(Clone)]
pub struct Letter {
    pub name: String,
    pub recipients: Vec<String>,
    /// Of the content, dots unstuffed.
    pub hash: u64,
    pub eight_bit: bool,
    /// Dots stuffed, with the final dot.
    pub wire: Vec<u8>,
}

impl Letter {
    /// About so many bytes of content.
    pub fn new(name: String, recipients: Vec<String>, size: usize, chance: &mut Chance) -> Self {
        let eight_bit = chance.one_in(3);
        let mut content = format!(
            "From: Shop <shop@sender.test>\r\nTo: undisclosed-recipients:;\r\nSubject: order {name}\r\n{NAME}{name}\r\n\
             Message-ID: <{name}@sender.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\
             Content-Transfer-Encoding: 8bit\r\n\r\n"
        )
        .into_bytes();
        while content.len() < size {
            line(&mut content, size, eight_bit, chance);
        }
        let hash = fingerprint(&content);
        Self { name, recipients, hash, eight_bit, wire: stuffed(&content) }
    }
}

/// Dots at its start, or nothing else in it, or bytes above 127.
fn line(content: &mut Vec<u8>, size: usize, eight_bit: bool, chance: &mut Chance) {
    match chance.below(8) {
        0 => content.extend(b"."),
        1 => content.extend(b".."),
        2 => {}
        kind => {
            if kind == 3 {
                content.push(b'.');
            }
            for _ in 0..chance.below(LINE).min(size - content.len()) {
                let byte = chance.next() as u8;
                content.push(if eight_bit { byte | 0x80 } else { b' ' + byte % 95 });
            }
        }
    }
    content.extend(b"\r\n");
}

/// For the wire: a dot before every dot that begins a line (RFC 5321 4.5.2), and the final dot.
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 64);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend(line);
    }
    wire.extend(b".\r\n");
    wire
}

/// The way back, for what came without the final dot.
pub fn unstuffed(wire: &[u8]) -> Vec<u8> {
    let lines = wire.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

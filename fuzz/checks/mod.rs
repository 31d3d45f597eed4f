//! What must hold whatever bytes come: one check a target, run by the fuzzer here and, on the committed corpus, by
//! `tests/it/corpus.rs`. Never knows who calls it; a promise that is broken is a panic.

pub mod address;
pub mod host;
pub mod host_replies;
pub mod list;
pub mod message;
pub mod notice;
pub mod record;
pub mod report;
pub mod session;

/// A check: any bytes, and a panic where a promise is broken.
pub type Check = fn(&[u8]);

/// Every target by its name, which is that of its corpus too.
pub const TARGETS: [(&str, Check); 9] = [
    ("session", session::check),
    ("address", address::check),
    ("list", list::check),
    ("record", record::check),
    ("host_replies", host_replies::check),
    ("host", host::check),
    ("report", report::check),
    ("message", message::check),
    ("notice", notice::check),
];

/// CR and LF only as a pair, no NUL, and a whole last line (RFC 5321 2.3.8); looked at byte by byte, slowly.
fn is_canonical(bytes: &[u8]) -> bool {
    let mut before = b'\n';
    for (at, byte) in bytes.iter().enumerate() {
        let stands_well = match byte {
            0 => false,
            b'\n' => before == b'\r' && at > 0,
            b'\r' => bytes.get(at + 1) == Some(&b'\n'),
            _ => true,
        };
        if !stands_well {
            return false;
        }
        before = *byte;
    }
    before == b'\n'
}

/// What a client sends for a content of whole lines (RFC 5321 4.5.2).
fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line[0] == b'.' {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire
}

/// What a server makes of the bytes before the final dot (RFC 5321 4.5.2).
fn unstuffed(wire: &[u8]) -> Vec<u8> {
    wire.split_inclusive(|byte| *byte == b'\n').flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
}

/// Any bytes made into whole lines that a message may hold.
fn as_lines(bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<u8> = Vec::with_capacity(bytes.len() + 2);
    for byte in bytes.iter().filter(|byte| !matches!(byte, 0 | b'\r')) {
        if *byte == b'\n' {
            lines.push(b'\r');
        }
        lines.push(*byte);
    }
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.extend(b"\r\n");
    }
    lines
}

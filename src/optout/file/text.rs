//! Plain lists: one entry a line, `#` begins a comment. Never in memory as a whole.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::{Add, line_number, refuse};
use crate::optout::entry::{Attributes, Subject};
use crate::place::Fault;

pub fn read(path: &Path, source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
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
pub fn without_comment(text: &str) -> &str {
    let begins = |at: &usize| *at == 0 || text.as_bytes()[at - 1].is_ascii_whitespace();
    memchr::memchr_iter(b'#', text.as_bytes()).find(begins).map_or(text, |at| &text[..at])
}

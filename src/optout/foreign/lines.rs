//! Lists with one entry a line. Never takes a line without end into memory.

use std::io::BufRead;
use std::path::Path;

use super::{Ended, Found, Take, subject, wrong};
use crate::optout::entry::Attributes;
use crate::optout::file::without_comment;
use crate::place::Fault;

/// The longest line that can be an entry; bytes.
const MAX: u64 = 4096;

pub(super) fn read(path: &Path, source: &mut dyn BufRead, take: &mut Take<'_>) -> Result<(), Ended> {
    each(path, source, |line, text| {
        let entry = without_comment(text).trim();
        if entry.is_empty() {
            return Ok(());
        }
        take(line, subject(entry).map_or_else(|e| wrong(&e), |subject| Found::Entry(subject, Attributes::default())))
    })
}

/// Hands each line on, without its end. What is not UTF-8 is shown as such, and can be no address.
pub(super) fn each(
    path: &Path,
    source: &mut dyn BufRead,
    mut take: impl FnMut(u64, &str) -> std::io::Result<()>,
) -> Result<(), Ended> {
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        let count =
            std::io::Read::take(&mut *source, MAX).read_until(b'\n', &mut bytes).map_err(|e| Fault::unreadable(path, &e))?;
        if count == 0 {
            return Ok(());
        }
        line += 1;
        if count as u64 == MAX {
            return Err(Fault::of_line(path, line, "is longer than any entry").hint("one entry a line").into());
        }
        let text = String::from_utf8_lossy(&bytes);
        take(line as u64, text.trim_start_matches('\u{feff}').trim_end_matches(['\n', '\r']))?;
    }
}

//! A list in CSV, written anew with some of its rows changed: whole or not at all, and every other cell as it was. Never decides which.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use csv::StringRecord;

use super::entry::Subject;
use super::file::{self, Columns};
use crate::disk::{Counted, Draft, EditError};
use crate::place::Fault;

/// What becomes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It stays.
    Keep,
    /// It names somebody else, in the same cell.
    Name(String),
    /// It goes.
    Cut,
}

/// Whether a list is written like this.
pub fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}

/// Asks of each entry, with its `since`, what becomes of it. The list has to be sound; what is read is counted in `passed`.
pub fn rewrite(
    path: &Path,
    dry_run: bool,
    passed: &AtomicU64,
    change: &mut dyn FnMut(&Subject, Option<&str>) -> Change,
) -> Result<(), EditError> {
    let unreadable = |e: io::Error| EditError::Broken(Fault::unreadable(path, &e));
    let unwritten = |e: io::Error| EditError::Write(path.to_owned(), e);
    let mut draft = if dry_run { None } else { Some(Draft::of(path).map_err(unwritten)?) };
    let source = Counted { source: File::open(path).map_err(unreadable)?, passed };
    let mut source = BufReader::with_capacity(1 << 18, source);
    let head = source.fill_buf().map_err(unreadable)?;
    let separator = file::separator(head);
    let mut rows = file::dialect(separator).has_headers(false).from_reader(source);
    let is_changed = {
        let out: Box<dyn Write> = match &mut draft {
            Some(draft) => Box::new(BufWriter::with_capacity(1 << 18, draft)),
            None => Box::new(io::sink()),
        };
        let mut out = csv::WriterBuilder::new().delimiter(separator).flexible(true).from_writer(out);
        let is_changed = each(&mut rows, &mut out, change).map_err(|e| unwritten(e.into()))?;
        out.flush().map_err(unwritten)?;
        is_changed
    };
    match draft.filter(|_| is_changed) {
        Some(draft) => draft.put(None).map_err(unwritten),
        None => Ok(()),
    }
}

fn each(
    rows: &mut csv::Reader<impl io::Read>,
    out: &mut csv::Writer<impl Write>,
    change: &mut dyn FnMut(&Subject, Option<&str>) -> Change,
) -> Result<bool, csv::Error> {
    let (mut row, mut is_changed) = (StringRecord::new(), false);
    if !rows.read_record(&mut row)? {
        return Ok(false);
    }
    let columns = Columns::new(&row);
    let since = row.iter().position(|name| file::column_name(name) == "since");
    out.write_record(&row)?;
    while rows.read_record(&mut row)? {
        let named = columns.subject(&row).ok().zip(columns.place(&row));
        let since = since.and_then(|at| row.get(at));
        match named.map(|(subject, at)| (change(&subject, since), at)) {
            None | Some((Change::Keep, _)) => out.write_record(&row)?,
            Some((Change::Cut, _)) => is_changed = true,
            Some((Change::Name(name), place)) => {
                is_changed = true;
                out.write_record(row.iter().enumerate().map(|(at, cell)| if at == place { &name } else { cell }))?;
            }
        }
    }
    Ok(is_changed)
}

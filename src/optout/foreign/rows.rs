//! Tables (CSV), by the names of their columns; one without a first row of names by where its addresses stand. Never takes two
//! rows for one.

use std::cell::Cell;
use std::io::BufRead;
use std::path::Path;

use csv::ByteRecord;

use super::columns::{Column, Field, Growing, comparing, field};
use super::{Bounded, Ended, Found, Provider, Take, subject, without_mark, wrong};
use crate::optout::entry::EntryError;
use crate::optout::file::{Quotes, dialect, line_of, separator, swallows_a_row, unclosed};
use crate::place::Fault;

pub(super) fn read(
    path: &Path,
    source: &mut dyn BufRead,
    given: &[Column],
    provider: Option<Provider>,
    take: &mut Take<'_>,
) -> Result<Option<Provider>, Ended> {
    let head = source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?;
    let separator = separator(head);
    let (quotes, since_row) = (Cell::new(0), Cell::new(0));
    let source = Quotes { source: Bounded { source, since_row: &since_row }, count: &quotes };
    let mut rows = dialect(separator).has_headers(false).from_reader(source);
    let mut row = ByteRecord::new();
    if !rows.read_byte_record(&mut row).map_err(|e| of_csv(path, &e))? {
        return Ok(provider);
    }
    let width = row.len();
    let (columns, provider, names) = columns(path, &row, given, provider)?;
    // Cells that no column stands for: of rows longer than the first one, or beside the addresses that were found by themselves.
    let is_guessed = !names && !given.iter().any(Column::names_somebody);
    let unknown = |at: usize| (is_guessed || names && at >= width) && !columns.iter().any(|(known, _)| *known == at);
    let mut is_names = names;
    let mut last = 1;
    loop {
        let line = line_of(row.position(), rows.position(), row.iter()) as u64;
        // The names too: a quote among them takes in the first rows.
        if row.iter().any(|cell| memchr::memchr(b'\n', cell).is_some_and(|_| swallows_a_row(&String::from_utf8_lossy(cell)))) {
            return Err(unclosed(path, line as usize).into());
        }
        if !is_names {
            since_row.set(0);
            if row.len() != 1 || !row[0].is_empty() {
                let more = row.iter().enumerate().any(|(at, cell)| unknown(at) && is_address(cell));
                take(line, if more { wrong(&EntryError::Two) } else { entry(&columns, &row) })?;
            }
            last = line;
        }
        is_names = false;
        if !rows.read_byte_record(&mut row).map_err(|e| of_csv(path, &e))? {
            break;
        }
    }
    if quotes.get().is_multiple_of(2) { Ok(provider) } else { Err(unclosed(path, last as usize).into()) }
}

fn is_address(cell: &[u8]) -> bool {
    cell.contains(&b'@') && subject(String::from_utf8_lossy(cell).trim()).is_ok()
}

fn entry(columns: &[(usize, Field)], row: &ByteRecord) -> Found {
    let mut growing = Growing::default();
    for (at, field) in columns {
        if let Some(cell) = row.get(*at) {
            // An address in another character set is none; a reason may be.
            growing.take(*field, &String::from_utf8_lossy(cell));
        }
    }
    growing.found()
}

/// Which columns say what, whose export it is, and whether the first row gives the names.
type Layout = (Vec<(usize, Field)>, Option<Provider>, bool);

fn columns(path: &Path, first: &ByteRecord, given: &[Column], provider: Option<Provider>) -> Result<Layout, Fault> {
    let cells: Vec<_> = first.iter().map(|cell| String::from_utf8_lossy(without_mark(cell)).into_owned()).collect();
    let names: Vec<_> = cells.iter().map(|cell| comparing(cell)).collect();
    // Whoever stands in the first row is an opt-out like all others.
    let address = cells.iter().position(|cell| cell.contains('@') && subject(cell.trim()).is_ok());
    // Of a column that is known by its number, what stands in the first row may be an entry, and one that is wrong.
    let is_entry = |cell: &str| cell.contains('@') || subject(cell.trim()).is_ok();
    let numbered =
        |at: usize| field("", at + 1, given).is_some_and(Field::names_somebody) && field(&names[at], 0, given).is_none();
    let address = address.or_else(|| cells.iter().enumerate().position(|(at, cell)| numbered(at) && is_entry(cell)));
    let found = |names: &[String]| -> Vec<_> {
        let fields = names.iter().enumerate().map(|(at, name)| (at, field(name, at + 1, given)));
        fields.filter_map(|(at, field)| Some((at, field?))).collect()
    };
    if let Some(address) = address {
        let mut columns = found(&vec![String::new(); cells.len()]);
        if !columns.iter().any(|(_, field)| field.names_somebody()) {
            columns.push((address, Field::Name));
        }
        // As its import takes it: address, reason.
        if provider == Some(Provider::Ses) && given.is_empty() && cells.len() == 2 {
            columns.push((1 - address, Field::Reason));
        }
        return Ok((columns, provider, false));
    }
    let columns = found(&names);
    if let Some(provider) = provider
        && given.is_empty()
        && !provider.has_marks(&names)
    {
        let message = format!("is not a table as {provider} exports it: it has not the columns {}", provider.wants());
        return Err(Fault::of_line(path, 1, message).hint("say which column is which: --format csv --column address=NAME"));
    }
    let provider = provider.or_else(|| Provider::by_columns(&names).filter(|_| given.is_empty()));
    if let Some(hint) = provider.and_then(|provider| provider.not_opt_outs(&names)).filter(|_| given.is_empty()) {
        return Err(Fault::of_line(path, 1, "lists subscribers, not who has opted out").hint(hint));
    }
    if !columns.iter().any(|(_, field)| field.names_somebody()) {
        let shown = cells.iter().map(|cell| crate::place::shown(cell)).collect::<Vec<_>>().join(", ");
        return Err(Fault::of_line(path, 1, format!("has no column of addresses among {shown}"))
            .hint("say which one it is, by its name or its number: --column address=NAME"));
    }
    Ok((columns, provider, true))
}

fn of_csv(path: &Path, error: &csv::Error) -> Fault {
    let line = error.position().map_or(0, csv::Position::line) as usize;
    match error.kind() {
        csv::ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Fault::of_file(path, e).hint("look for a quote that is not closed, or for another separator than , ; or tab")
        }
        csv::ErrorKind::Io(e) => Fault::unreadable(path, e),
        _ => Fault::of_line(path, line, "is not a row of CSV").hint("save the list as CSV in UTF-8"),
    }
}

/// The first line has several cells, or is the name of a column.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let line = String::from_utf8_lossy(without_mark(head.split(|b| *b == b'\n').next().unwrap_or_default())).into_owned();
    let is_name = |cell: &str| field(&comparing(cell), 0, &[]) == Some(Field::Name);
    let cells: Vec<_> = line.split([',', ';', '\t']).collect();
    !line.trim_start().starts_with('#') && (cells.len() > 1 && !line.contains(' ') || cells.iter().any(|cell| is_name(cell)))
}

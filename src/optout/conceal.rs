//! Old addresses give way to their hashes: the entry holds for the same mail as before. Never touches another entry.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use csv::StringRecord;
use jiff::civil::Date;
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::edit::is_editable;
use super::entry::Subject;
use super::export::hashed;
use super::file;
use crate::disk::{Counted, Draft, EditError, edit};
use crate::mail::PlusTags;
use crate::place::Fault;

/// Which addresses are meant.
#[derive(Clone, Copy, Debug)]
pub struct Older {
    /// Those that have stood since a day before this one.
    pub before: Date,
    /// Those too that do not say since when.
    pub undated: bool,
    /// As the relay compares addresses: the hash has to hold for the same ones.
    pub tags: PlusTags,
}

/// What became of the addresses of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    /// Gave way to their hashes.
    pub hashed: u64,
    /// Stay: not old enough.
    pub younger: u64,
    /// Stay: do not say since when.
    pub undated: u64,
}

enum Age {
    Old,
    Young,
    Unknown,
}

impl Older {
    fn age(&self, since: Option<&str>) -> Age {
        match since.and_then(|since| since.get(..10)?.parse::<Date>().ok()) {
            Some(day) if day < self.before => Age::Old,
            Some(_) => Age::Young,
            None if self.undated => Age::Old,
            None => Age::Unknown,
        }
    }

    /// The hash of an address that is meant.
    fn hash(&self, text: &str, since: Option<&str>, counts: &mut Hashed) -> Option<String> {
        let subject = Subject::guess(text).ok().filter(|subject| matches!(subject, Subject::Address(_)))?;
        match self.age(since) {
            Age::Old => counts.hashed += 1,
            Age::Young => counts.younger += 1,
            Age::Unknown => counts.undated += 1,
        }
        matches!(self.age(since), Age::Old).then(|| hashed(&subject, self.tags))
    }
}

/// Puts hashes in the place of the addresses of one list; `None`: a plain list, which has no place for a date.
///
/// Bytes that are read of a table are counted in `passed`: twice those of the file, for it is looked through first.
pub fn hash_older(path: &Path, older: Older, dry_run: bool, passed: &AtomicU64) -> Result<Option<Hashed>, EditError> {
    if is_editable(path) {
        return toml(path, older, dry_run).map(Some);
    }
    let is_csv = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    if is_csv { csv(path, older, dry_run, passed).map(Some) } else { Ok(None) }
}

fn toml(path: &Path, older: Older, dry_run: bool) -> Result<Hashed, EditError> {
    let read = |path: &Path, text: &str| file::read_toml(path, text.as_bytes(), &mut |_, _, _| {});
    if dry_run {
        let text = fs::read_to_string(path).map_err(|e| Fault::unreadable(path, &e))?;
        return Ok(crate::disk::changed(path, &text, read, |document, ()| in_document(document, older))?.1);
    }
    edit(path, read, |document, ()| in_document(document, older))
}

fn in_document(document: &mut DocumentMut, older: Older) -> Hashed {
    let mut counts = Hashed::default();
    match document.get_mut("opt_out") {
        Some(Item::ArrayOfTables(tables)) => {
            for table in tables.iter_mut().filter_map(|table| in_table(table, older, &mut counts).then_some(table)) {
                table.sort_values_by(|one, _, other, _| (one != "hash").cmp(&(other != "hash")));
            }
        }
        Some(Item::Value(Value::Array(array))) => {
            for table in array.iter_mut().filter_map(Value::as_inline_table_mut) {
                in_table(table, older, &mut counts);
            }
        }
        _ => {}
    }
    let mut hashes = Vec::new();
    if let Some(array) = document.get_mut("addresses").and_then(Item::as_array_mut) {
        array.retain(|value| match value.as_str().and_then(|text| older.hash(text, None, &mut counts)) {
            Some(hash) => {
                hashes.push(hash);
                false
            }
            None => true,
        });
        // What was said beside an address may name who it is.
        if array.is_empty() {
            array.set_trailing("");
        }
    }
    if !hashes.is_empty() {
        let array = document.entry("hashes").or_insert(Item::Value(Value::Array(Array::new()))).as_array_mut();
        if let Some(array) = array {
            array.extend(hashes.iter().map(String::as_str));
            array.iter_mut().for_each(|value| value.decor_mut().set_prefix("\n  "));
            array.set_trailing("\n");
        }
    }
    counts
}

/// One entry; says whether its address gave way.
fn in_table(table: &mut dyn TableLike, older: Older, counts: &mut Hashed) -> bool {
    let since = table.get("since").map(ToString::to_string).unwrap_or_default();
    let since = since.trim().trim_matches('"');
    let address = table.get("address").and_then(Item::as_str);
    let Some(hash) = address.and_then(|text| older.hash(text, Some(since), counts)) else { return false };
    table.remove("address");
    table.insert("hash", Item::Value(Value::from(hash)));
    true
}

/// Every other cell stays as it is.
fn csv(path: &Path, older: Older, dry_run: bool, passed: &AtomicU64) -> Result<Hashed, EditError> {
    let unreadable = |e: io::Error| EditError::Broken(Fault::unreadable(path, &e));
    let unwritten = |e: io::Error| EditError::Write(path.to_owned(), e);
    // As the relay reads it: one that is broken is not changed.
    let counted = |file| Counted { source: file, passed };
    file::read_from(path, counted(File::open(path).map_err(unreadable)?), &mut |_, _, _| {})?;
    let mut draft = if dry_run { None } else { Some(Draft::of(path).map_err(unwritten)?) };
    let mut source = BufReader::with_capacity(1 << 18, counted(File::open(path).map_err(unreadable)?));
    let head = source.fill_buf().map_err(unreadable)?;
    let separator = file::separator(head.split(|b| *b == b'\n').next().unwrap_or_default());
    let mut rows = csv::ReaderBuilder::new()
        .delimiter(separator)
        // As the relay reads it: a lone `\r` ends no row.
        .terminator(csv::Terminator::Any(b'\n'))
        .flexible(true)
        .has_headers(false)
        .trim(csv::Trim::All)
        .from_reader(source);
    let counts = {
        let out: Box<dyn Write> = match &mut draft {
            Some(draft) => Box::new(BufWriter::with_capacity(1 << 18, draft)),
            None => Box::new(io::sink()),
        };
        let mut out = csv::WriterBuilder::new().delimiter(separator).flexible(true).from_writer(out);
        let counts = in_rows(&mut rows, &mut out, older).map_err(|e| unwritten(e.into()))?;
        out.flush().map_err(unwritten)?;
        counts
    };
    if let Some(draft) = draft.filter(|_| counts.hashed > 0) {
        draft.put(None).map_err(unwritten)?;
    }
    Ok(counts)
}

fn in_rows(rows: &mut csv::Reader<impl io::Read>, out: &mut csv::Writer<impl Write>, older: Older) -> Result<Hashed, csv::Error> {
    let (mut counts, mut row, mut names) = (Hashed::default(), StringRecord::new(), None);
    while rows.read_record(&mut row)? {
        let Some((address, since)) = names else {
            let place = |known: fn(&str) -> bool| row.iter().position(|name| known(&file::column_name(name)));
            names = Some((place(file::is_address_column), place(|name| name == "since")));
            out.write_record(&row)?;
            continue;
        };
        let since = since.and_then(|at| row.get(at));
        match address.and_then(|at| Some((at, older.hash(row.get(at)?, since, &mut counts)?))) {
            Some((address, hash)) => {
                out.write_record(row.iter().enumerate().map(|(at, cell)| if at == address { &hash } else { cell }))?
            }
            None => out.write_record(&row)?,
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf buyer@example.org | sha256sum
    const HASH: &str = "sha256:d1cfbef9e411da5f82963d902ba8b65dd940a74c9328561c1211083b9b967cc1";

    fn older(undated: bool) -> Older {
        Older { before: Date::constant(2025, 1, 1), undated, tags: PlusTags::Ignore }
    }

    fn after(name: &str, text: &str, undated: bool) -> (String, Hashed) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        let dry = hash_older(&path, older(undated), true, &AtomicU64::new(0)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "nothing is changed");
        let counts = hash_older(&path, older(undated), false, &AtomicU64::new(0)).unwrap();
        assert_eq!(counts, dry);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        (fs::read_to_string(&path).unwrap(), counts.unwrap())
    }

    #[test]
    fn only_what_is_old_enough_gives_way_and_all_else_stays() {
        let toml = "# top\naddresses = [\n  \"plain@x.example\", # by name\n]\n\n# by phone\n[[opt_out]]\naddress = \"Buyer+7@Example.org\"\nsince = 2024-12-31\nreason = \"asked\"\n\n[[opt_out]]\naddress = \"new@x.example\"\nsince = 2025-01-01\n\n[[opt_out]]\ndomain = \"old.example\"\nsince = 2001-01-01\n";
        let old = "address = \"Buyer+7@Example.org\"";
        let (text, counts) = after("l.toml", toml, false);
        assert_eq!(text, toml.replace(old, &format!("hash = \"{HASH}\"")));
        assert_eq!(counts, Hashed { hashed: 1, younger: 1, undated: 1 });
        let (text, counts) = after("l.toml", toml, true);
        assert_eq!((counts.hashed, counts.undated), (2, 0));
        assert!(!text.contains("plain@x.example") && text.contains("hashes = [\n  \"sha256:"), "{text}");

        let csv = "Email;Since;Shop\nBuyer+7@Example.org;2024-12-31T10:00:00Z;\"a; b\"\nnew@x.example;2025-01-01;c\nplain@x.example;;\nold.example;2001-01-01;\n";
        let (text, counts) = after("l.csv", csv, false);
        assert_eq!(text, csv.replace("Buyer+7@Example.org", HASH));
        assert_eq!(counts, Hashed { hashed: 1, younger: 1, undated: 1 });
        assert_eq!(hash_older(Path::new("l.txt"), older(true), true, &AtomicU64::new(0)).unwrap(), None);
    }
}

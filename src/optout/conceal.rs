//! Old addresses give way to their hashes: the entry holds for the same mail as before. Never touches another entry.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use jiff::civil::Date;
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::edit::is_editable;
use super::entry::Subject;
use super::export::hashed;
use super::file;
use super::rows::{Change, is_table, rewrite};
use crate::disk::{Counted, EditError, edit};
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
    fn hash(&self, subject: &Subject, since: Option<&str>, counts: &mut Hashed) -> Option<String> {
        if !matches!(subject, Subject::Address(_)) {
            return None;
        }
        let age = self.age(since);
        match age {
            Age::Old => counts.hashed += 1,
            Age::Young => counts.younger += 1,
            Age::Unknown => counts.undated += 1,
        }
        matches!(age, Age::Old).then(|| hashed(subject, self.tags))
    }
}

/// Puts hashes in the place of the addresses of one list; `None`: a plain list, which has no place for a date.
///
/// Bytes that are read of a table are counted in `passed`: twice those of the file, for it is looked through first.
pub fn hash_older(path: &Path, older: Older, dry_run: bool, passed: &AtomicU64) -> Result<Option<Hashed>, EditError> {
    if is_editable(path) {
        return toml(path, older, dry_run).map(Some);
    }
    if is_table(path) { csv(path, older, dry_run, passed).map(Some) } else { Ok(None) }
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
        let subject = |value: &Value| Subject::address(value.as_str()?).ok();
        array.retain(|value| match subject(value).and_then(|subject| older.hash(&subject, None, &mut counts)) {
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
    let address = table.get("address").and_then(Item::as_str).and_then(|text| Subject::address(text).ok());
    let Some(hash) = address.and_then(|subject| older.hash(&subject, Some(since), counts)) else { return false };
    table.remove("address");
    table.insert("hash", Item::Value(Value::from(hash)));
    true
}

fn csv(path: &Path, older: Older, dry_run: bool, passed: &AtomicU64) -> Result<Hashed, EditError> {
    // As the relay reads it: one that is broken is not changed.
    let file = File::open(path).map_err(|e| Fault::unreadable(path, &e))?;
    file::read_from(path, Counted { source: file, passed }, &mut |_, _, _| {})?;
    let mut counts = Hashed::default();
    rewrite(path, dry_run, passed, &mut |subject, since| {
        older.hash(subject, since, &mut counts).map_or(Change::Keep, Change::Name)
    })?;
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

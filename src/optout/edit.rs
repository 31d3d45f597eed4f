//! Changes a list on disk for its owner: comments and order stay, the file is replaced whole. Never leaves a list
//! that cannot be read, never loses the change of another hand.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::entry::{Attributes, ReadSubject, Subject};
use super::file::read_toml;
use crate::mail::PlusTags;
use crate::place::Fault;

/// Why a list was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read as it is: mend that first.
    #[error("{0}")]
    Broken(#[from] Fault),
    /// The disk.
    #[error("write `{0}`: {1}\nhint: see that its folder can be written and has room")]
    Write(PathBuf, io::Error),
}

/// Only TOML has a place for comments and for what stands beside an entry.
pub fn is_editable(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"))
}

/// Adds one table an entry at the end of the list. Returns those that did not stand in it yet.
pub fn add(path: &Path, subjects: &[Subject], attributes: &Attributes) -> Result<Vec<Subject>, EditError> {
    edit(path, |text| with_entries(path, text, subjects, attributes))
}

/// Takes every entry out that names the same; returns how many there were.
pub fn remove(path: &Path, subject: &Subject, tags: PlusTags) -> Result<usize, EditError> {
    edit(path, |text| without_entries(path, text, subject, tags))
}

/// The text of a list with one table an entry at its end, and those that did not stand in it yet. `path` names it in errors.
pub fn with_entries(
    path: &Path,
    text: &str,
    subjects: &[Subject],
    attributes: &Attributes,
) -> Result<(String, Vec<Subject>), Fault> {
    changed(path, text, |document, known| {
        let mut added: Vec<Subject> = Vec::new();
        for subject in subjects {
            let stands = |other: &Subject| other.names_the_same(subject, PlusTags::Distinct);
            if !known.iter().any(stands) && !added.iter().any(stands) {
                append(document, table(subject, attributes));
                added.push(subject.clone());
            }
        }
        added
    })
}

/// The text of a list without the entries that name the same, and how many there were. `path` names it in errors.
pub fn without_entries(path: &Path, text: &str, subject: &Subject, tags: PlusTags) -> Result<(String, usize), Fault> {
    changed(path, text, |document, known| {
        let count = known.iter().filter(|other| other.names_the_same(subject, tags)).count();
        let same = |parse: ReadSubject, text: &str| parse(text).is_ok_and(|other| other.names_the_same(subject, tags));
        for (name, parse) in KINDS {
            let short = match name {
                "address" => "addresses".to_owned(),
                "hash" => "hashes".to_owned(),
                name => format!("{name}s"),
            };
            if let Some(array) = document.get_mut(&short).and_then(Item::as_array_mut) {
                cut(array, |value| value.as_str().is_some_and(|text| same(parse, text)));
            }
            match document.get_mut("opt_out") {
                Some(Item::ArrayOfTables(tables)) => {
                    cut_tables(tables, |table| table.get(name).and_then(Item::as_str).is_some_and(|text| same(parse, text)));
                }
                Some(Item::Value(Value::Array(array))) => cut(array, |value| {
                    let text = value.as_inline_table().and_then(|table| table.get(name)).and_then(Value::as_str);
                    text.is_some_and(|text| same(parse, text))
                }),
                _ => {}
            }
        }
        count
    })
}

/// The keys that name somebody, in the long form, each with its reader.
const KINDS: [(&str, ReadSubject); 4] =
    [("address", Subject::address), ("domain", Subject::domain), ("pattern", Subject::pattern), ("hash", Subject::hash)];

/// Reads, changes, replaces; nothing is written where nothing changed.
fn edit<T>(path: &Path, change: impl FnOnce(&str) -> Result<(String, T), Fault>) -> Result<T, EditError> {
    let unreadable = |e: io::Error| EditError::Broken(Fault::unreadable(path, &e));
    // A link stays a link: what it points to is replaced.
    let real = fs::canonicalize(path).map_err(unreadable)?;
    let lock = locked(&real).map_err(unreadable)?;
    let text = fs::read_to_string(&real).map_err(unreadable)?;
    let (changed, result) = change(&text)?;
    if changed != text {
        replace(&real, &lock, changed.as_bytes()).map_err(|e| EditError::Write(path.to_owned(), e))?;
    }
    Ok(result)
}

/// Reads, changes, reads again.
fn changed<T>(path: &Path, text: &str, change: impl FnOnce(&mut DocumentMut, &[Subject]) -> T) -> Result<(String, T), Fault> {
    let known = subjects(path, text)?;
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| Fault::of_file(path, e.message()))?;
    let result = change(&mut document, &known);
    let changed = document.to_string();
    if changed != text {
        subjects(path, &changed)?;
    }
    Ok((changed, result))
}

fn subjects(path: &Path, text: &str) -> Result<Vec<Subject>, Fault> {
    let mut found = Vec::new();
    read_toml(path, text.as_bytes(), &mut |_, subject, _| found.push(subject))?;
    Ok(found)
}

/// The file, locked, and still the one of that name: whoever held the lock before has replaced it.
fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file = File::open(path)?;
        file.lock()?;
        if fs::metadata(path)?.ino() == file.metadata()?.ino() {
            return Ok(file);
        }
    }
}

/// Whole or not at all, with the owner and the rights of what it replaces.
fn replace(path: &Path, old: &File, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_beside(&temporary, old, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(folder)?.sync_all())
}

fn write_beside(temporary: &Path, old: &File, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(temporary)?;
    let meta = old.metadata()?;
    file.set_permissions(meta.permissions())?;
    if file.metadata()?.uid() != meta.uid() || file.metadata()?.gid() != meta.gid() {
        // Without the right to give a file away it stays ours, and its rights are as before.
        let _ = fchown(&file, Some(meta.uid()), Some(meta.gid()));
    }
    file.write_all(bytes)?;
    file.sync_all()
}

fn table(subject: &Subject, attributes: &Attributes) -> Table {
    let name = match subject {
        Subject::Address(_) => "address",
        Subject::Domain(_) | Subject::Subdomains(_) => "domain",
        Subject::Pattern(_) => "pattern",
        Subject::Sha256(_) | Subject::Md5(_) => "hash",
    };
    let written = match subject {
        Subject::Address(address) => address.to_string(),
        other => other.to_string(),
    };
    let Attributes { since, until, reason, source, action, senders, note } = attributes;
    let mut table = Table::new();
    let mut put = |key: &str, value: Option<Value>| value.map(|value| table.insert(key, Item::Value(value)));
    let date = |text: &String| text.parse::<toml_edit::Datetime>().map_or_else(|_| text.into(), Value::from);
    put(name, Some(written.into()));
    put("since", since.as_ref().map(date));
    put("until", until.map(|until| date(&until.to_string())));
    put("reason", reason.as_ref().map(Value::from));
    put("source", source.as_ref().map(Value::from));
    put("action", action.map(|action| action.to_string().into()));
    put("senders", (!senders.is_empty()).then(|| Value::Array(senders.iter().collect())));
    put("note", note.as_ref().map(Value::from));
    table
}

fn append(document: &mut DocumentMut, mut table: Table) {
    match document.get_mut("opt_out") {
        Some(Item::ArrayOfTables(tables)) => {
            table.decor_mut().set_prefix("\n");
            tables.push(table);
        }
        Some(Item::Value(Value::Array(array))) => array.push(Value::InlineTable(table.into_inline_table())),
        _ => {
            // What stands at the end of the file, mostly comments, stays before the new table.
            let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
            document.set_trailing("");
            let gap = if trailing.ends_with("\n\n") { "" } else { "\n" };
            table.decor_mut().set_prefix(format!("{trailing}{gap}"));
            let mut tables = ArrayOfTables::new();
            tables.push(table);
            document.insert("opt_out", Item::ArrayOfTables(tables));
        }
    }
}

/// Takes elements out of an array. Comments stay, but for the one behind the element on its own line.
fn cut(array: &mut Array, gone: impl Fn(&Value) -> bool) {
    while let Some(at) = { array.iter().position(&gone) } {
        let removed = array.remove(at);
        let prefix = removed.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
        if let Some(next) = array.get_mut(at) {
            let own = next.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default();
            let joined = joined(&prefix, own);
            next.decor_mut().set_prefix(joined);
        } else {
            let own = array.trailing().as_str().unwrap_or_default();
            let joined = if own.contains('\n') { joined(&prefix, own) } else { own.to_owned() };
            array.set_trailing(joined);
        }
    }
}

/// What stood before the removed element, then what stands on the lines after it.
fn joined(before: &str, own: &str) -> String {
    match (before.rfind('\n'), own.find('\n')) {
        (Some(end), Some(start)) => format!("{}{}", &before[..end], &own[start..]),
        (None, Some(start)) => format!("{before}{}", &own[start..]),
        (_, None) => before.to_owned(),
    }
}

/// A comment straight above a table goes with it; what an empty line parts from it stays.
fn cut_tables(tables: &mut ArrayOfTables, gone: impl Fn(&Table) -> bool) {
    while let Some(at) = { tables.iter().position(&gone) } {
        let kept = tables.get(at).map(|table| {
            let prefix = table.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default();
            prefix.rfind("\n\n").map_or("", |end| &prefix[..=end]).to_owned()
        });
        tables.remove(at);
        if let (Some(kept), Some(next)) = (kept.filter(|kept| !kept.trim().is_empty()), tables.get_mut(at)) {
            let own = next.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default();
            let joined = format!("{kept}{own}");
            next.decor_mut().set_prefix(joined);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, change: impl FnOnce(&mut DocumentMut, &[Subject])) -> String {
        super::changed(Path::new("l.toml"), text, change).unwrap().0
    }

    fn without(text: &str, name: &str) -> String {
        let subject = Subject::guess(name).unwrap();
        changed(text, |document, _| {
            for (_, parse) in KINDS {
                let same = |text: &str| parse(text).is_ok_and(|other| other.names_the_same(&subject, PlusTags::Ignore));
                for (_, item) in document.iter_mut() {
                    match item {
                        Item::Value(Value::Array(array)) => cut(array, |value| value.as_str().is_some_and(same)),
                        Item::ArrayOfTables(tables) => {
                            cut_tables(tables, |table| table.iter().any(|(_, item)| item.as_str().is_some_and(same)))
                        }
                        _ => {}
                    }
                }
            }
        })
    }

    #[test]
    fn removing_keeps_comments_and_order() {
        let list = "# top\naddresses = [\n  # one\n  \"a@x.example\", # about a\n  \"B+1@x.example\", # about b\n  \"c@x.example\",\n  # end\n]\ndomains = [\"d.example\", \"e.example\"]\n";
        assert_eq!(without(list, "b@x.example"), list.replace("\n  \"B+1@x.example\", # about b", ""));
        assert_eq!(without(list, "a@x.example"), list.replace("\n  \"a@x.example\", # about a", ""));
        assert_eq!(without(list, "c@x.example"), list.replace(" # about b\n  \"c@x.example\",", " # about b"));
        assert_eq!(without(list, "d.example"), list.replace("\"d.example\", ", ""));
        assert_eq!(without(list, "e.example"), list.replace(", \"e.example\"", ""));
    }

    #[test]
    fn removing_a_table_takes_its_comment_along() {
        let list =
            "# top\n\n# first\n[[opt_out]]\naddress = \"a@x.example\"\n\n# second\n[[opt_out]]\naddress = \"b@x.example\"\n";
        assert_eq!(without(list, "a@x.example"), "# top\n\n# second\n[[opt_out]]\naddress = \"b@x.example\"\n");
        assert_eq!(without(list, "b@x.example"), "# top\n\n# first\n[[opt_out]]\naddress = \"a@x.example\"\n");
    }

    #[test]
    fn an_entry_is_added_at_the_end() {
        let new = || {
            let attributes =
                Attributes { since: Some("2026-11-24".into()), reason: Some("asked".into()), ..Attributes::default() };
            table(&Subject::guess("New@x.example").unwrap(), &attributes)
        };
        let entry = "[[opt_out]]\naddress = \"New@x.example\"\nsince = 2026-11-24\nreason = \"asked\"\n";
        for (before, gap) in [
            ("addresses = []\n", "\n"),
            ("addresses = []\n\n# the end\n", "\n"),
            ("addresses = []\n\n[[opt_out]]\naddress = \"a@x.example\"\n", "\n"),
        ] {
            assert_eq!(changed(before, |document, _| append(document, new())), format!("{before}{gap}{entry}"));
        }
    }

    #[test]
    fn the_file_is_replaced_with_its_rights_and_nothing_is_added_twice() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.toml");
        fs::write(&path, "addresses = [\"Old@x.example\"]\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let names = ["new@x.example", "old@X.example", "NEW@x.example"].map(|name| Subject::guess(name).unwrap());
        let added = add(&path, &names, &Attributes::default()).unwrap();
        assert_eq!(added.len(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(remove(&path, &names[1], PlusTags::Ignore).unwrap(), 1);
        assert_eq!(subjects(&path, &fs::read_to_string(&path).unwrap()).unwrap().len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, "addresses = [\"info@\"]\n").unwrap();
        assert!(matches!(add(&path, &names, &Attributes::default()), Err(EditError::Broken(_))));
    }
}

//! A TOML file that people write and commands change: comments and order stay. Never leaves one that cannot be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use super::replaced::{locked, replace};
use crate::place::Fault;

/// Why a file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It cannot be read as it is: mend that first.
    #[error("{0}")]
    Broken(#[from] Fault),
    /// The disk.
    #[error("write `{0}`: {1}\nhint: see that its folder can be written and has room")]
    Write(PathBuf, io::Error),
}

/// Reads, changes, reads again, replaces; nothing is written where nothing changed. `read` is the reader by which the file
/// comes into force; what it finds goes to `change`.
pub fn edit<K, T>(
    path: &Path,
    read: impl Fn(&Path, &str) -> Result<K, Fault>,
    change: impl FnOnce(&mut DocumentMut, &K) -> T,
) -> Result<T, EditError> {
    let unreadable = |e: io::Error| EditError::Broken(Fault::unreadable(path, &e));
    // A link stays a link: what it points to is replaced.
    let real = fs::canonicalize(path).map_err(unreadable)?;
    let lock = locked(&real).map_err(unreadable)?;
    let text = fs::read_to_string(&real).map_err(unreadable)?;
    let (changed, result) = changed(path, &text, read, change)?;
    if changed != text {
        replace(&real, &lock, changed.as_bytes()).map_err(|e| EditError::Write(path.to_owned(), e))?;
    }
    Ok(result)
}

/// The same with a text in the place of a file; `path` names it in errors.
pub fn changed<K, T>(
    path: &Path,
    text: &str,
    read: impl Fn(&Path, &str) -> Result<K, Fault>,
    change: impl FnOnce(&mut DocumentMut, &K) -> T,
) -> Result<(String, T), Fault> {
    let known = read(path, text)?;
    let mut document: DocumentMut = text.parse().map_err(|e: toml_edit::TomlError| Fault::of_file(path, e.message()))?;
    let result = change(&mut document, &known);
    let changed = document.to_string();
    if changed != text {
        read(path, &changed)?;
    }
    Ok((changed, result))
}

/// Adds one table to the list of them that has this key, at its end.
pub fn append(document: &mut DocumentMut, key: &str, mut table: Table) {
    match document.get_mut(key) {
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
            document.insert(key, Item::ArrayOfTables(tables));
        }
    }
}

/// Takes elements out of an array. Comments stay, but for the one behind the element on its own line.
pub fn cut(array: &mut Array, gone: impl Fn(&Value) -> bool) {
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

/// Takes tables out of the list of them that has this key, however it is written.
pub fn cut_tables(document: &mut DocumentMut, key: &str, gone: impl Fn(&dyn TableLike) -> bool) {
    match document.get_mut(key) {
        Some(Item::ArrayOfTables(tables)) => cut_sections(tables, |table| gone(table)),
        Some(Item::Value(Value::Array(array))) => cut(array, |value| value.as_inline_table().is_some_and(|table| gone(table))),
        _ => {}
    }
}

/// A comment straight above a table goes with it; what an empty line parts from it stays.
fn cut_sections(tables: &mut ArrayOfTables, gone: impl Fn(&Table) -> bool) {
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

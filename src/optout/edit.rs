//! Changes a list on disk for its owner: adds entries, takes some out. Never touches the others.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::entry::{Attributes, Evidence, ReadSubject, Subject};
use super::file::read_toml;
use super::rows::{Change, is_table, rewrite};
use crate::disk::{EditError, append, changed, cut, cut_tables, edit};
use crate::mail::PlusTags;
use crate::place::Fault;

/// Only TOML has a place for comments and for what stands beside an entry.
pub fn is_editable(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("toml"))
}

/// Adds one table an entry at the end of the list. Returns those that did not stand in it yet.
pub fn add(path: &Path, subjects: &[Subject], attributes: &Attributes) -> Result<Vec<Subject>, EditError> {
    edit(path, read, |document, known| put_in(document, known, subjects, attributes))
}

/// Lists from which entries are taken; `.csv` ones too, which others write.
pub fn can_be_cut(path: &Path) -> bool {
    is_editable(path) || is_table(path)
}

/// Takes every entry out that names the same; returns how many there were.
pub fn remove(path: &Path, subject: &Subject, tags: PlusTags) -> Result<usize, EditError> {
    if is_table(path) {
        let mut count = 0;
        super::file::read(path, &mut |_, other, _| count += usize::from(other.names_the_same(subject, tags)))?;
        if count > 0 {
            let is_gone = |other: &Subject| other.names_the_same(subject, tags);
            let change = &mut |other: &Subject, _: Option<&str>| if is_gone(other) { Change::Cut } else { Change::Keep };
            rewrite(path, false, &AtomicU64::new(0), change)?;
        }
        return Ok(count);
    }
    edit(path, read, |document, known| take_out(document, known, subject, tags))
}

/// Ends every entry that names the same, instead of taking it out: so it stays known from what it was learned, and is not learned
/// from that again. Returns how many there were.
pub fn end(path: &Path, subject: &Subject, tags: PlusTags, now: Timestamp) -> Result<usize, EditError> {
    edit(path, read, |document, _| {
        let until = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let tables = document.get_mut("opt_out").and_then(Item::as_array_of_tables_mut).into_iter();
        let in_force = tables.flat_map(toml_edit::ArrayOfTables::iter_mut).filter(|table| !table.contains_key("until"));
        let mut count = 0;
        for table in in_force.filter(|table| names(table, subject, tags)) {
            if let Ok(until) = until.parse::<toml_edit::Datetime>() {
                table.insert("until", Item::Value(until.into()));
                count += 1;
            }
        }
        count
    })
}

fn names(table: &Table, subject: &Subject, tags: PlusTags) -> bool {
    KINDS.iter().any(|(name, parse)| {
        let text = table.get(name).and_then(Item::as_str);
        text.is_some_and(|text| parse(text).is_ok_and(|other| other.names_the_same(subject, tags)))
    })
}

/// A change of a list.
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// See [`add`].
    Add(&'a Subject, &'a Attributes),
    /// See [`remove`].
    Remove(&'a Subject, PlusTags),
}

/// A list as it is after the change, and how many entries were added or taken out; `path` names it in errors.
pub fn edited(path: &Path, text: &str, by: Edit<'_>) -> Result<(String, usize), Fault> {
    changed(path, text, read, |document, known| match by {
        Edit::Add(subject, attributes) => put_in(document, known, std::slice::from_ref(subject), attributes).len(),
        Edit::Remove(subject, tags) => take_out(document, known, subject, tags),
    })
}

fn put_in(document: &mut DocumentMut, known: &[Subject], subjects: &[Subject], attributes: &Attributes) -> Vec<Subject> {
    let mut added: Vec<Subject> = Vec::new();
    for subject in subjects {
        let stands = |other: &Subject| other.names_the_same(subject, PlusTags::Distinct);
        if !known.iter().any(stands) && !added.iter().any(stands) {
            append(document, "opt_out", table(subject, attributes));
            added.push(subject.clone());
        }
    }
    added
}

fn take_out(document: &mut DocumentMut, known: &[Subject], subject: &Subject, tags: PlusTags) -> usize {
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
        let named = |table: &dyn TableLike| table.get(name).and_then(Item::as_str).is_some_and(|text| same(parse, text));
        cut_tables(document, "opt_out", named);
    }
    known.iter().filter(|other| other.names_the_same(subject, tags)).count()
}

/// The keys that name somebody, in the long form, each with its reader.
const KINDS: [(&str, ReadSubject); 5] = [
    ("address", Subject::address),
    ("domain", Subject::domain),
    ("pattern", Subject::pattern),
    ("hash", Subject::hash),
    ("order", Subject::order),
];

fn read(path: &Path, text: &str) -> Result<Vec<Subject>, Fault> {
    let mut found = Vec::new();
    read_toml(path, text.as_bytes(), &mut |_, subject, _| found.push(subject))?;
    Ok(found)
}

fn table(subject: &Subject, attributes: &Attributes) -> Table {
    let name = match subject {
        Subject::Address(_) => "address",
        Subject::Domain(_) | Subject::Subdomains(_) => "domain",
        Subject::Pattern(_) => "pattern",
        Subject::Sha256(_) | Subject::Md5(_) => "hash",
        Subject::Order(_) => "order",
    };
    let written = match subject {
        Subject::Address(address) => address.to_string(),
        other => other.to_string(),
    };
    let Attributes { since, until, reason, source, action, senders, note, verified, evidence } = attributes;
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
    put("verified", verified.map(Value::from));
    put("evidence", evidence.as_deref().map(|evidence| Value::InlineTable(inline(evidence))));
    table
}

fn inline(evidence: &Evidence) -> InlineTable {
    let Evidence { message_id, order, by, intake, learned } = evidence;
    let fields = [("message_id", message_id), ("order", order), ("by", by), ("intake", intake), ("learned", learned)];
    fields.into_iter().filter_map(|(name, text)| Some((name, Value::from(text.as_ref()?)))).collect()
}

/// One entry as it is appended to a list: its lines, an empty one in front.
pub fn lines(subject: &Subject, attributes: &Attributes) -> String {
    format!("\n[[opt_out]]\n{}", table(subject, attributes))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn without(text: &str, name: &str) -> String {
        edited(Path::new("l.toml"), text, Edit::Remove(&Subject::guess(name).unwrap(), PlusTags::Ignore)).unwrap().0
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
    fn what_is_ended_stays_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.toml");
        fs::write(
            &path,
            "# top\n\n[[opt_out]]\naddress = \"B+1@x.example\"\nverified = false\n\n[[opt_out]]\naddress = \"c@x.example\"\n",
        )
        .unwrap();
        let (subject, now) = (Subject::guess("b@X.example").unwrap(), Timestamp::UNIX_EPOCH);
        let counts = [0, 1].map(|_| end(&path, &subject, PlusTags::Ignore, now).unwrap());
        assert_eq!(counts, [1, 0]);
        let text = fs::read_to_string(&path).unwrap();
        let ended = "[[opt_out]]\naddress = \"B+1@x.example\"\nverified = false\nuntil = 1970-01-01T00:00:00Z\n\n[[opt_out]]\naddress = \"c@x.example\"\n";
        assert_eq!(text, format!("# top\n\n{ended}"));
    }

    #[test]
    fn an_entry_is_added_at_the_end() {
        let new = Subject::guess("New@x.example").unwrap();
        let attributes = Attributes { since: Some("2026-11-24".into()), reason: Some("asked".into()), ..Attributes::default() };
        let entry = "[[opt_out]]\naddress = \"New@x.example\"\nsince = 2026-11-24\nreason = \"asked\"\n";
        for (before, gap) in [
            ("addresses = []\n", "\n"),
            ("addresses = []\n\n# the end\n", "\n"),
            ("addresses = []\n\n[[opt_out]]\naddress = \"a@x.example\"\n", "\n"),
        ] {
            let edited = edited(Path::new("l.toml"), before, Edit::Add(&new, &attributes)).unwrap();
            assert_eq!(edited, (format!("{before}{gap}{entry}"), 1));
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
        assert_eq!(read(&path, &fs::read_to_string(&path).unwrap()).unwrap().len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, "addresses = [\"info@\"]\n").unwrap();
        assert!(matches!(add(&path, &names, &Attributes::default()), Err(EditError::Broken(_))));
    }
}

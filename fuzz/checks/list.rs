//! Lists of all three kinds: a list that is taken keeps mail from everybody whom it names, a list that is not says where
//! it is wrong, and whoever edits a list changes nothing but what was asked. Never touches a disk.

use std::path::Path;

use optout_relay::learn::Phrases;
use optout_relay::mail::PlusTags;
use optout_relay::optout::{Attributes, Builder, Edit, Subject, edited, read_from};
use optout_relay::place::Fault;
use optout_relay::users;

use super::address::{is_opted_out, named_by};

/// The same bytes as TOML, as plain text and as CSV.
pub fn check(bytes: &[u8]) {
    for name in ["l.toml", "l.txt", "l.csv"] {
        match entries(name, bytes) {
            Ok(found) => holds(name, &found),
            Err(fault) => has_a_place(&fault, bytes),
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(found) = entries("l.toml", bytes)
    {
        edits_well(text, &found);
    }
    // The other files that people write.
    if let Ok(text) = std::str::from_utf8(bytes) {
        let faults = [users::parse(Path::new("u.toml"), text).err(), Phrases::parse(Path::new("n.toml"), text).err()];
        for fault in faults.into_iter().flatten().filter(|fault| fault.line > 0) {
            has_a_place(&fault, bytes);
        }
    }
}

/// With its line.
type Entry = (u32, Subject, Attributes);

fn entries(name: &str, bytes: &[u8]) -> Result<Vec<Entry>, Fault> {
    let mut found = Vec::new();
    read_from(Path::new(name), bytes, &mut |line, subject, attributes| found.push((line, subject, attributes)))?;
    Ok(found)
}

fn holds(name: &str, found: &[Entry]) {
    let mut list = Builder::new(PlusTags::Ignore);
    list.file(Path::new(name));
    for (line, subject, attributes) in found {
        list.add(*line, subject.clone(), attributes.clone());
    }
    let (list, twins) = list.finish_and_tell();
    let patterns = found.iter().filter(|(_, subject, _)| matches!(subject, Subject::Pattern(_))).count();
    assert!(list.len() <= found.len() && list.len() + twins.count >= found.len() && list.len() >= patterns);
    for (line, subject, _) in found {
        assert!(*line > 0, "{subject} has a line");
        for address in named_by(subject) {
            assert!(is_opted_out(&list, &address), "{name}:{line}: {subject} keeps mail from {address:?}");
        }
    }
}

/// Within the text, in plain words, without a line of the list.
fn has_a_place(fault: &Fault, bytes: &[u8]) {
    let Fault { line, column, message, hint, .. } = fault;
    let Ok(text) = std::str::from_utf8(bytes) else {
        // A reader stops at the first thing that is wrong, which need not be this.
        return assert!(!message.contains(char::is_control), "{fault:?}");
    };
    let lines: Vec<_> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(line), "{fault:?} is in {text:?}");
    assert!(*column <= lines[line - 1].chars().count() + 1, "{fault:?} is in {text:?}");
    assert!(!message.is_empty() && !fault.to_string().replace('\n', "").contains(char::is_control), "{fault:?}");
    assert!(hint.as_ref().is_some_and(|hint| !hint.is_empty()), "{fault:?} says what to do");
}

fn edits_well(text: &str, before: &[Entry]) {
    let path = Path::new("l.toml");
    let new = Subject::guess("nobody.yet+x@new.example").unwrap();
    let attributes = Attributes {
        since: Some("2026-11-24".into()),
        reason: Some("asked \"so\"\nby 'telephone'".into()),
        senders: vec!["*@shop.example".into()],
        ..Attributes::default()
    };
    let stands = before.iter().any(|(_, subject, _)| subject.names_the_same(&new, PlusTags::Distinct));
    let (added, count) = edited(path, text, Edit::Add(&new, &attributes)).unwrap();
    assert_eq!(count, usize::from(!stands), "{text:?}");
    let mut expected = named(before);
    if !stands {
        expected.push((new.clone(), attributes.clone()));
    }
    assert_eq!(sorted(named(&entries("l.toml", added.as_bytes()).unwrap())), sorted(expected), "{text:?}\nbecame {added:?}");
    let first = before.first().map(|(_, subject, _)| subject);
    for gone in [&new].into_iter().chain(first) {
        let (removed, count) = edited(path, &added, Edit::Remove(gone, PlusTags::Ignore)).unwrap();
        let all = named(&entries("l.toml", added.as_bytes()).unwrap());
        let (out, kept): (Vec<_>, _) = all.into_iter().partition(|(subject, _)| subject.names_the_same(gone, PlusTags::Ignore));
        assert_eq!(count, out.len(), "{text:?}");
        assert_eq!(named(&entries("l.toml", removed.as_bytes()).unwrap()), kept, "{added:?}\nwithout {gone} is {removed:?}");
    }
}

fn named(entries: &[Entry]) -> Vec<(Subject, Attributes)> {
    entries.iter().map(|(_, subject, attributes)| (subject.clone(), attributes.clone())).collect()
}

/// The order of a file is that of its tables, not that of adding.
fn sorted(mut entries: Vec<(Subject, Attributes)>) -> Vec<String> {
    let mut texts: Vec<_> = entries.drain(..).map(|entry| format!("{entry:?}")).collect();
    texts.sort_unstable();
    texts
}

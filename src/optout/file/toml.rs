//! Lists as TOML: short lists of names, and one table an entry. Never writes; see `edit`.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::{Add, line_number, refuse, until};
use crate::optout::entry::{Action, Attributes, EntryError, Evidence, ReadSubject, Subject, senders};
use crate::place::toml::place_in;
use crate::place::{Fault, line_and_column};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    addresses: Vec<Spanned<String>>,
    domains: Vec<Spanned<String>>,
    patterns: Vec<Spanned<String>>,
    hashes: Vec<Spanned<String>>,
    orders: Vec<Spanned<String>>,
    opt_out: Vec<Spanned<Table>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    address: Option<String>,
    domain: Option<String>,
    pattern: Option<String>,
    hash: Option<String>,
    order: Option<String>,
    since: Option<Datetime>,
    until: Option<Datetime>,
    reason: Option<String>,
    source: Option<String>,
    action: Option<Action>,
    senders: Vec<String>,
    note: Option<String>,
    verified: Option<bool>,
    evidence: Option<Box<Evidence>>,
}

pub fn read(path: &Path, mut source: impl Read, add: &mut Add<'_>) -> Result<(), Fault> {
    let mut text = String::new();
    source.read_to_string(&mut text).map_err(|e| Fault::unreadable(path, &e))?;
    let document: Document = toml::from_str(&text).map_err(|e| Fault::of_toml(path, &text, &e))?;
    let mut lines = Lines { text: &text, at: 0, line: 1 };
    let short: [(Vec<_>, ReadSubject); 5] = [
        (document.addresses, Subject::address),
        (document.domains, Subject::domain),
        (document.patterns, Subject::pattern),
        (document.hashes, Subject::hash),
        (document.orders, Subject::order),
    ];
    for (entries, parse) in short {
        for entry in entries {
            let line = lines.of(entry.span().start);
            let subject = parse(entry.as_ref()).map_err(|e| {
                let (line, column) = line_and_column(&text, &entry.span());
                Fault { line, column, ..refuse(path, line, &e) }
            })?;
            add(line_number(line), subject, Attributes::default());
        }
    }
    for (at, table) in document.opt_out.into_iter().enumerate() {
        let line = lines.of(table.span().start);
        let (subject, attributes) = table.into_inner().entry().map_err(|e| {
            let place = e.key().and_then(|key| place_in(&text, "opt_out", at, key));
            let (line, column) = place.unwrap_or((line, 0));
            Fault { line, column, ..refuse(path, line, &e) }
        })?;
        add(line_number(line), subject, attributes);
    }
    Ok(())
}

/// Turns rising byte offsets into line numbers without counting from the start each time.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, offset: usize) -> usize {
        if offset < self.at {
            (self.at, self.line) = (0, 1);
        }
        let passed = self.text.as_bytes().get(self.at..offset).unwrap_or_default();
        self.line += memchr::memchr_iter(b'\n', passed).count();
        self.at = offset;
        self.line
    }
}

impl Table {
    fn entry(self) -> Result<(Subject, Attributes), EntryError> {
        let named: [(Option<String>, ReadSubject); 5] = [
            (self.address, Subject::address),
            (self.domain, Subject::domain),
            (self.pattern, Subject::pattern),
            (self.hash, Subject::hash),
            (self.order, Subject::order),
        ];
        let mut named = named.into_iter().filter_map(|(text, parse)| text.map(|text| parse(&text)));
        let subject = match (named.next(), named.next()) {
            (Some(subject), None) => subject?,
            (None, _) => return Err(EntryError::Nobody),
            (Some(_), Some(_)) => return Err(EntryError::Two),
        };
        let attributes = Attributes {
            since: self.since.map(|when| when.to_string()),
            until: self.until.map(|when| until(&when.to_string())).transpose()?,
            reason: self.reason,
            source: self.source,
            action: self.action,
            senders: senders(self.senders.iter().map(String::as_str))?,
            note: self.note,
            verified: self.verified,
            evidence: self.evidence,
        };
        Ok((subject, attributes))
    }
}

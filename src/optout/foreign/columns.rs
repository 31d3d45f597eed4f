//! Which column says what: of CSV by its first row, of JSON by the keys. Never reads a file.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, fmt};

use super::{Found, short, subject, wrong};
use crate::optout::entry::{Attributes, EntryError, Subject, senders};
use crate::optout::file::until;

/// `--column FIELD=NAME`: a column that says something under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    field: Field,
    /// As in the first row, in comparing form; or its number, from 1.
    name: String,
}

/// What a column may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Name,
    Domain,
    Pattern,
    Order,
    Since,
    Until,
    Reason,
    Source,
    Action,
    Senders,
    Note,
}

/// Each with the names that are known by themselves, in comparing form; the first is the field's own.
const KNOWN: [(Field, &[&str]); 11] = [
    (
        Field::Name,
        &[
            "address",
            "email",
            "emailaddress",
            "emailid",
            "mail",
            "mailaddress",
            "recipient",
            "recipientemail",
            "hash",
            "sha256",
            "md5",
        ],
    ),
    (Field::Domain, &["domain"]),
    (Field::Pattern, &["pattern"]),
    (Field::Order, &["order", "orderid"]),
    (
        Field::Since,
        &[
            "since",
            "created",
            "createdat",
            "date",
            "timestamp",
            "lastupdatetime",
            "unsubtime",
            "cleantime",
            "unsubscribedat",
            "unsubscribed",
            "optoutdate",
            "suppressedat",
        ],
    ),
    (Field::Until, &["until"]),
    (Field::Reason, &["reason", "suppressionreason", "unsubreason", "error"]),
    (Field::Source, &["source"]),
    (Field::Action, &["action"]),
    (Field::Senders, &["senders"]),
    (Field::Note, &["note"]),
];

impl Field {
    /// It tells whom the entry is about.
    pub fn names_somebody(self) -> bool {
        matches!(self, Self::Name | Self::Domain | Self::Pattern | Self::Order)
    }
}

impl Column {
    /// It tells whom the entries are about.
    pub(super) fn names_somebody(&self) -> bool {
        self.field.names_somebody()
    }

    /// Reads `FIELD=NAME`; the error is for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields = || KNOWN.map(|(_, names)| names[0]).join(", ");
        let (field, name) = text.split_once('=').ok_or("write FIELD=NAME, as in address=\"E-mail of buyer\"")?;
        let (field, _) = KNOWN
            .iter()
            .find(|(_, names)| names[0] == field.trim())
            .ok_or_else(|| format!("there is no field of that name; there are {}", fields()))?;
        let name = comparing(name);
        if name.is_empty() { Err("the column has no name".into()) } else { Ok(Self { field: *field, name }) }
    }
}

/// Case, spaces, hyphens and underscores make no other column.
pub(super) fn comparing(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// What the column of this name (and number, from 1) says, if anything.
pub(super) fn field(name: &str, number: usize, given: &[Column]) -> Option<Field> {
    let is_it = |column: &&Column| column.name == name || (number > 0 && column.name == number.to_string());
    if let Some(column) = given.iter().find(is_it) {
        return Some(column.field);
    }
    let (field, _) = KNOWN.iter().find(|(_, names)| names.contains(&name))?;
    // Who names a column for a field means no other one.
    (!given.iter().any(|column| column.field == *field)).then_some(*field)
}

/// An entry that grows cell by cell.
#[derive(Debug, Default)]
pub(super) struct Growing {
    subject: Option<Subject>,
    attributes: Attributes,
    error: Option<EntryError>,
}

impl Growing {
    /// Takes a cell; an empty one says nothing. Of several errors the first counts.
    pub fn take(&mut self, field: Field, text: &str) {
        let text = text.trim();
        if !text.is_empty()
            && let Err(error) = self.try_take(field, text)
        {
            self.error.get_or_insert(error);
        }
    }

    fn try_take(&mut self, field: Field, text: &str) -> Result<(), EntryError> {
        let attributes = &mut self.attributes;
        match field {
            Field::Name => return self.name(subject(text)?),
            Field::Domain => return self.name(Subject::domain(text)?),
            Field::Pattern => return self.name(Subject::pattern(text)?),
            Field::Order => return self.name(Subject::order(text)?),
            // Of several times, as when somebody opted in and out, the first of the columns.
            Field::Since => attributes.since = attributes.since.take().or_else(|| Some(since(text))),
            Field::Until => attributes.until = Some(until(text)?),
            Field::Reason => attributes.reason = Some(short(text)),
            Field::Source => attributes.source = Some(short(text)),
            Field::Action => attributes.action = Some(text.parse()?),
            Field::Senders => attributes.senders = senders(text.split_whitespace())?,
            Field::Note => attributes.note = Some(short(text)),
        }
        Ok(())
    }

    fn name(&mut self, subject: Subject) -> Result<(), EntryError> {
        if self.subject.replace(subject).is_some() { Err(EntryError::Two) } else { Ok(()) }
    }

    /// The entry, or what is wrong with it.
    pub fn found(self) -> Found {
        match (self.error, self.subject) {
            (Some(error), _) => wrong(&error),
            (None, None) => wrong(&EntryError::Nobody),
            (None, Some(subject)) => Found::Entry(subject, self.attributes),
        }
    }
}

/// The day (UTC) on which somebody opted out: `list add` notes no more either, and many entries then say the same, which millions of
/// them have to. What is no time stays as it was written.
fn since(text: &str) -> String {
    let day = |time: Timestamp| time.strftime("%Y-%m-%d").to_string();
    if text.len() == 10 && text.parse::<Date>().is_ok() {
        return text.into();
    }
    if text.bytes().all(|b| b.is_ascii_digit()) && (9..=13).contains(&text.len()) {
        let number: i64 = text.parse().unwrap_or_default();
        let time = if text.len() > 10 { Timestamp::from_millisecond(number) } else { Timestamp::from_second(number) };
        return time.map_or_else(|_| short(text), day);
    }
    let read = || {
        let zoned = || fmt::rfc2822::parse(text).ok().map(|time| time.timestamp());
        // Mailgun ends it in "UTC", which is not one of the zones of RFC 5322.
        let gmt =
            || fmt::rfc2822::parse(&text.strip_suffix("UTC").map(|text| format!("{text}GMT"))?).ok().map(|time| time.timestamp());
        let civil = || TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
        text.parse::<Timestamp>().ok().or_else(civil).or_else(zoned).or_else(gmt)
    };
    read().map_or_else(|| short(text), day)
}

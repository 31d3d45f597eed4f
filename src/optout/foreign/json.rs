//! JSON as mail providers give it: objects (or bare addresses) in a list, one after another, or in a list within an object, page
//! after page. Never takes more than one entry into memory.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::columns::{Column, Field, Growing, comparing, field};
use super::{Bounded, Ended, Found, Provider, Take, without_mark};
use crate::place::Fault;

pub(super) fn read(
    path: &Path,
    source: &mut dyn BufRead,
    given: &[Column],
    provider: Option<Provider>,
    take: &mut Take<'_>,
) -> Result<Option<Provider>, Ended> {
    let head = source.fill_buf().map_err(|e| Fault::unreadable(path, &e))?;
    let mark = head.len() - without_mark(head).len();
    source.consume(mark);
    let since_row = Cell::new(0);
    let source = BufReader::with_capacity(1 << 16, Bounded { source, since_row: &since_row });
    let mut document = serde_json::Deserializer::from_reader(source);
    let mut reading = Reading { given, provider, take, since_row: &since_row, number: 0, failed: None };
    loop {
        // What follows a document is another one: the next page, or the next line.
        match document.end() {
            Ok(()) => return Ok(reading.provider),
            Err(error) if error.is_syntax() => {}
            Err(error) => return Err(of_json(path, &error).into()),
        }
        let read = Part { reading: &mut reading, of: Of::Document, growing: None }.deserialize(&mut document);
        if let Err(error) = read {
            return Err(reading.failed.map_or_else(|| of_json(path, &error).into(), Ended::Taker));
        }
    }
}

fn of_json(path: &Path, error: &serde_json::Error) -> Fault {
    // The reader ends its words with the place, which is ours to say.
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or(&message);
    let fault = Fault { column: error.column(), ..Fault::of_line(path, error.line(), format!("is not JSON: {message}")) };
    fault.hint("ask the provider for the list again; a text list is read with --format text")
}

struct Reading<'a, 't> {
    given: &'a [Column],
    provider: Option<Provider>,
    take: &'a mut Take<'t>,
    since_row: &'a Cell<usize>,
    number: u64,
    failed: Option<io::Error>,
}

impl Reading<'_, '_> {
    fn found<E: Error>(&mut self, found: Found) -> Result<(), E> {
        self.number += 1;
        self.since_row.set(0);
        (self.take)(self.number, found).map_err(|error| {
            let told = E::custom("not taken");
            self.failed = Some(error);
            told
        })
    }
}

/// Whose part a value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Of nothing: it is an entry, a list of them, or an object around one.
    Document,
    /// Of an object that may be an entry, or stand around a list of them.
    Outer,
    /// Of a list in the document.
    List,
    /// Of a list in an object: only objects are entries, not the texts of a list of tags.
    InnerList,
    /// Of an entry.
    Entry,
}

/// One value; a text or a number in an object is a cell of the entry that grows there.
struct Part<'p, 'a, 't> {
    reading: &'p mut Reading<'a, 't>,
    of: Of,
    growing: Option<(&'p mut Growing, Field)>,
}

impl<'de> DeserializeSeed<'de> for Part<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Part<'_, '_, '_> {
    fn text<E: Error>(self, text: &str) -> Result<(), E> {
        match (self.of, self.growing) {
            (_, Some((growing, field))) => growing.take(field, text),
            (Of::Document | Of::List, None) => {
                let mut growing = Growing::default();
                growing.take(Field::Name, text);
                self.reading.found(growing.found())?;
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for Part<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("entries")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.text(text)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.text(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.text(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.text(&number.to_string())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let of = match self.of {
            Of::Document | Of::List => Of::List,
            Of::Outer | Of::InnerList => Of::InnerList,
            Of::Entry => Of::Entry,
        };
        while list.next_element_seed(Part { reading: self.reading, of, growing: None })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { reading, of, .. } = self;
        let part = match of {
            Of::Document | Of::Outer => Of::Outer,
            Of::List | Of::InnerList | Of::Entry => Of::Entry,
        };
        let (mut growing, mut names, mut has_name) = (Growing::default(), Vec::new(), false);
        while let Some(key) = object.next_key::<String>()? {
            let name = comparing(&key);
            let field = field(&name, 0, reading.given);
            has_name |= field.is_some_and(Field::names_somebody);
            let cell = field.map(|field| (&mut growing, field));
            if reading.number < 2 && names.len() < 64 {
                names.push(name);
            }
            object.next_value_seed(Part { reading, of: part, growing: cell })?;
        }
        let is_entry = match of {
            Of::List | Of::InnerList => true,
            // An object around a list names nobody itself.
            Of::Document | Of::Outer => has_name,
            Of::Entry => false,
        };
        if !is_entry {
            return Ok(());
        }
        if reading.provider.is_none() && reading.number == 0 && reading.given.is_empty() {
            reading.provider = Provider::by_columns(&names);
        }
        reading.found(growing.found())
    }
}

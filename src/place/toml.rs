//! What the TOML reader says, put into the words of whoever wrote the file: the key, what was expected, what to do.
//! Never repeats a line of the file.

use std::ops::Range;
use std::path::Path;

use toml::de::{DeArray, DeTable, DeValue};

use super::{Fault, line_and_column};

impl Fault {
    /// What the TOML reader says of `text`, without the text itself.
    pub fn of_toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let (line, column) = line_and_column(text, &span);
        let found = text.get(span.clone()).unwrap_or_default();
        let Plain { message, hint } = match error.message() {
            "duplicate key" => Plain::advising(format!("`{found}` stands here for the second time"), "delete one of the two"),
            message if message.starts_with("invalid type") && found.starts_with("[[") => {
                Plain::advising(format!("{found} begins a list"), "a section has single brackets, as in [listen]")
            }
            "invalid type: map, expected a sequence" if found.starts_with('[') => Plain::advising(
                format!("{found} is one table, not a list of them"),
                &format!("write it with double brackets: [{found}]"),
            ),
            message => Plain::new(message, key_at(text, &span).as_deref()),
        };
        Self { line, column, message, hint: Some(hint), ..Self::of_file(path, "") }
    }
}

/// A message of the reader in plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Lower case, no full stop; begins with the key where it is known.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Plain {
    fn advising(message: String, hint: &str) -> Self {
        Self { message, hint: hint.to_owned() }
    }

    /// `key` is the place in the file, as in `listen.smtp`.
    pub fn new(message: &str, key: Option<&str>) -> Self {
        let message = message.replace(|c: char| c.is_control(), " ");
        let about = |text: String| key.map_or_else(|| text.clone(), |key| format!("`{key}`: {text}"));
        if let Some((unknown, known)) = words_after(&message, "unknown field ") {
            let key = key.unwrap_or(unknown).replace(|c: char| c.is_control(), " ");
            let hint = did_you_mean(unknown, &known).unwrap_or_else(|| format!("the keys here are {}", listed(&known)));
            return Self { message: format!("unknown key `{key}`"), hint };
        }
        if let Some((unknown, known)) = words_after(&message, "unknown variant ") {
            let hint = did_you_mean(unknown, &known).unwrap_or_else(|| "write one of them, in quotes".to_owned());
            return Self { message: about(format!("expected {}, not `{unknown}`", either(&known))), hint };
        }
        if let Some((found, wanted)) = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
            return mismatch(wanted, kind(found)).about(about);
        }
        if let Some((found, wanted)) = message.strip_prefix("invalid value: ").and_then(|rest| rest.split_once(", expected ")) {
            return mismatch(wanted, value(found)).about(about);
        }
        if message == "wanted string or table" {
            return mismatch("a string", "a value of another kind").about(about);
        }
        let (message, hint) = match message.split_once(AS_IN) {
            Some((message, example)) => (message.to_owned(), format!("as in {example}")),
            None => (message.clone(), syntax_hint(&message).to_owned()),
        };
        Self { message: about(message), hint }
    }

    fn about(self, about: impl Fn(String) -> String) -> Self {
        Self { message: about(self.message), ..self }
    }
}

/// Parts what is wanted from an example of it.
const AS_IN: &str = ", as in ";

/// What was wanted, in the reader's words, and what was found, in ours.
fn mismatch(wanted: &str, found: &str) -> Plain {
    let (wanted, hint) = match wanted.split_once(AS_IN) {
        Some((wanted, example)) => (wanted, format!("as in {example}")),
        None => (expectation(wanted), hint_for(expectation(wanted)).to_owned()),
    };
    let message = match (wanted, found) {
        (WHOLE_NUMBER, "a number") => "expected a smaller number".to_owned(),
        _ => format!("expected {wanted}, not {found}"),
    };
    Plain { message, hint }
}

/// The unknown word and the known ones out of "unknown field `x`, expected one of `a`, `b`".
fn words_after<'a>(message: &'a str, start: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix(start)?.strip_prefix('`')?;
    let (unknown, rest) = rest.split_once("`, ").unwrap_or((rest.trim_end_matches('`'), ""));
    // With a `$` begin the reader's own words.
    Some((unknown, rest.split('`').skip(1).step_by(2).filter(|word| !word.starts_with('$')).collect()))
}

/// The known word nearest to the unknown one, if it is near at all.
pub fn did_you_mean(unknown: &str, known: &[&str]) -> Option<String> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let near = |known: &&str| strsim::jaro_winkler(&unknown, &known.to_lowercase());
    let best = known.iter().copied().max_by(|a, b| near(a).total_cmp(&near(b)))?;
    (near(&best) > 0.8).then(|| format!("did you mean `{best}`?"))
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn either(words: &[&str]) -> String {
    match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or `{last}`", listed(first)),
        _ => listed(words),
    }
}

const WHOLE_NUMBER: &str = "a whole number, 0 or more";

/// What the reader calls the thing that it wanted.
fn expectation(wanted: &str) -> &str {
    match wanted {
        "a string" => "a text in quotes",
        "path string" => "a path in quotes",
        "a sequence" => "a list",
        "a boolean" => "true or false",
        "u16" | "u32" | "u64" | "usize" => WHOLE_NUMBER,
        "f32" | "f64" => "a number",
        "a TOML datetime" => "a date",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

fn hint_for(expected: &str) -> &'static str {
    match expected {
        "a text in quotes" | "a path in quotes" => "put it in quotes, as in \"…\"",
        "a list" => "write a list in brackets, as in [\"…\", \"…\"]",
        WHOLE_NUMBER => "write the number without quotes, unit, sign or fraction, as in 100",
        "a number" => "write the number without quotes and without a unit, as in 0.5",
        "a date" => "write dates without quotes, as in 2026-11-24",
        "a table" => "begin it with its name in brackets on a line of its own, as in [listen]",
        _ => "delete the line to have the default",
    }
}

/// The kind of thing that was found, without its value: it may be a secret in the wrong place.
fn kind(found: &str) -> &'static str {
    match found.split([' ', ',']).next().unwrap_or_default() {
        "string" => "a text",
        "integer" => "a number",
        "floating" => "a number with a fraction",
        "boolean" => "true or false",
        "sequence" => "a list",
        "map" => "a table",
        _ => "a value of another kind",
    }
}

/// The value that was found; only readers that take no secrets tell it.
fn value(found: &str) -> &str {
    let bare = found.strip_prefix("string ").or_else(|| found.split_once('`').map(|(_, rest)| rest.trim_end_matches('`')));
    bare.unwrap_or(found)
}

fn syntax_hint(message: &str) -> &'static str {
    match message {
        text if text.contains("must be quoted") => "put texts in quotes, as in name = \"value\"",
        text if text.contains("unicode value digits") || text.contains("escape") => {
            "in double quotes a backslash is special: use single quotes, as in 'C:\\mail'"
        }
        text if text.contains("unclosed") || text.contains("missing comma") || text.contains("invalid basic string") => {
            "see that every quote and bracket is closed, and that a comma stands between the values of a list"
        }
        _ => "a line is name = value; texts stand in quotes, lists in brackets, and a section begins with its [name]",
    }
}

/// The key, with its table, at which a span of bytes lies.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut keys = Vec::new();
    in_table(table.get_ref(), span, &mut keys).then(|| keys.join("."))
}

fn in_table(table: &DeTable<'_>, sought: &Range<usize>, keys: &mut Vec<String>) -> bool {
    table.iter().any(|(key, value)| {
        keys.push(key.get_ref().to_string());
        let inside = match value.get_ref() {
            DeValue::Table(table) => in_table(table, sought, keys),
            DeValue::Array(array) => in_array(array, sought, keys),
            _ => false,
        };
        let found = inside || holds(&key.span(), sought) || holds(&value.span(), sought);
        if !found {
            keys.pop();
        }
        found
    })
}

fn in_array(array: &DeArray<'_>, sought: &Range<usize>, keys: &mut Vec<String>) -> bool {
    array.iter().any(|element| match element.get_ref() {
        DeValue::Table(table) => in_table(table, sought, keys),
        _ => false,
    })
}

fn holds(span: &Range<usize>, sought: &Range<usize>) -> bool {
    span.start <= sought.start && sought.end <= span.end
}

/// Line and column of the value of a key such as `listen.smtp`; where it is no value, of the key itself.
pub fn place_of(text: &str, key: &str) -> Option<(usize, usize)> {
    let document = DeTable::parse(text).ok()?;
    let (mut table, mut found) = (document.get_ref(), None);
    for name in key.split('.') {
        let (key, value) = table.iter().find(|(key, _)| key.get_ref() == name)?;
        match value.get_ref() {
            DeValue::Table(below) => (table, found) = (below, Some(key.span())),
            _ => found = Some(value.span()),
        }
    }
    found.map(|span| line_and_column(text, &span))
}

/// The same for a key in one of the tables of a list, as in `[[opt_out]]`; `at` counts them from 0.
pub fn place_in(text: &str, list: &str, at: usize, key: &str) -> Option<(usize, usize)> {
    let document = DeTable::parse(text).ok()?;
    let value = document.get_ref().get(list)?.get_ref().get(at)?.get_ref().get(key)?;
    Some(line_and_column(text, &value.span()))
}

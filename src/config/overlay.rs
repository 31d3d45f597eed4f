//! `OPTOUT_RELAY_…`: environment variables over what is written. Never repeats a variable's value where it may be a
//! secret.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::file::File;
use crate::place::Fault;
use crate::place::toml::Plain;

const PREFIX: &str = "OPTOUT_RELAY_";

/// The configuration with its variables, and which of them spoke last about which key (`listen.smtp`).
pub struct Overlaid {
    pub file: File,
    set: Vec<(String, String)>,
}

impl Overlaid {
    /// The variable that has set the key, or the table above it.
    pub fn variable(&self, key: &str) -> Option<&str> {
        let about = |set: &str| key == set || key.strip_prefix(set).is_some_and(|rest| rest.starts_with('.'));
        self.set.iter().find(|(set, _)| about(set)).map(|(_, name)| name.as_str())
    }
}

/// Lays the variables over `written`, the meaning of `text`. The file alone was sound, so an error is the variable's.
pub fn overlay(text: &str, written: File, environment: impl Iterator<Item = (String, String)>) -> Result<Overlaid, Fault> {
    let mut variables: Vec<_> = environment.filter(|(name, _)| name.starts_with(PREFIX)).collect();
    variables.sort_unstable();
    let mut table: Table = text.parse().unwrap_or_default();
    let mut overlaid = Overlaid { file: written, set: Vec::new() };
    for (name, text) in variables {
        let keys: Vec<_> = name[PREFIX.len()..].to_lowercase().split("__").map(str::to_owned).collect();
        let attempts =
            values(text).map(|value| with(&table, &keys, value).map(|table| (File::deserialize(table.clone()), table)));
        let [typed, as_text] = attempts;
        let (file, merged) = match (typed, as_text) {
            (Some((Ok(file), merged)), _) | (_, Some((Ok(file), merged))) => (file, merged),
            (Some((Err(error), _)), _) => return Err(of_variable(&name, error.message())),
            (None, _) => {
                return Err(Fault::of_file(Path::new(&name), "names no section of the configuration").hint(NAMES));
            }
        };
        (overlaid.file, table) = (file, merged);
        overlaid.set.push((keys.join("."), name));
    }
    Ok(overlaid)
}

const NAMES: &str = "the name is OPTOUT_RELAY_<SECTION>__<KEY>, as in OPTOUT_RELAY_LISTEN__MAX_SESSIONS";

/// What a variable may mean: a value as in the file, or else a text that needs no quotes here.
fn values(text: String) -> [Value; 2] {
    let typed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    [typed.unwrap_or_else(|| Value::String(text.clone())), Value::String(text)]
}

/// The table with one value put in; `None` where a key on the way is no table.
fn with(table: &Table, keys: &[String], value: Value) -> Option<Table> {
    let mut table = table.clone();
    let (last, sections) = keys.split_last()?;
    let mut place = &mut table;
    for section in sections {
        place = place.entry(section.as_str()).or_insert_with(|| Table::new().into()).as_table_mut()?;
    }
    place.insert(last.clone(), value);
    Some(table)
}

fn of_variable(name: &str, message: &str) -> Fault {
    let plain = Plain::new(message, None);
    let unknown = plain.message.starts_with("unknown key");
    let hint = match plain.hint {
        hint if unknown && hint.starts_with("did you mean") => format!("{hint} {NAMES}"),
        _ if unknown => NAMES.to_owned(),
        hint => hint,
    };
    Fault::of_file(Path::new(name), plain.message).hint(hint)
}

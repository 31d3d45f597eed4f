//! The users on disk, read: a name, the hash of a password, as whom they may send. Never writes; never repeats what stands
//! in a password's place, which may be the password.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use super::hash::Hash;
use crate::mail::glob_key;
use crate::place::{Fault, line_and_column, shown};

/// Bytes of a name; longer ones are no names.
const MAX_NAME: usize = 255;

/// One user as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Exactly as it must be given.
    pub name: String,
    /// What is kept of the password.
    pub hash: Hash,
    /// Globs over the whole envelope sender, in comparing form; none: any sender.
    pub senders: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    user: Vec<Spanned<Table>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Table {
    name: Option<Spanned<String>>,
    password: Option<Spanned<String>>,
    senders: Option<Spanned<Vec<Spanned<String>>>>,
}

/// Every user of a file's text, in order. The first fault ends it: half the users would lock the others out.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Fault> {
    let document: Document = toml::from_str(text).map_err(|e| Fault::of_toml(path, text, &e))?;
    let reader = Reader { path, text };
    let mut lines: HashMap<String, usize> = HashMap::new();
    let mut entries = Vec::with_capacity(document.user.len());
    for table in document.user {
        let (line, _) = line_and_column(text, &table.span());
        let place = table.as_ref().name.as_ref().map(Spanned::span);
        let entry = reader.entry(table)?;
        if let (Some(first), Some(place)) = (lines.insert(entry.name.clone(), line), place) {
            let message = format_args!("the user `{}` stands here for the second time", entry.name);
            return Err(reader.fault(&place, message).hint(format!("the first is in line {first}; delete one of the two")));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Why a text cannot be a user's name, and what to do.
pub fn name_fault(name: &str) -> Option<(&'static str, &'static str)> {
    if name.is_empty() {
        Some(("the name is empty", "as in name = \"feedback-tool\""))
    } else if name.len() > MAX_NAME {
        Some(("the name is longer than 255 bytes", "choose a shorter one"))
    } else if name.contains(char::is_control) {
        Some(("the name holds a control character", "letters, digits and signs, as in feedback-tool"))
    } else if name.trim() != name {
        Some(("the name begins or ends with a blank", "take the blank away: nobody sees it"))
    } else {
        None
    }
}

/// A glob over senders in comparing form; `None` if no sender could match it.
pub fn sender_glob(text: &str) -> Option<String> {
    let text = text.trim();
    let never = |c: char| c.is_whitespace() || c.is_control() || ",;<>".contains(c);
    (text.contains(['@', '*']) && !text.contains(never) && text.len() <= 320).then(|| glob_key(text))
}

/// What to write instead of a glob that is none.
pub const SENDERS_HINT: &str = "as in *@shop-a.example, or shop@shop-a.example; without senders the user may send as anybody";

/// A file with such a user cannot be edited by a command.
const ANEW: &str = "delete the user here, then `optout-relay user add NAME` asks for the password and writes its hash";

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn fault(&self, place: &Range<usize>, message: impl std::fmt::Display) -> Fault {
        let (line, column) = line_and_column(self.text, place);
        Fault { line, column, ..Fault::of_file(self.path, message) }
    }

    fn entry(&self, table: Spanned<Table>) -> Result<Entry, Fault> {
        let whole = table.span();
        let Table { name, password, senders } = table.into_inner();
        let lacks = |message, hint| Fault { column: 0, ..self.fault(&whole, message) }.hint(hint);
        let name = name.ok_or_else(|| lacks("the user has no name", "add one, as in name = \"feedback-tool\""))?;
        if let Some((message, hint)) = name_fault(name.as_ref()) {
            return Err(self.fault(&name.span(), message).hint(hint));
        }
        let password = password.ok_or_else(|| lacks("the user has no password", ANEW))?;
        let hash = Hash::parse(password.as_ref())
            .map_err(|e| self.fault(&password.span(), format_args!("the password {e}")).hint(e.hint().unwrap_or(ANEW)))?;
        let senders = senders.map(|senders| self.senders(senders)).transpose()?;
        Ok(Entry { name: name.into_inner(), hash, senders })
    }

    fn senders(&self, senders: Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, Fault> {
        if senders.as_ref().is_empty() {
            let fault = self.fault(&senders.span(), "the user may send as nobody");
            return Err(fault.hint("name a sender, as in *@shop-a.example, or delete the line: without it any sender will do"));
        }
        let glob = |text: Spanned<String>| {
            let nobody = || self.fault(&text.span(), format_args!("{} names no sender", shown(text.as_ref()))).hint(SENDERS_HINT);
            sender_glob(text.as_ref()).ok_or_else(nobody)
        };
        senders.into_inner().into_iter().map(glob).collect()
    }
}

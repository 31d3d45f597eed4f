//! How far a mailbox was looked through. Kept in a file, so that a restart does not ask for everything again; if it is lost, all
//! is looked at once more and nothing is learned twice.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A place in one folder of one mailbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// User, host and folder.
    pub mailbox: String,
    /// `UIDVALIDITY` of the folder: with another one all numbers are new (RFC 9051 2.3.1.1).
    pub validity: u32,
    /// The lowest UID that was not looked at.
    pub next: u32,
}

impl Place {
    /// As it was left; the beginning where it was another mailbox or another validity. Blocks on the disk.
    pub fn read(file: &Path, mailbox: &str, validity: u32) -> Self {
        let known = fs::read(file).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        known.filter(|place| place.mailbox == mailbox && place.validity == validity).unwrap_or(Self {
            mailbox: mailbox.to_owned(),
            validity,
            next: 1,
        })
    }

    /// Whole or not at all. Blocks on the disk.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let temporary = file.with_extension("tmp");
        let mut new = File::create(&temporary)?;
        new.write_all(&serde_json::to_vec(self)?)?;
        new.sync_data()?;
        fs::rename(&temporary, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_mailbox_or_validity_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("imap.json");
        let place = |mailbox: &str, validity| Place::read(&file, mailbox, validity).next;
        assert_eq!(place("a", 7), 1);
        Place { mailbox: "a".into(), validity: 7, next: 42 }.write(&file).unwrap();
        assert_eq!([place("a", 7), place("a", 8), place("b", 7)], [42, 1, 1]);
        fs::write(&file, "{").unwrap();
        assert_eq!(place("a", 7), 1);
    }
}

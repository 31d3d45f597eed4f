//! Entries that wait for a person: one file each, in the form of a list, with the reason above. Never decides.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lesson::Entry;
use crate::optout::{hex, lines, read_from};
use crate::place::Fault;

/// Whoever can send notices can fill a disk.
const MOST: usize = 10_000;

/// Where what was turned down lies, so that the same notice does not ask again.
const REJECTED: &str = "rejected";

/// The folder.
#[derive(Clone, Debug)]
pub struct Quarantine(PathBuf);

/// One that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The name by which it is accepted or rejected.
    pub id: String,
    /// What would be learned.
    pub entry: Entry,
    /// Why it waits.
    pub why: String,
}

impl Quarantine {
    /// The folder comes with the first that waits.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// How many wait; none where that cannot be told.
    pub fn count(&self) -> usize {
        self.ids().map_or(0, |ids| ids.len())
    }

    /// Puts an entry there, and returns its id when it is on disk. The same entry from the same notice waits once, and not
    /// again after it was rejected.
    pub fn put(&self, entry: &Entry, why: &str) -> io::Result<String> {
        let text = format!("# {}\n{}", why.replace(char::is_control, " "), lines(&entry.subject, &entry.attributes));
        let notice = entry.attributes.evidence.as_ref().and_then(|evidence| evidence.message_id.clone()).unwrap_or_default();
        let id = hex(&Sha256::digest(format!("{}\n{notice}", entry.subject))[..6]);
        if self.path(&id).exists() || self.0.join(REJECTED).join(format!("{id}.toml")).exists() {
            return Ok(id);
        }
        fs::create_dir_all(&self.0)?;
        if self.ids()?.len() >= MOST {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, format!("{MOST} entries wait already")));
        }
        let temporary = self.0.join(format!(".{id}.tmp"));
        let mut file = File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(&id))?;
        File::open(&self.0)?.sync_all()?;
        Ok(id)
    }

    /// All that wait, the oldest first.
    pub fn all(&self) -> Result<Vec<Waiting>, Fault> {
        let ids = self.ids().map_err(|e| Fault::unreadable(&self.0, &e))?;
        ids.iter().map(|id| self.get(id)).collect()
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Result<Waiting, Fault> {
        let path = self.path(id);
        let text = fs::read_to_string(&path).map_err(|e| Fault::unreadable(&path, &e))?;
        let mut entry = None;
        read_from(&path, text.as_bytes(), &mut |_, subject, attributes| entry = Some(Entry { subject, attributes }))?;
        let entry = entry.ok_or_else(|| Fault::of_file(&path, "holds no entry"))?;
        let why = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
        Ok(Waiting { id: id.to_owned(), entry, why })
    }

    /// It waits no more, for it was accepted.
    pub fn take_out(&self, id: &str) -> io::Result<()> {
        fs::remove_file(self.path(id))?;
        File::open(&self.0)?.sync_all()
    }

    /// It waits no more, and does not come again.
    pub fn reject(&self, id: &str) -> io::Result<()> {
        let rejected = self.0.join(REJECTED);
        fs::create_dir_all(&rejected)?;
        fs::rename(self.path(id), rejected.join(format!("{id}.toml")))?;
        File::open(&rejected)?.sync_all()?;
        File::open(&self.0)?.sync_all()
    }

    fn ids(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".toml")).filter(|id| is_id(id)) {
                found.push((entry.metadata()?.modified()?, id.to_owned()));
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    fn path(&self, id: &str) -> PathBuf {
        // A name from a command line leads nowhere else.
        let id = if is_id(id) { id } else { "no-such-id" };
        self.0.join(Path::new(id).with_extension("toml"))
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optout::{Attributes, Evidence, Subject};

    #[test]
    fn what_was_rejected_does_not_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let quarantine = Quarantine::new(folder.path().join("quarantine"));
        let evidence = Evidence { message_id: Some("1@x".into()), ..Evidence::default() };
        let attributes = Attributes { evidence: Some(Box::new(evidence)), ..Attributes::default() };
        let entry = Entry { subject: Subject::guess("a@x.example").unwrap(), attributes };
        assert_eq!(quarantine.all().unwrap(), []);
        let id = quarantine.put(&entry, "no pass\nof anybody").unwrap();
        assert_eq!(quarantine.put(&entry, "again").unwrap(), id);
        let waiting = Waiting { id: id.clone(), entry: entry.clone(), why: "no pass of anybody".into() };
        assert_eq!(quarantine.all().unwrap(), [waiting]);
        quarantine.reject(&id).unwrap();
        assert_eq!(quarantine.put(&entry, "again").unwrap(), id);
        assert_eq!(quarantine.all().unwrap(), []);
        assert!(quarantine.get("../../x").is_err() && quarantine.get(&id).is_err());
    }
}

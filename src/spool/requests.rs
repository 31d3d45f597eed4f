//! What a person wants of a spool that a running relay has locked: a file in `requests` each, named for what is wanted,
//! gone when it was done. Never touches a message itself.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::files::Folder;
use crate::mail::Id;

const FOLDER: &str = "requests";

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Try it now.
    Retry,
    /// Forget it.
    Drop,
}

/// One wish; without an id it is for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which message.
    pub which: Option<Id>,
    /// What with it.
    pub wanted: Wanted,
}

impl Request {
    fn name(&self) -> String {
        let which = self.which.map_or("all".to_owned(), |id| id.to_string());
        let wanted = if self.wanted == Wanted::Retry { "retry" } else { "drop" };
        format!("{which}.{wanted}")
    }

    fn parse(name: &str) -> Option<Self> {
        let (which, wanted) = name.split_once('.')?;
        let which = if which == "all" { None } else { Some(Id::parse(which)?) };
        match (wanted, which) {
            ("retry", _) => Some(Self { which, wanted: Wanted::Retry }),
            // All mail at once is never thrown away by a word.
            ("drop", Some(_)) => Some(Self { which, wanted: Wanted::Drop }),
            _ => None,
        }
    }

    /// Asks the relay that runs; the file that is returned is gone when it was done.
    pub fn ask(&self, spool: &Path) -> io::Result<PathBuf> {
        let path = spool.join(FOLDER).join(self.name());
        OpenOptions::new().write(true).create(true).truncate(false).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&path)?;
        Ok(path)
    }

    /// It was done.
    pub(super) fn is_done(&self, spool: &Path) -> io::Result<()> {
        std::fs::remove_file(spool.join(FOLDER).join(self.name()))
    }
}

/// The folder for wishes; those that nobody heard are forgotten.
pub fn open(spool: &Path) -> io::Result<()> {
    let folder = Folder::open(&spool.join(FOLDER))?;
    std::fs::read_dir(folder.path())?.try_for_each(|entry| std::fs::remove_file(entry?.path()))
}

/// All that is wanted now.
pub fn read(spool: &Path) -> io::Result<Vec<Request>> {
    let entries = std::fs::read_dir(spool.join(FOLDER))?;
    Ok(entries.filter_map(|entry| Request::parse(entry.ok()?.file_name().to_str()?)).collect())
}

/// The lock of a spool, held as long as the file is open; `None` where another process has it.
pub fn lock(spool: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
    let file = options.open(spool.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The user whose relay this spool is; `None` where there was none yet.
pub fn owner(spool: &Path) -> Option<u32> {
    std::fs::symlink_metadata(spool.join("lock")).ok().map(|lock| lock.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_as_it_was_asked() {
        let home = tempfile::tempdir().unwrap();
        open(home.path()).unwrap();
        let wishes = [
            Request { which: None, wanted: Wanted::Retry },
            Request { which: Some(Id::new(1, 2)), wanted: Wanted::Retry },
            Request { which: Some(Id::new(1, 2)), wanted: Wanted::Drop },
        ];
        for wish in wishes {
            let file = wish.ask(home.path()).unwrap();
            assert_eq!(read(home.path()).unwrap(), [wish]);
            wish.is_done(home.path()).unwrap();
            assert!(!file.exists());
        }
        for name in ["all.drop", "x.retry", "0000000000000000x", ".retry"] {
            assert_eq!(Request::parse(name), None, "{name}");
        }
    }

    #[test]
    fn only_one_has_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let first = lock(home.path()).unwrap();
        assert!(first.is_some());
        assert!(lock(home.path()).unwrap().is_none());
        drop(first);
        assert!(lock(home.path()).unwrap().is_some());
    }
}

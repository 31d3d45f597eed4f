//! Takes an opt-out out of every list that may be edited. Never touches another entry. Blocks on the disk.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::edit::{can_be_cut, end, remove};
use super::entry::Subject;
use crate::disk::EditError;
use crate::mail::PlusTags;

/// What came of it.
#[derive(Debug, Default)]
pub struct Struck {
    /// The lists from which it was taken.
    pub removed: Vec<PathBuf>,
    /// It was learned, and is ended: taken out, it would be learned from the same notice again.
    pub ended: bool,
}

impl Struck {
    /// It stood in a list that could be edited.
    pub fn was_there(&self) -> bool {
        self.ended || !self.removed.is_empty()
    }
}

/// Takes it out of those of `lists` that are `.toml` or `.csv` files, and ends it in the list of what was learned.
pub fn strike(
    lists: &[PathBuf],
    learned: Option<&Path>,
    subject: &Subject,
    tags: PlusTags,
    now: Timestamp,
) -> Result<Struck, EditError> {
    let mut struck = Struck::default();
    if let Some(learned) = learned {
        struck.ended = end(learned, subject, tags, now)? > 0;
    }
    for path in lists.iter().filter(|path| can_be_cut(path)) {
        if remove(path, subject, tags)? > 0 {
            struck.removed.push(path.clone());
        }
    }
    Ok(struck)
}

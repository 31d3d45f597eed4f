//! Files that are followed while the relay runs: whether they have changed, and are still again. Never reads what is in
//! them.
//!
//! They are looked at and nothing else. A few `stat` calls every 150 ms cost nothing that can be measured, are the same on
//! local disks and network mounts, and do not care whether an editor writes, renames or replaces.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A change counts once the files have looked the same for two looks: an editor may still be writing.
pub const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Looks for which a file that became smaller must stay the same: more likely its writer has not finished.
const SMALLER: usize = 4;

/// What tells one state of a file from another: inode, size, change and modification times in nanoseconds.
pub type Stamp = Option<(u64, u64, (i64, i64), (i64, i64))>;

/// The files, and how they were when they were last dealt with.
#[derive(Clone, Debug)]
pub struct Followed {
    paths: Arc<[PathBuf]>,
    dealt_with: Vec<Stamp>,
    before: Vec<Stamp>,
    still: usize,
    asked: bool,
}

impl Followed {
    /// Takes them as they are now. Begin before they are first read: then no change since is missed. Blocks on the disk.
    pub fn begin(paths: &[PathBuf]) -> Self {
        let stamps = look(paths);
        Self { paths: paths.into(), dealt_with: stamps.clone(), before: stamps, still: 0, asked: false }
    }

    /// For [`look`].
    pub fn paths(&self) -> Arc<[PathBuf]> {
        self.paths.clone()
    }

    /// They are to be read again, changed or not, as soon as they are still.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Whether they are to be read again, by what was seen just now. Whatever comes of it, this state of the files counts as
    /// dealt with: one line in the log, not one a look.
    pub fn is_due(&mut self, seen: Vec<Stamp>) -> bool {
        self.still = if seen == self.before { self.still + 1 } else { 0 };
        self.before.clone_from(&seen);
        let enough = if self.is_smaller(&seen) { SMALLER } else { 1 };
        let due = self.still >= enough && (self.asked || seen != self.dealt_with);
        if due {
            self.asked = false;
            self.dealt_with = seen;
        }
        due
    }

    /// Some file is there no more, or has lost bytes.
    fn is_smaller(&self, seen: &[Stamp]) -> bool {
        let size = |stamp: &Stamp| stamp.map_or(0, |(_, size, ..)| size);
        seen.iter().zip(&self.dealt_with).any(|(seen, dealt_with)| size(seen) < size(dealt_with))
    }
}

/// How the files are now. Blocks on the disk.
pub fn look(paths: &[PathBuf]) -> Vec<Stamp> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), (meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec())))
}

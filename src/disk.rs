//! What several rooms ask of a disk.

mod counted;
mod document;
mod draft;
mod followed;
mod replaced;

use std::fs::File;
use std::io;
use std::path::Path;

pub use counted::Counted;
pub use document::{EditError, append, changed, cut, cut_tables, edit};
pub use draft::Draft;
pub use followed::{Followed, LOOK_EVERY, look};
pub use replaced::{is_replaceable, locked};

/// Has the folders above `path` on disk: one that its own folder does not know is gone with all that is in it, should the
/// machine lose power. Some of them belong to others, and are there anyway.
pub fn sync_above(path: &Path) -> io::Result<()> {
    for above in std::path::absolute(path)?.ancestors().skip(1) {
        let _ = File::open(above).and_then(|above| above.sync_all());
    }
    Ok(())
}

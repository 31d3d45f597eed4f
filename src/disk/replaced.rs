//! A file that is replaced whole, or not at all: never half written, never the change of another hand undone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::Path;

/// The file, locked, and still the one of that name: whoever held the lock before has replaced it. Waits for that one.
pub fn locked(path: &Path) -> io::Result<File> {
    loop {
        let file = File::open(path)?;
        file.lock()?;
        if fs::metadata(path)?.ino() == file.metadata()?.ino() {
            return Ok(file);
        }
    }
}

/// Whether we may replace it: its folder can be written, and so can the file, for what its owner has made read-only is meant so.
pub fn is_replaceable(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    let may_write = |path: &Path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok();
    may_write(&real) && real.parent().is_some_and(may_write)
}

/// Whole or not at all, with the owner and the rights of `old`, which it replaces.
pub fn replace(path: &Path, old: &File, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_beside(&temporary, old, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.and_then(|()| File::open(folder)?.sync_all())
}

fn write_beside(temporary: &Path, old: &File, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(temporary)?;
    given_like(&file, &old.metadata()?)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives a file the owner and the rights of another one.
pub fn given_like(file: &File, model: &fs::Metadata) -> io::Result<()> {
    file.set_permissions(model.permissions())?;
    let own = file.metadata()?;
    if own.uid() != model.uid() || own.gid() != model.gid() {
        // Without the right to give a file away it stays ours; whoever read it by its group, as the relay does, still can.
        let _ = fchown(file, Some(model.uid()), Some(model.gid())).or_else(|_| fchown(file, None, Some(model.gid())));
    }
    Ok(())
}

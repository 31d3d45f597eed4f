//! The files of the spool: written under another name, synced, renamed, their folder synced. Blocks, so it is called
//! where blocking is allowed. Never follows a link, never leaves half a file under its name.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, IoSlice, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::OFlags;

use crate::mail::{Pages, WORTHWHILE};

/// A folder that is ours alone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Open as long as the spool is, for syncing.
    handle: File,
    syncs: Mutex<Syncs>,
    synced: Condvar,
}

/// Whoever wants the folder on disk waits for a sync that began after it came.
#[derive(Debug, Default)]
struct Syncs {
    begun: u64,
    ended: u64,
    /// The last one that failed, and how.
    failed: Option<(u64, io::ErrorKind)>,
}

impl Folder {
    /// Makes the folder if it is not there, for the owner only.
    pub fn open(path: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if handle.metadata()?.permissions().mode() & 0o077 != 0 {
            handle.set_permissions(Permissions::from_mode(0o700))?;
        }
        Ok(Self { path: path.to_owned(), handle, syncs: Mutex::default(), synced: Condvar::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new file under its own name, on disk but for its entry in the folder.
    pub fn create(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let path = self.path.join(name);
        let mut file = options().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = write_all(&mut file, parts).and_then(|()| file.sync_data());
        if written.is_err() {
            // What is left of it has no record, and is swept away at the next start.
            let _ = std::fs::remove_file(&path);
        }
        written
    }

    /// A byte into a file that may be there already; nothing is synced.
    pub fn probe(&self, name: &str) -> io::Result<()> {
        options().write(true).create(true).truncate(true).mode(0o600).open(self.path.join(name))?.write_all(b"?")
    }

    /// The whole content of `name` is replaced at once; the folder is not synced.
    pub fn replace(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let temporary = format!("{name}{TEMPORARY}");
        match self.create(&temporary, parts) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left over from an attempt that failed.
                self.remove_if_there(&temporary)?;
                self.create(&temporary, parts)?;
            }
            created => created?,
        }
        let renamed = self.rename(&temporary, name);
        if renamed.is_err() {
            let _ = self.remove_if_there(&temporary);
        }
        renamed
    }

    /// Gives a file another name; the folder is not synced.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    /// A plain file's content, if it is no longer than `cap` bytes.
    pub fn read(&self, name: &str, cap: u64) -> io::Result<Bytes> {
        let mut file = options().read(true).open(self.path.join(name))?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > cap {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a plain file of a sound size"));
        }
        let size = meta.len() as usize;
        if size >= WORTHWHILE {
            let mut content = Pages::with_room(size)?;
            file.read_exact(content.space(size))?;
            content.filled(size);
            return Ok(content.freeze());
        }
        let mut content = Vec::with_capacity(size);
        file.read_to_end(&mut content)?;
        Ok(content.into())
    }

    /// No error where it is gone already.
    pub fn remove_if_there(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Moves a file into a folder within, under the same name, and has that on disk.
    pub fn move_into(&self, within: &str, name: &str) -> io::Result<()> {
        let folder = Self::open(&self.path.join(within))?;
        std::fs::rename(self.path.join(name), folder.path.join(name))?;
        folder.sync().and_then(|()| self.sync())
    }

    /// Returns when all that was made, renamed or removed before is on disk. One sync serves all who wait for it.
    pub fn sync(&self) -> io::Result<()> {
        let lock = || self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut syncs = lock();
        // A sync that is under way may have begun before our change.
        let mine = syncs.begun + 1;
        loop {
            if syncs.ended >= mine {
                return syncs.failed.filter(|(which, _)| *which >= mine).map_or(Ok(()), |(_, kind)| Err(kind.into()));
            }
            if syncs.begun == syncs.ended {
                syncs.begun += 1;
                drop(syncs);
                let result = self.handle.sync_all();
                let mut syncs = lock();
                syncs.ended = syncs.begun;
                if let Err(error) = &result {
                    syncs.failed = Some((syncs.ended, error.kind()));
                }
                self.synced.notify_all();
                return result;
            }
            syncs = self.synced.wait(syncs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Bytes that may still be written here.
    pub fn free(&self) -> io::Result<u64> {
        let found = rustix::fs::fstatvfs(&self.handle)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

/// The ending of a file that is not whole yet.
pub const TEMPORARY: &str = ".tmp";

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits() as i32);
    options
}

fn write_all(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Folder) {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(&home.path().join("a/spool")).unwrap();
        (home, folder)
    }

    #[test]
    fn it_is_the_owners_alone() {
        let (home, folder) = folder();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(folder.path()), 0o700);
        folder.create("x", &[b"a", b"", b"b"]).unwrap();
        assert_eq!((mode(&folder.path().join("x")), folder.read("x", 2).unwrap()), (0o600, Bytes::from("ab")));
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Folder::open(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
        std::os::unix::fs::symlink(folder.path(), home.path().join("link")).unwrap();
        assert!(Folder::open(&home.path().join("link")).is_err());
    }

    #[test]
    fn no_link_is_followed_and_no_file_overwritten() {
        let (home, folder) = folder();
        std::fs::write(home.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(home.path().join("secret"), folder.path().join("l")).unwrap();
        assert!(folder.read("l", 10).is_err());
        assert!(folder.create("l", &[b"x"]).is_err());
        folder.replace("l", &[b"new"]).unwrap();
        assert_eq!(folder.read("l", 10).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(home.path().join("secret")).unwrap(), "s");
        assert!(folder.read("l", 2).is_err());
        assert!(folder.create("l", &[b"x"]).is_err());
    }

    #[test]
    fn many_who_want_a_sync_share_it() {
        let (_home, folder) = folder();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..50).for_each(|_| folder.sync().unwrap()));
            }
        });
        let syncs = folder.syncs.lock().unwrap();
        assert_eq!(syncs.begun, syncs.ended);
        assert!((50..=400).contains(&syncs.ended), "{syncs:?}");
    }
}

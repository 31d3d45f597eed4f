//! A file that grows beside the one that it is to replace: in its place whole, or never. Blocks on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::replaced::{given_like, locked};

/// Dropped without [`Draft::put`] it is taken away, and nothing has changed. A process that dies leaves it behind, for the next
/// one to take over.
#[derive(Debug)]
pub struct Draft {
    place: PathBuf,
    path: PathBuf,
    file: File,
    /// The file that it is to replace as it was found; `None`: it was not there.
    found: Option<(u64, u64, SystemTime)>,
    is_put: bool,
}

impl Draft {
    /// Begins one for `path`, empty. Waits for whoever is at it already.
    pub fn of(path: &Path) -> io::Result<Self> {
        let place = fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
        // A pipe would never end, and a device would be replaced by a file.
        if fs::metadata(&place).is_ok_and(|meta| !meta.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = place.with_file_name(format!(".{name}.new"));
        loop {
            // Not open to others before it has the rights of the file that it replaces.
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            file.lock()?;
            // Whoever held the lock before may have put it in its place: it is the file itself now.
            if fs::metadata(&path).is_ok_and(|meta| meta.ino() == file.metadata().map_or(0, |meta| meta.ino())) {
                file.set_len(0)?;
                let found = found(&place)?;
                return Ok(Self { place, path, file, found, is_put: false });
            }
        }
    }

    /// What the file that it replaces holds; `None`: it is not there.
    pub fn former(&self) -> io::Result<Option<File>> {
        self.found.map(|_| File::open(&self.place)).transpose()
    }

    /// Puts it in its place, on disk, with the owner and the rights of the file that it replaces, or else of `like`.
    ///
    /// An error of the kind `ResourceBusy` tells that somebody has changed that file meanwhile.
    pub fn put(mut self, like: Option<&Path>) -> io::Result<()> {
        let former = self.found.map(|_| locked(&self.place)).transpose()?;
        if found(&self.place)? != self.found {
            return Err(io::Error::from(io::ErrorKind::ResourceBusy));
        }
        if let Some(model) = former.as_ref().map(File::metadata).or_else(|| like.map(fs::metadata)).transpose()? {
            given_like(&self.file, &model)?;
        }
        self.file.sync_all()?;
        fs::rename(&self.path, &self.place)?;
        self.is_put = true;
        File::open(self.place.parent().unwrap_or(Path::new("/")))?.sync_all()
    }
}

fn found(path: &Path) -> io::Result<Option<(u64, u64, SystemTime)>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some((meta.ino(), meta.len(), meta.modified()?))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_put {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_takes_the_place_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.csv");
        let files = || fs::read_dir(folder.path()).unwrap().count();
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();

        let mut draft = Draft::of(&path).unwrap();
        draft.write_all(b"new").unwrap();
        drop(draft);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files()), ("old\n", 1));

        // Left behind by a process that died.
        fs::write(folder.path().join(".l.csv.new"), "of another, and longer").unwrap();
        let mut draft = Draft::of(&path).unwrap();
        assert_eq!(io::read_to_string(draft.former().unwrap().unwrap()).unwrap(), "old\n");
        draft.write_all(b"new\n").unwrap();
        draft.put(None).unwrap();
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files()), ("new\n", 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);

        let draft = Draft::of(&path).unwrap();
        fs::write(&path, "by hand\n").unwrap();
        assert_eq!(draft.put(None).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), files()), ("by hand\n", 1));

        let mut draft = Draft::of(&folder.path().join("other.csv")).unwrap();
        assert!(draft.former().unwrap().is_none());
        draft.write_all(b"x").unwrap();
        draft.put(Some(&path)).unwrap();
        assert_eq!(fs::metadata(folder.path().join("other.csv")).unwrap().mode() & 0o777, 0o640);
    }
}

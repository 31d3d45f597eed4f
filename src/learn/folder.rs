//! Notices as files: a folder of `.eml` files, a Maildir, or both in one. Never deletes a file, never looks into one twice.
//!
//! The folder is looked at, not watched by the system: the same on every disk and every mount. An `.eml` file counts once it
//! looks the same for two looks, for its writer may not be done; what lies in a Maildir was moved there whole.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Intake, Learned, Learner, NotLearned};

/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// After trouble.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// No notice is larger; in bytes.
const MAX_SIZE: u64 = 10 << 20;

/// Files that are learned from at once: they are written down together.
const AT_ONCE: usize = 128;

/// Where `.eml` files go when something was learned from them, and when nothing was.
const DONE: [&str; 2] = ["learned", "nothing"];

/// The folder, and what is known of what lies in it.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Size and time of modification of files that may not be whole yet.
    fresh: HashMap<PathBuf, (u64, i64, i64)>,
    /// Files of the Maildir from which nothing was learned: they stay where they are.
    passed: HashSet<PathBuf>,
}

/// One file to be learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum File {
    Eml(PathBuf),
    Mail(PathBuf),
}

/// Learns from what is put into the folder, until `stop`.
pub async fn watch(learner: Learner, path: PathBuf, stop: CancellationToken) {
    let mut folder = Folder { path, fresh: HashMap::new(), passed: HashSet::new() };
    let (mut trouble, mut wait) = (false, LOOK_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = LOOK_EVERY;
        let looked = spawn_blocking(move || {
            let found = folder.look();
            (folder, found)
        });
        let found;
        (folder, found) = match looked.await {
            Ok(looked) => looked,
            Err(_) => return tracing::error!("`learn.folder` is looked at no more: the reader failed"),
        };
        match found {
            Ok(files) => {
                trouble = false;
                if !learn_from(&learner, &mut folder, files, &stop).await {
                    wait = LOOK_AGAIN;
                }
            }
            Err(error) => {
                // Once, not at every look.
                if !std::mem::replace(&mut trouble, true) {
                    let path = folder.path.display();
                    tracing::error!(
                        "look into {path}: {error}\nhint: `learn.folder` must be a folder that the relay's user may read and write"
                    );
                }
                wait = LOOK_AGAIN;
            }
        }
    }
}

/// False where some must be tried again later.
async fn learn_from(learner: &Learner, folder: &mut Folder, files: Vec<File>, stop: &CancellationToken) -> bool {
    let (mut files, mut under_way, mut all) = (files.into_iter(), JoinSet::new(), true);
    loop {
        while under_way.len() < AT_ONCE
            && !stop.is_cancelled()
            && let Some(file) = files.next()
        {
            let (learner, base) = (learner.clone(), folder.path.clone());
            under_way.spawn(async move { (file.clone(), one(&learner, base, file).await) });
        }
        match under_way.join_next().await {
            None => return all,
            Some(Ok((File::Mail(path), Ok(false)))) => drop(folder.passed.insert(path)),
            Some(Ok((_, Ok(_)))) => {}
            Some(Ok((_, Err(NotLearned))) | Err(_)) => all = false,
        }
    }
}

/// Whether something was learned from the file. It has then been moved.
async fn one(learner: &Learner, base: PathBuf, file: File) -> Result<bool, NotLearned> {
    let path = file.path().to_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = match spawn_blocking(move || read(&path)).await.map_err(|_| NotLearned)? {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            tracing::warn!(file = name, "nothing learned: the file is larger than any notice, or is no file");
            Vec::new()
        }
        // It is gone: another one has it, or somebody took it away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => {
            tracing::error!(file = name, "read a notice: {error}\nhint: let the relay's user read what is in `learn.folder`");
            return Err(NotLearned);
        }
    };
    let learned = learner.learn(&bytes, Intake::Folder).await?;
    tell(&name, &learned);
    let is_something = learned.is_something();
    let moved = spawn_blocking(move || file.put_away(&base, is_something)).await.map_err(|_| NotLearned)?;
    moved.map_err(|error| {
        tracing::error!(file = name, "put a notice away: {error}\nhint: let the relay's user write in `learn.folder`");
        NotLearned
    })?;
    Ok(is_something)
}

fn tell(file: &str, learned: &Learned) {
    let file = crate::mail::clean(file, 200);
    for settled in &learned.0 {
        tracing::info!(file, "{}", crate::mail::clean(&settled.to_string(), 400));
    }
}

impl Folder {
    /// What is to be learned from. Blocks on the disk.
    fn look(&mut self) -> io::Result<Vec<File>> {
        let (mut found, mut fresh) = (Vec::new(), HashMap::new());
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let is_mail = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("eml"));
            let Some(meta) = fs::symlink_metadata(&path).ok().filter(|meta| is_mail && meta.is_file()) else { continue };
            let state = (meta.len(), meta.mtime(), meta.mtime_nsec());
            if self.fresh.get(&path) == Some(&state) {
                found.push(File::Eml(path));
            } else {
                fresh.insert(path, state);
            }
        }
        self.fresh = fresh;
        for (part, is_new) in [("new", true), ("cur", false)] {
            let Ok(entries) = fs::read_dir(self.path.join(part)) else { continue };
            let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
            found.extend(paths.filter(|path| (is_new || !is_seen(path)) && !self.passed.contains(path)).map(File::Mail));
        }
        Ok(found)
    }
}

impl File {
    fn path(&self) -> &Path {
        let (Self::Eml(path) | Self::Mail(path)) = self;
        path
    }

    /// An `.eml` file goes into a folder of its own; a mail of a Maildir that something was learned from is marked as seen, and
    /// others stay as they are.
    fn put_away(&self, base: &Path, is_something: bool) -> io::Result<()> {
        let (to, from) = match self {
            Self::Mail(_) if !is_something => return Ok(()),
            Self::Mail(path) => (base.join("cur").join(seen(path)), path),
            Self::Eml(path) => {
                let folder = base.join(if is_something { DONE[0] } else { DONE[1] });
                fs::create_dir_all(&folder)?;
                (free_name(&folder, path), path)
            }
        };
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// `None` where it is no file, or too large.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_file() || meta.len() > MAX_SIZE {
        return Ok(None);
    }
    fs::read(path).map(Some)
}

/// Flags of a file in a Maildir stand behind `:2,`.
fn flags(path: &Path) -> Option<(&str, &str)> {
    path.file_name()?.to_str()?.split_once(":2,")
}

fn is_seen(path: &Path) -> bool {
    flags(path).is_some_and(|(_, flags)| flags.contains('S'))
}

/// The name with the flag S, in the order of the alphabet.
fn seen(path: &Path) -> String {
    let (name, flags) = match flags(path) {
        Some((name, flags)) => (name.to_owned(), flags),
        None => (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), ""),
    };
    let mut flags: Vec<_> = flags.chars().chain(['S']).collect();
    flags.sort_unstable();
    flags.dedup();
    format!("{name}:2,{}", String::from_iter(flags))
}

/// Nothing that lies there is replaced.
fn free_name(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let names = (1..).map(|number| if number == 1 { name.clone().into_owned() } else { format!("{number}-{name}") });
    names.map(|name| folder.join(name)).find(|path| !path.exists()).unwrap_or_else(|| folder.join(&*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seen_mail_keeps_its_other_flags() {
        for (before, after) in [("1.x:2,", "1.x:2,S"), ("1.x:2,FRT", "1.x:2,FRST"), ("1.x", "1.x:2,S"), ("1.x:2,S", "1.x:2,S")] {
            assert_eq!(seen(Path::new(before)), after);
        }
        assert!(is_seen(Path::new("cur/1.x:2,FS")) && !is_seen(Path::new("new/1.S")));
    }

    #[test]
    fn a_file_counts_when_it_is_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.eml");
        let mut looked = Folder { path: folder.path().to_owned(), fresh: HashMap::new(), passed: HashSet::new() };
        fs::write(&path, "a").unwrap();
        fs::write(folder.path().join("b.txt"), "b").unwrap();
        assert_eq!(looked.look().unwrap(), []);
        fs::write(&path, "ab").unwrap();
        assert_eq!(looked.look().unwrap(), []);
        assert_eq!(looked.look().unwrap(), [File::Eml(path)]);
    }
}

//! One log of lines: a proof, on disk before anybody is answered, or a tale, for which nobody waits; rotated, begun anew when it
//! was moved away. Never decides what is written.
//!
//! One writer owns the file. Whoever waits for the disk waits together: all lines that come in during one `fdatasync`
//! are written and synced by the next. Rotation is our own because no crate of the kind syncs what it writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::disk::sync_above;

/// When a new file is begun and how many old ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes.
    pub size: u64,
    /// Age of the file.
    pub age: Duration,
    /// Old files kept; 0 keeps all.
    pub keep: usize,
}

/// The line is not on disk; nothing that depends on it may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be written")]
pub struct NotWritten;

/// The way to a log that is on disk before anybody is told; cheap to clone. The writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Proof(mpsc::Sender<Order>);

#[derive(Debug)]
enum Order {
    Write(Vec<u8>, oneshot::Sender<Result<(), NotWritten>>),
    Reopen,
}

/// Orders that may wait for the writer. More senders wait in line.
const WAITING: usize = 1024;

impl Proof {
    /// Opens `folder/name.jsonl` and starts the writer; await its handle after the last [`Proof`] is dropped.
    pub fn open(folder: &Path, name: &'static str, rotation: Rotation) -> io::Result<(Self, JoinHandle<()>)> {
        let mut writer = Writer { folder: folder.to_owned(), name, rotation, file: None };
        writer.file()?;
        let (orders, inbox) = mpsc::channel(WAITING);
        Ok((Self(orders), tokio::task::spawn_blocking(move || writer.prove(inbox))))
    }

    /// Returns when the lines are on disk.
    pub async fn write(&self, lines: Vec<u8>) -> Result<(), NotWritten> {
        if lines.is_empty() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        self.0.send(Order::Write(lines, done)).await.map_err(|_| NotWritten)?;
        written.await.map_err(|_| NotWritten)?
    }

    /// Closes the file and opens it by name again (SIGHUP), for whoever moved it away.
    pub async fn reopen(&self) {
        // A writer that is gone has nothing to reopen.
        let _ = self.0.send(Order::Reopen).await;
    }
}

/// The way to a log for which nobody waits; cheap to clone. The writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Tale(Arc<Teller>);

#[derive(Debug)]
struct Teller(Arc<Told>);

/// What is to be written next. One buffer for all: lines that went from thread to thread one by one cost more than they say.
#[derive(Debug, Default)]
struct Told {
    next: Mutex<Next>,
    something: Condvar,
    room: Notify,
}

#[derive(Debug, Default)]
struct Next {
    lines: Vec<u8>,
    reopen: bool,
    over: bool,
}

/// Lines are gathered for so long: a system call for each would cost more than the line.
const GATHER: Duration = Duration::from_millis(50);

/// Whoever comes when so much is to be written waits; in bytes.
const MUCH: usize = 8 << 20;

impl Tale {
    /// Opens `folder/name.jsonl` and starts the writer; await its handle after the last [`Tale`] is dropped.
    pub fn open(folder: &Path, name: &'static str, rotation: Rotation) -> io::Result<(Self, JoinHandle<()>)> {
        let mut writer = Writer { folder: folder.to_owned(), name, rotation, file: None };
        writer.file()?;
        let told: Arc<Told> = Arc::default();
        let tale = Self(Arc::new(Teller(told.clone())));
        Ok((tale, tokio::task::spawn_blocking(move || writer.tell(&told))))
    }

    /// Has something appended; returns when the writer has it.
    pub async fn add(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let told = &self.0.0;
        loop {
            let room = told.room.notified();
            if told.next().lines.len() < MUCH {
                break;
            }
            room.await;
        }
        let mut next = told.next();
        let was_empty = next.lines.is_empty();
        append(&mut next.lines);
        drop(next);
        if was_empty {
            told.something.notify_one();
        }
    }

    /// Closes the file and opens it by name again (SIGHUP), for whoever moved it away.
    pub fn reopen(&self) {
        self.0.0.next().reopen = true;
        self.0.0.something.notify_one();
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.0.next().over = true;
        self.0.something.notify_one();
    }
}

impl Told {
    fn next(&self) -> MutexGuard<'_, Next> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do, and gathers what comes meanwhile.
    fn gathered(&self, lines: &mut Vec<u8>) -> Next {
        let idle = |next: &mut Next| next.lines.is_empty() && !next.reopen && !next.over;
        let waited = self.something.wait_while(self.next(), idle).unwrap_or_else(PoisonError::into_inner);
        let hurry = waited.over || waited.reopen;
        drop(waited);
        if !hurry {
            std::thread::sleep(GATHER);
        }
        let mut next = self.next();
        let (reopen, over) = (std::mem::take(&mut next.reopen), next.over);
        // The other buffer, with its room.
        let gathered = Next { lines: std::mem::replace(&mut next.lines, std::mem::take(lines)), reopen, over };
        drop(next);
        self.room.notify_waiters();
        gathered
    }
}

struct Writer {
    folder: PathBuf,
    name: &'static str,
    rotation: Rotation,
    file: Option<Open>,
}

struct Open {
    file: File,
    length: u64,
    born: SystemTime,
}

impl Writer {
    fn prove(mut self, mut inbox: mpsc::Receiver<Order>) {
        let (mut lines, mut waiting) = (Vec::new(), Vec::new());
        while let Some(order) = inbox.blocking_recv() {
            let mut next = Some(order);
            while let Some(order) = next {
                match order {
                    Order::Write(more, done) => {
                        lines.extend_from_slice(&more);
                        waiting.push(done);
                    }
                    Order::Reopen => self.file = None,
                }
                next = inbox.try_recv().ok();
            }
            let result = self.write(&lines, |file| file.sync_data());
            if let Err(error) = &result {
                self.refused(error, "until then opted-out recipients get 451");
            }
            for done in waiting.drain(..) {
                // Whoever asked may have hung up; the line stays.
                let _ = done.send(result.as_ref().map_err(|_| NotWritten).copied());
            }
            lines.clear();
        }
    }

    fn tell(mut self, told: &Told) {
        let mut lines = Vec::new();
        loop {
            let next = told.gathered(&mut lines);
            if next.reopen {
                self.file = None;
            }
            if let Err(error) = self.write(&next.lines, |_| Ok(())) {
                self.refused(&error, "mail goes on, and its lines are lost until then");
            }
            if next.over {
                // Nobody waits for it, but nothing is left to do.
                let _ = self.file.map(|open| open.file.sync_data());
                return;
            }
            lines = next.lines;
            lines.clear();
        }
    }

    fn refused(&self, error: &io::Error, meanwhile: &str) {
        tracing::error!("write {}: {error}\nhint: free space or mend the folder; {meanwhile}", self.path().display());
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl", self.name))
    }

    fn write(&mut self, lines: &[u8], settle: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        self.leave_deleted()?;
        self.rotate_if_due()?;
        let open = self.file()?;
        let result = open.file.write_all(lines).and_then(|()| settle(&open.file));
        if result.is_ok() {
            open.length += lines.len() as u64;
        } else {
            // Nobody is told that these lines exist: take them back as far as the disk allows, and open anew.
            let _ = open.file.set_len(open.length);
            self.file = None;
        }
        result
    }

    fn file(&mut self) -> io::Result<&mut Open> {
        match self.file {
            Some(ref mut open) => Ok(open),
            None => {
                std::fs::create_dir_all(&self.folder)?;
                let open = Open::at(&self.path())?;
                File::open(&self.folder)?.sync_all()?;
                sync_above(&self.folder)?;
                Ok(self.file.insert(open))
            }
        }
    }

    /// A file that somebody deleted proves nothing to anybody: a new one is begun.
    fn leave_deleted(&mut self) -> io::Result<()> {
        if self.file()?.file.metadata()?.nlink() == 0 {
            tracing::warn!("{} was deleted; a new one is begun", self.path().display());
            self.file = None;
        }
        Ok(())
    }

    fn rotate_if_due(&mut self) -> io::Result<()> {
        let Rotation { size, age, .. } = self.rotation;
        let open = self.file()?;
        let old = open.born.elapsed().is_ok_and(|elapsed| elapsed > age);
        if open.length == 0 || (open.length < size && !old) {
            return Ok(());
        }
        open.file.sync_data()?;
        self.file = None;
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ").to_string();
        std::fs::rename(self.path(), self.folder.join(format!("{}-{stamp}.jsonl", self.name)))?;
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> io::Result<()> {
        if self.rotation.keep == 0 {
            return Ok(());
        }
        let mut old: Vec<_> = std::fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&format!("{}-", self.name)) && name.ends_with(".jsonl"))
            .collect();
        old.sort_unstable();
        let surplus = old.len().saturating_sub(self.rotation.keep);
        old.iter().take(surplus).try_for_each(|name| std::fs::remove_file(self.folder.join(name)))
    }
}

impl Open {
    /// A half-written last line belongs to nobody, for its writer died before it answered: it is cut.
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let meta = file.metadata()?;
        let length = whole_lines(&mut file, meta.len())?;
        if length < meta.len() {
            tracing::warn!("{} ended in a half-written line, which was cut", path.display());
            file.set_len(length)?;
        }
        Ok(Self { file, length, born: meta.created().or_else(|_| meta.modified())? })
    }
}

/// Bytes up to and with the last line end, sought from behind.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let (mut end, mut piece) = (length, Vec::new());
    while end > 0 {
        let from = end.saturating_sub(1 << 16);
        piece.clear();
        file.seek(SeekFrom::Start(from))?;
        file.take(end - from).read_to_end(&mut piece)?;
        if let Some(at) = memchr::memrchr(b'\n', &piece) {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

//! One log of lines: written and, where it is a proof, on disk before anybody is answered; rotated, begun anew when it was moved
//! away. Never decides what is written.
//!
//! One writer owns the file. Whoever waits for the disk waits together: all lines that come in during one `fdatasync`
//! are written and synced by the next. Rotation is our own because no crate of the kind syncs what it writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
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

/// How a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once, and on disk before anybody is told.
    Synced,
    /// Whatever came in within a moment, in one write.
    Gathered,
}

/// The way to the writer; cheap to clone. The writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Lines(mpsc::Sender<Order>);

#[derive(Debug)]
enum Order {
    Write(Vec<u8>, oneshot::Sender<Result<(), NotWritten>>),
    Add(Vec<u8>),
    Reopen,
}

/// Orders that may wait for the writer. More senders wait in line.
const WAITING: usize = 4096;

/// Lines for which nobody waits are gathered for so long: a system call for each would cost more than the line.
const GATHER: Duration = Duration::from_millis(50);

impl Lines {
    /// Opens `folder/name.jsonl` and starts the writer; await its handle after the last [`Lines`] is dropped.
    pub fn open(folder: &Path, name: &'static str, rotation: Rotation, pace: Pace) -> io::Result<(Self, JoinHandle<()>)> {
        let mut writer = Writer { folder: folder.to_owned(), name, rotation, pace, file: None };
        writer.file()?;
        let (orders, inbox) = mpsc::channel(WAITING);
        Ok((Self(orders), tokio::task::spawn_blocking(move || writer.run(inbox))))
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

    /// Returns when the writer has them.
    pub async fn add(&self, lines: Vec<u8>) {
        if !lines.is_empty() {
            // A writer that is gone has said so.
            let _ = self.0.send(Order::Add(lines)).await;
        }
    }

    /// Closes the file and opens it by name again (SIGHUP), for whoever moved it away.
    pub async fn reopen(&self) {
        // A writer that is gone has nothing to reopen.
        let _ = self.0.send(Order::Reopen).await;
    }
}

struct Writer {
    folder: PathBuf,
    name: &'static str,
    rotation: Rotation,
    pace: Pace,
    file: Option<Open>,
}

struct Open {
    file: File,
    length: u64,
    born: SystemTime,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let (mut lines, mut waiting) = (Vec::new(), Vec::new());
        while let Some(order) = inbox.blocking_recv() {
            if self.pace == Pace::Gathered && !inbox.is_closed() {
                std::thread::sleep(GATHER);
            }
            let mut next = Some(order);
            while let Some(order) = next {
                match order {
                    Order::Write(more, done) => {
                        lines.extend_from_slice(&more);
                        waiting.push(done);
                    }
                    Order::Add(more) => lines.extend_from_slice(&more),
                    Order::Reopen => self.file = None,
                }
                next = inbox.try_recv().ok();
            }
            let result = self.write(&lines);
            if let Err(error) = &result {
                let meanwhile = match self.pace {
                    Pace::Synced => "until then opted-out recipients get 451",
                    Pace::Gathered => "mail goes on, and its lines are lost until then",
                };
                tracing::error!("write {}: {error}\nhint: free space or mend the folder; {meanwhile}", self.path().display());
            }
            for done in waiting.drain(..) {
                // Whoever asked may have hung up; the line stays.
                let _ = done.send(result.as_ref().map_err(|_| NotWritten).copied());
            }
            lines.clear();
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl", self.name))
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.leave_deleted()?;
        self.rotate_if_due()?;
        let pace = self.pace;
        let open = self.file()?;
        let result = open.file.write_all(lines).and_then(|()| match pace {
            Pace::Synced => open.file.sync_data(),
            Pace::Gathered => Ok(()),
        });
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

//! One log of lines: a proof, on disk before anybody is answered, or a tale, for which nobody waits; rotated, begun anew when it
//! was moved away. Never decides what is written.
//!
//! One writer owns the file. Whoever waits for the disk waits together: all lines that come in during one `fdatasync`
//! are written and synced by the next. Rotation is our own because no crate of the kind syncs what it writes.
//!
//! Beside `name.jsonl` lies `name.head`, number and hash of the newest record: without it nobody could tell that the last
//! lines were cut.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::chain::Link;
use crate::disk::sync_above;
use crate::metrics::{Counter, Metrics};

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
    /// Opens `folder/name.jsonl` and starts the writer; await its handle after the last [`Proof`] is dropped. A log that commands
    /// write as well is `shared`.
    pub fn open(
        folder: &Path,
        name: &'static str,
        rotation: Rotation,
        shared: bool,
        counts: &Metrics,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        let writer = Writer::open(folder, name, rotation, shared)?.counted_by(counts);
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
    pub fn open(folder: &Path, name: &'static str, rotation: Rotation, counts: &Metrics) -> io::Result<(Self, JoinHandle<()>)> {
        let writer = Writer::open(folder, name, rotation, false)?.counted_by(counts);
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

    /// Waits for something to do, no longer than `patience` where one is given, and gathers what comes meanwhile.
    fn gathered(&self, lines: &mut Vec<u8>, patience: Option<Duration>) -> Next {
        let idle = |next: &mut Next| next.lines.is_empty() && !next.reopen && !next.over;
        let waited = match patience {
            Some(patience) => {
                self.something.wait_timeout_while(self.next(), patience, idle).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.something.wait_while(self.next(), idle).unwrap_or_else(PoisonError::into_inner),
        };
        let hurry = waited.over || waited.reopen || waited.lines.is_empty();
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

/// Whoever writes a log.
pub(super) struct Writer {
    folder: PathBuf,
    name: &'static str,
    rotation: Rotation,
    /// Others write it as well, each in its turn.
    shared: bool,
    file: Option<Open>,
    head: File,
    /// The newest record of the chain.
    link: Link,
    /// Lines that are sealed and not yet written; kept for its room.
    sealed: Vec<u8>,
    /// How often it could not be written.
    failures: Counter,
}

/// A tale is on disk after so long.
const SETTLE: Duration = Duration::from_secs(5);

struct Open {
    file: File,
    length: u64,
    born: SystemTime,
    /// Its last record.
    last: Option<Link>,
}

impl Writer {
    /// Opens `folder/name.jsonl`, and takes its chain up where it ended.
    pub(super) fn open(folder: &Path, name: &'static str, rotation: Rotation, shared: bool) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let head = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(head_of(folder, name))?;
        let folder = folder.to_owned();
        let (file, link, sealed) = (None, Link::START, Vec::new());
        let failures = Counter::default();
        let mut writer = Self { folder, name, rotation, shared, file, head, link, sealed, failures };
        let turn = writer.turn()?;
        writer.file()?;
        drop(turn);
        Ok(writer)
    }

    fn counted_by(self, counts: &Metrics) -> Self {
        Self { failures: counts.failures_of(self.name), ..self }
    }

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
            match &result {
                Ok(()) => self.note_head(),
                Err(error) => self.refused(error, "until then opted-out recipients get 451"),
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
        let mut unsettled: Option<Instant> = None;
        loop {
            let patience = unsettled.map(|since| SETTLE.saturating_sub(since.elapsed()));
            let next = told.gathered(&mut lines, patience);
            if next.reopen {
                self.file = None;
            }
            if let Err(error) = self.write(&next.lines, |_| Ok(())) {
                self.refused(&error, "mail goes on, and its lines are lost until then");
            } else if !next.lines.is_empty() {
                unsettled.get_or_insert_with(Instant::now);
            }
            if next.over || unsettled.is_some_and(|since| since.elapsed() >= SETTLE) {
                self.settle();
                unsettled = None;
            }
            if next.over {
                return;
            }
            lines = next.lines;
            lines.clear();
        }
    }

    fn refused(&self, error: &io::Error, meanwhile: &str) {
        self.failures.inc();
        tracing::error!("write {}: {error}\nhint: free space or mend the folder; {meanwhile}", self.path().display());
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl", self.name))
    }

    /// Appends for a command; returns when it is on disk.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.write(lines, |file| file.sync_data())?;
        self.note_head();
        Ok(())
    }

    /// Lines without a seal go out with one.
    fn write(&mut self, lines: &[u8], settle: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let _turn = self.turn()?;
        self.leave_deleted()?;
        self.rotate_if_due()?;
        self.file()?;
        let before = self.link;
        self.sealed.clear();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.link.seal(line.trim_ascii_end(), &mut self.sealed);
        }
        let Some(open) = &mut self.file else { return Ok(()) };
        let result = open.file.write_all(&self.sealed).and_then(|()| settle(&open.file));
        if result.is_ok() {
            open.length += self.sealed.len() as u64;
        } else {
            // Nobody is told that these lines exist: take them back as far as the disk allows, and open anew.
            let _ = open.file.set_len(open.length);
            self.file = None;
            self.link = before;
        }
        result
    }

    /// While it is kept, no command writes. Held for moments only, so nobody waits long.
    fn turn(&self) -> io::Result<Option<Turn>> {
        if !self.shared {
            return Ok(None);
        }
        let head = self.head.try_clone()?;
        rustix::fs::flock(&head, rustix::fs::FlockOperation::LockExclusive)?;
        Ok(Some(Turn(head)))
    }

    /// What was written is on disk, and then the head may say so.
    fn settle(&mut self) {
        match self.file.as_ref().map_or(Ok(()), |open| open.file.sync_data()) {
            Ok(()) => self.note_head(),
            Err(error) => self.refused(&error, "mail goes on"),
        }
    }

    /// Nobody waits for the disk: after a crash the head is behind, never ahead. Always of one length, so that it is written over
    /// where it lies, also on a full disk.
    fn note_head(&self) {
        let (seq, hash) = (self.link.seq, self.link.to_string());
        let hash = hash.split_once(':').map_or("", |(_, hash)| hash);
        if let Err(error) = self.head.write_all_at(format!("{seq:020}:{hash}\n").as_bytes(), 0) {
            tracing::warn!("write {}: {error}", head_of(&self.folder, self.name).display());
        }
    }

    fn file(&mut self) -> io::Result<&mut Open> {
        if self.file.is_none() {
            std::fs::create_dir_all(&self.folder)?;
            let open = Open::at(&self.path())?;
            File::open(&self.folder)?.sync_all()?;
            sync_above(&self.folder)?;
            self.link = self.taken_up(open.last)?;
            self.file = Some(open);
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("no file"))
    }

    /// The newest record that anybody knows of: a chain that went on from an older one would hide that some were cut.
    fn taken_up(&self, last: Option<Link>) -> io::Result<Link> {
        let known = head(&self.folder, self.name)?.into_iter().chain(Some(self.link)).max_by_key(|link| link.seq);
        let known = known.unwrap_or(Link::START);
        let last = match last {
            Some(last) if last.seq < known.seq => {
                tracing::warn!(
                    "{} ends at record {}, and {} were written\nhint: somebody cut it, or the machine died before they were on disk; `optout-relay log verify` will name the place",
                    self.path().display(),
                    last.seq,
                    known.seq
                );
                last
            }
            Some(last) => last,
            None if known == Link::START => self.newest_rotated()?.map_or(Ok(Link::START), |path| last_of(&path))?,
            None => known,
        };
        Ok(if last.seq >= known.seq && last.seq > 0 || known.seq == 0 { last } else { known })
    }

    fn newest_rotated(&self) -> io::Result<Option<PathBuf>> {
        Ok(self.rotated()?.pop().map(|name| self.folder.join(name)))
    }

    /// A file that somebody deleted proves nothing to anybody: a new one is begun. One that somebody else has appended to is
    /// looked at again.
    fn leave_deleted(&mut self) -> io::Result<()> {
        let open = self.file()?;
        let meta = open.file.metadata()?;
        let appended = meta.len() != open.length;
        if meta.nlink() == 0 {
            tracing::warn!("{} was deleted; a new one is begun", self.path().display());
        }
        if meta.nlink() == 0 || (appended && self.shared) {
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
        let old = self.rotated()?;
        let surplus = old.len().saturating_sub(self.rotation.keep);
        old.iter().take(surplus).try_for_each(|name| std::fs::remove_file(self.folder.join(name)))
    }

    /// The files that were rotated away, the oldest first.
    fn rotated(&self) -> io::Result<Vec<String>> {
        let mut old: Vec<_> = std::fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&format!("{}-", self.name)) && name.ends_with(".jsonl"))
            .collect();
        old.sort_unstable();
        Ok(old)
    }
}

/// A writer's turn at a log that is shared.
struct Turn(File);

impl Drop for Turn {
    fn drop(&mut self) {
        // The lock goes with the descriptor, but this one is a copy.
        let _ = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock);
    }
}

fn head_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.head"))
}

/// The newest record as it was noted beside the log; none where nothing was, or nothing that can be read.
pub(super) fn head(folder: &Path, name: &str) -> io::Result<Option<Link>> {
    match std::fs::read_to_string(head_of(folder, name)) {
        Ok(text) => Ok(text.trim_end().parse().ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => Ok(None),
        Err(error) => Err(error),
    }
}

fn last_of(path: &Path) -> io::Result<Link> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let end = whole_lines(&mut file, length)?;
    Ok(last_line(&mut file, end)?.map_or(Link::START, |line| Link::of(&line)))
}

/// The last line with its line end, of a file whose whole lines end there.
fn last_line(file: &mut File, end: u64) -> io::Result<Option<Vec<u8>>> {
    if end == 0 {
        return Ok(None);
    }
    let start = whole_lines(file, end - 1)?;
    let mut line = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut line)?;
    Ok(Some(line))
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
        let last = last_line(&mut file, length)?.map(|line| Link::of(&line));
        Ok(Self { file, length, last, born: meta.created().or_else(|_| meta.modified())? })
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

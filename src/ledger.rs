//! The suppression log: one JSON object a line, on disk before anybody is answered. Never decides, never forgets a
//! line that it promised.
//!
//! One writer owns the file. Whoever waits for the disk waits together: all lines that come in during one `fdatasync`
//! are written and synced by the next. Rotation is our own because no crate of the kind syncs what it writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// One line of the suppression log. The names are public: people script against them.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// What was done.
    pub event: Ending,
    /// `reject`, `drop` or `bounce`.
    pub action: crate::optout::Action,
    /// As written in the envelope, or in the header where `opt_out.headers` is `enforce`.
    pub recipient: String,
    /// Envelope sender, empty for `<>`.
    pub sender: String,
    /// Address of the tool.
    pub client: String,
    /// What the tool called itself.
    pub helo: String,
    /// Message-ID of the mail; null where the recipient was refused before the mail came.
    pub message_id: Option<String>,
    /// Our id of the message.
    pub id: String,
    /// The entry that decided.
    pub rule: EventRule,
    /// The entry's `reason`.
    pub reason: Option<String>,
    /// The entry's `source`.
    pub source: Option<String>,
    /// The entry's `since`.
    pub since: Option<String>,
    /// Which list was in force: the start of a SHA-256 over its files.
    pub list: String,
    /// What the tool had been told about this recipient when the line was written.
    pub reply: String,
}

/// What became of a mail to somebody who has opted out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It did not leave.
    Suppressed,
    /// It was let out, because `opt_out.mode` is `observe`.
    Observed,
    /// It was let out, because its subject holds one of `opt_out.exempt_subjects`.
    Exempted,
}

/// Where the entry that decided stands.
#[derive(Clone, Debug, Serialize)]
pub struct EventRule {
    /// Path of the list.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// `address`, `domain`, `subdomains`, `pattern`, `sha256` or `md5`.
    pub kind: String,
    /// The entry in its comparing form.
    pub value: String,
}

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
#[error("the suppression log cannot be written")]
pub struct NotWritten;

/// The way to the writer; cheap to clone. The writer ends when the last one is gone.
#[derive(Clone, Debug)]
pub struct Ledger(mpsc::Sender<Order>);

enum Order {
    Write(Vec<u8>, oneshot::Sender<Result<(), NotWritten>>),
    Reopen,
}

/// Orders that may wait for the writer. More senders wait in line.
const WAITING: usize = 1024;

impl Ledger {
    /// Opens `folder/suppressed.jsonl` and starts the writer; await its handle after the last [`Ledger`] is dropped.
    pub fn open(folder: &Path, rotation: Rotation) -> io::Result<(Self, JoinHandle<()>)> {
        let mut writer = Writer { folder: folder.to_owned(), rotation, file: None };
        writer.file()?;
        let (orders, inbox) = mpsc::channel(WAITING);
        Ok((Self(orders), tokio::task::spawn_blocking(move || writer.run(inbox))))
    }

    /// Returns when the events are on disk.
    pub async fn record(&self, events: &[Event]) -> Result<(), NotWritten> {
        if events.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(events.len() * 512);
        for event in events {
            serde_json::to_writer(&mut lines, event).map_err(|_| NotWritten)?;
            lines.push(b'\n');
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

struct Writer {
    folder: PathBuf,
    rotation: Rotation,
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
            let result = self.write(&lines);
            if let Err(error) = &result {
                tracing::error!(
                    "write {}: {error}\nhint: free space or mend the folder; until then opted-out recipients get 451",
                    self.path().display()
                );
            }
            for done in waiting.drain(..) {
                // Whoever asked may have hung up; the line stays.
                let _ = done.send(result.as_ref().map_err(|_| NotWritten).copied());
            }
            lines.clear();
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join("suppressed.jsonl")
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        self.leave_deleted()?;
        self.rotate_if_due()?;
        let open = self.file()?;
        let result = open.file.write_all(lines).and_then(|()| open.file.sync_data());
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
                // A folder that its own folder has not on disk is gone with the log. Some above belong to others.
                for above in std::path::absolute(&self.folder)?.ancestors().skip(1) {
                    let _ = File::open(above).and_then(|above| above.sync_all());
                }
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
        self.file = None;
        let stamp = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ").to_string();
        std::fs::rename(self.path(), self.folder.join(format!("suppressed-{stamp}.jsonl")))?;
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> io::Result<()> {
        if self.rotation.keep == 0 {
            return Ok(());
        }
        let mut old: Vec<_> = std::fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("suppressed-") && name.ends_with(".jsonl"))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMY: Rotation = Rotation { size: 1 << 20, age: Duration::from_secs(3600), keep: 0 };

    fn event(recipient: &str) -> Event {
        let text = String::new;
        Event {
            time: text(),
            event: Ending::Suppressed,
            action: crate::optout::Action::Drop,
            recipient: recipient.into(),
            sender: text(),
            client: text(),
            helo: text(),
            message_id: None,
            id: text(),
            rule: EventRule { file: text(), line: 1, kind: text(), value: text() },
            reason: None,
            source: None,
            since: None,
            list: text(),
            reply: text(),
        }
    }

    /// The recipients in all files of the log, oldest first.
    fn recipients(folder: &Path) -> Vec<String> {
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort_by_key(|path| (path.ends_with("suppressed.jsonl"), path.clone()));
        let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let recipient =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["recipient"].as_str().unwrap().to_owned();
        text.lines().map(recipient).collect()
    }

    #[tokio::test]
    async fn a_half_written_line_is_cut_and_what_follows_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        std::fs::write(&path, format!("{{\"recipient\":\"a\"}}\n{{\"recipi{}", "x".repeat(200_000))).unwrap();
        let (ledger, writer) = Ledger::open(folder.path(), ROOMY).unwrap();
        ledger.record(&[event("b"), event("c")]).await.unwrap();
        drop(ledger);
        writer.await.unwrap();
        assert_eq!(recipients(folder.path()), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn rotation_loses_no_line_and_keeps_the_newest_files() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, writer) = Ledger::open(folder.path(), Rotation { size: 1, keep: 2, ..ROOMY }).unwrap();
        for recipient in ["a", "b", "c", "d", "e"] {
            ledger.record(&[event(recipient)]).await.unwrap();
        }
        drop(ledger);
        writer.await.unwrap();
        assert_eq!(recipients(folder.path()), ["c", "d", "e"]);
    }

    #[tokio::test]
    async fn a_deleted_or_moved_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        let (ledger, writer) = Ledger::open(folder.path(), ROOMY).unwrap();
        ledger.record(&[event("a")]).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        ledger.record(&[event("b")]).await.unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        ledger.record(&[event("c")]).await.unwrap();
        ledger.reopen().await;
        ledger.record(&[event("d")]).await.unwrap();
        drop(ledger);
        writer.await.unwrap();
        assert_eq!(recipients(folder.path()), ["b", "c", "d"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[tokio::test]
    async fn what_is_not_on_disk_is_told_and_writing_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        let (ledger, writer) = Ledger::open(folder.path(), ROOMY).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(ledger.record(&[event("a")]).await, Err(NotWritten));
        std::fs::remove_dir(&path).unwrap();
        ledger.record(&[event("b")]).await.unwrap();
        drop(ledger);
        writer.await.unwrap();
        assert_eq!(recipients(folder.path()), ["b"]);
    }
}

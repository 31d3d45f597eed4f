//! What the relay did, in lines for ever: `suppressed.jsonl`, the proof; `learned.jsonl`, what was learned; `sent.jsonl`, who
//! was mailed. Never decides, never forgets a line that it promised.

mod chain;
mod index;
mod lines;
mod past;
mod question;
mod together;
mod verify;

use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

pub use chain::{Broken, Link};
pub use index::{Answer, Day, Index};
pub use lines::{NotWritten, Rotation};
use lines::{Proof, Tale, Writer};
pub use past::{First, Found, Past};
pub use question::{Line, Question, Rule, Whom, moment};
pub use together::{length_of, search};
pub use verify::{Place, Verified, length, verify};

use crate::metrics::{LetOut, Metrics, Source};

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
    /// Where the entry comes from; counted, and not in the line.
    #[serde(skip)]
    pub origin: Source,
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

/// One line of `learned.jsonl`: what was learned, and from what. The names are public: people script against them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Learning {
    /// RFC 3339, UTC.
    pub time: String,
    /// What became of it.
    pub event: Lesson,
    /// The way by which it came: `address`, `folder`, `imap`, `command`, `delivery` or `order`.
    pub intake: String,
    /// Who has opted out; null where only the order is known.
    pub address: Option<String>,
    /// The order that was named.
    pub order: Option<String>,
    /// By what the notice was known.
    pub evidence: Option<String>,
    /// Somebody vouches for the notice.
    pub verified: Option<bool>,
    /// Message-ID of the notice.
    pub message_id: Option<String>,
    /// When the notice was sent, or the opt-out came.
    pub since: Option<String>,
    /// As in the list.
    pub source: Option<String>,
    /// As in the list; of what waits for a person: why it does.
    pub reason: Option<String>,
    /// How many held messages it has stopped.
    pub held: usize,
}

/// What became of an opt-out that was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lesson {
    /// It is in force.
    Learned,
    /// It is in force for an order whose buyer is not known yet.
    Waiting,
    /// The buyer of an order was found.
    Bound,
    /// A person decides.
    Quarantined,
    /// A person has accepted it.
    Accepted,
    /// A person has rejected it.
    Rejected,
}

/// One line of `sent.jsonl`: the host has taken a mail for somebody. The names are public: people script against them.
#[derive(Debug, Serialize)]
pub struct Sent<'a> {
    /// RFC 3339, UTC.
    pub time: &'a str,
    /// `sent`
    pub event: &'static str,
    /// As written in the envelope.
    pub recipient: &'a str,
    /// Envelope sender, empty for `<>`.
    pub sender: &'a str,
    /// Address of the tool.
    pub client: std::net::IpAddr,
    /// Message-ID of the mail, if it has one, without angle brackets.
    pub message_id: Option<&'a str>,
    /// Our id of the message.
    pub id: &'a str,
    /// Where it went.
    pub upstream: &'a str,
    /// What the host has said.
    pub reply: &'a str,
}

/// The logs; cheap to clone. Their writers end when the last one is gone.
#[derive(Clone, Debug)]
pub struct Ledger {
    suppressed: Proof,
    learned: Proof,
    sent: Option<Tale>,
    counts: Arc<Metrics>,
}

impl Ledger {
    /// Opens the logs in `folder` and starts their writers; await the handles after the last [`Ledger`] is dropped. Without
    /// `sent` nobody writes down who was mailed.
    pub fn open(folder: &Path, rotation: Rotation, sent: bool, counts: Arc<Metrics>) -> io::Result<(Self, Vec<JoinHandle<()>>)> {
        let (suppressed, proving) = Proof::open(folder, "suppressed", rotation, false, &counts)?;
        let (learned, learning) = Proof::open(folder, "learned", rotation, true, &counts)?;
        let (sent, telling) = if sent { Some(Tale::open(folder, "sent", rotation, &counts)?) } else { None }.unzip();
        let writers = [Some(proving), Some(learning), telling].into_iter().flatten().collect();
        Ok((Self { suppressed, learned, sent, counts }, writers))
    }

    /// Returns when the events are on disk.
    pub async fn record(&self, events: &[Event]) -> Result<(), NotWritten> {
        self.suppressed.write(text(events)?).await?;
        for event in events {
            match event.event {
                Ending::Suppressed => self.counts.suppressed(event.action, event.origin),
                Ending::Observed => self.counts.let_out(LetOut::Observe),
                Ending::Exempted => self.counts.let_out(LetOut::Exempt),
            }
        }
        Ok(())
    }

    /// The same for what was learned.
    pub async fn learned(&self, lines: &[Learning]) -> Result<(), NotWritten> {
        self.learned.write(text(lines)?).await?;
        lines.iter().for_each(|line| self.counts.learned(line.event as usize));
        Ok(())
    }

    /// Somebody was mailed. Nobody waits for the disk: a crash of the machine may lose the last of these lines, one of the relay
    /// those of the last moments, and a disk that refuses loses them loudly; mail is not stopped for them.
    pub async fn sent<'a>(&self, lines: impl ExactSizeIterator<Item = Sent<'a>>) {
        if let Some(sent) = self.sent.as_ref().filter(|_| lines.len() > 0) {
            sent.add(|text| lines.for_each(|line| write_into(text, &line))).await;
        }
    }

    /// Somebody wants to know who was mailed.
    pub fn keeps_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// Closes the files and opens them by name again (SIGHUP), for whoever moved them away.
    pub async fn reopen(&self) {
        self.suppressed.reopen().await;
        self.learned.reopen().await;
        if let Some(sent) = &self.sent {
            sent.reopen();
        }
    }
}

/// One line of `actions.jsonl`: what somebody has done at the admin page. The names are public: people script against them.
#[derive(Clone, Debug, Serialize)]
pub struct Action {
    /// RFC 3339, UTC.
    pub time: String,
    /// What was done; it stands here before it is done.
    pub event: Act,
    /// Who, as in the file of users.
    pub who: String,
    /// From which machine.
    pub client: String,
    /// With whose opt-out, or for whom.
    pub address: Option<String>,
    /// With which message, or with which entry of the quarantine.
    pub id: Option<String>,
    /// As they gave it; of what failed: why.
    pub reason: Option<String>,
}

/// What somebody does at the admin page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// They have logged in.
    LoggedIn,
    /// They opt somebody out.
    OptOutAdded,
    /// They take an opt-out away.
    OptOutRemoved,
    /// They have held mail tried now.
    HeldRetried,
    /// They throw held mail away.
    HeldDropped,
    /// They accept what waited in the quarantine.
    LearnedAccepted,
    /// They turn it down.
    LearnedRejected,
    /// They send a test mail.
    TestSent,
    /// What stands in the line before could not be done.
    Failed,
}

/// The log of what people do at the admin page; cheap to clone.
#[derive(Clone, Debug)]
pub struct Actions(Proof);

impl Actions {
    /// Opens it in `folder` and starts its writer; await the handle after the last [`Actions`] is dropped.
    pub fn open(folder: &Path, rotation: Rotation, counts: &Metrics) -> io::Result<(Self, JoinHandle<()>)> {
        let (proof, writer) = Proof::open(folder, "actions", rotation, false, counts)?;
        Ok((Self(proof), writer))
    }

    /// Returns when it is on disk.
    pub async fn record(&self, action: &Action) -> Result<(), NotWritten> {
        self.0.write(text(std::slice::from_ref(action))?).await
    }

    /// As [`Ledger::reopen`].
    pub async fn reopen(&self) {
        self.0.reopen().await;
    }
}

/// The first line of a log and those of its last piece, as far as they can be read; of another form, or of a log that is not
/// there, none. Blocks on the disk.
pub fn ends_of<T: DeserializeOwned>(folder: &Path, name: &str) -> Vec<T> {
    const PIECE: u64 = 512 << 10;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(folder.join(format!("{name}.jsonl")))?;
        let length = file.metadata()?.len();
        let mut text = Vec::new();
        if length > 2 * PIECE {
            BufReader::new(Read::take(&mut file, 64 << 10)).read_until(b'\n', &mut text)?;
            file.seek(SeekFrom::End(-(PIECE as i64)))?;
            text.push(b'\n');
        }
        file.read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Appends to `learned.jsonl` for a command, whether a relay runs or not; returns when it is on disk.
pub fn append(folder: &Path, learned: &[Learning]) -> io::Result<()> {
    let text = text(learned).map_err(io::Error::other)?;
    if text.is_empty() {
        return Ok(());
    }
    let never = Rotation { size: u64::MAX, age: std::time::Duration::MAX, keep: 0 };
    Writer::open(folder, "learned", never, true)?.append(&text)
}

fn text(lines: &[impl Serialize]) -> Result<Vec<u8>, NotWritten> {
    let mut text = Vec::with_capacity(lines.len() * 512);
    for line in lines {
        serde_json::to_writer(&mut text, line).map_err(|_| NotWritten)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// The same into a text that is there; a line that cannot be written is none.
fn write_into(text: &mut Vec<u8>, line: &impl Serialize) {
    let before = text.len();
    match serde_json::to_writer(&mut *text, line) {
        Ok(()) => text.push(b'\n'),
        Err(_) => text.truncate(before),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

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
            origin: Source::default(),
        }
    }

    /// The recipients in all files of the log, oldest first.
    fn recipients(folder: &Path) -> Vec<String> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl") && !path.ends_with("learned.jsonl"));
        files.sort_by_key(|path| (path.ends_with("suppressed.jsonl"), path.clone()));
        let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let recipient =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["recipient"].as_str().unwrap().to_owned();
        text.lines().map(recipient).collect()
    }

    async fn ended(writers: Vec<JoinHandle<()>>) {
        for writer in writers {
            writer.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_half_written_line_is_cut_and_what_follows_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        std::fs::write(&path, format!("{{\"recipient\":\"a\"}}\n{{\"recipi{}", "x".repeat(200_000))).unwrap();
        let (ledger, writers) = Ledger::open(folder.path(), ROOMY, false, Arc::default()).unwrap();
        ledger.record(&[event("b"), event("c")]).await.unwrap();
        drop(ledger);
        ended(writers).await;
        assert_eq!(recipients(folder.path()), ["a", "b", "c"]);
    }

    #[tokio::test]
    async fn rotation_loses_no_line_and_keeps_the_newest_files() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, writers) =
            Ledger::open(folder.path(), Rotation { size: 1, keep: 2, ..ROOMY }, false, Arc::default()).unwrap();
        for recipient in ["a", "b", "c", "d", "e"] {
            ledger.record(&[event(recipient)]).await.unwrap();
        }
        drop(ledger);
        ended(writers).await;
        assert_eq!(recipients(folder.path()), ["c", "d", "e"]);
    }

    #[tokio::test]
    async fn a_deleted_or_moved_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        let (ledger, writers) = Ledger::open(folder.path(), ROOMY, false, Arc::default()).unwrap();
        ledger.record(&[event("a")]).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        ledger.record(&[event("b")]).await.unwrap();
        std::fs::rename(&path, folder.path().join("moved.jsonl")).unwrap();
        ledger.record(&[event("c")]).await.unwrap();
        ledger.reopen().await;
        ledger.record(&[event("d")]).await.unwrap();
        drop(ledger);
        ended(writers).await;
        assert_eq!(recipients(folder.path()), ["b", "c", "d"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 1);
    }

    #[tokio::test]
    async fn what_is_not_on_disk_is_told_and_writing_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppressed.jsonl");
        let (ledger, writers) = Ledger::open(folder.path(), ROOMY, false, Arc::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(ledger.record(&[event("a")]).await, Err(NotWritten));
        std::fs::remove_dir(&path).unwrap();
        ledger.record(&[event("b")]).await.unwrap();
        drop(ledger);
        ended(writers).await;
        assert_eq!(recipients(folder.path()), ["b"]);
    }
}

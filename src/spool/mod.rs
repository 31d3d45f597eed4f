//! Mail that waits, on disk: a folder with two files a message, its bytes (`ID.msg`) and its record (`ID.json`). Never
//! judges, never sends; never says that it holds a message before both files and the folder are synced.
//!
//! The record is the message: it is written last and removed first, so a `.msg` alone was never promised to anybody. In
//! memory is only when each one is due. Whoever takes a message out has it as a value, [`Lent`] or [`InFlight`], and what
//! fails hands that value back; one that is dropped on the way waits again as it stands on disk.

mod files;
mod record;
mod requests;
mod schedule;

pub use record::{Record, Unreadable};
pub use requests::{Request, Wanted};
pub use schedule::{Age, Due, Next, Rhythm, Schedule};

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::mail::{Id, Mail, Message, Outcome};
use files::{Folder, TEMPORARY};

/// A record is read up to this size, in bytes: a hundred thousand recipients, each at its longest, with what the host said.
/// What comes in is never more by far, so nothing that was taken is too large to be read again.
const MAX_RECORD: u64 = 256 << 20;

/// Downtime that counts as waiting, at most, for each start: so that no jump of the wall clock makes mail old at once.
const MAX_DOWNTIME: Duration = Duration::from_secs(86_400);

/// Files of the spool that are open at once: clients must not use up what the relay itself needs.
const FILES: usize = 32;

/// How long what was found out about free space holds.
const ROOM_HOLDS: Duration = Duration::from_secs(1);

/// What cannot be read goes into this folder in the spool.
pub const CORRUPT: &str = "corrupt";

/// The folder and what is in it.
#[derive(Debug)]
pub struct Spool {
    folder: Folder,
    /// Locked as long as we live: one relay a spool.
    _lock: File,
    rhythm: Rhythm,
    min_free: u64,
    room: Mutex<Option<(Instant, bool)>>,
    schedule: Mutex<Schedule>,
    /// Files that may be open at once.
    files: Semaphore,
    /// Something has changed for whoever waits for mail to be due.
    changed: Notify,
    chance: RandomState,
    spread: AtomicU64,
}

/// What was found in the folder when it was opened.
#[derive(Debug)]
pub struct Backlog(Vec<Id>);

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another relay has it.
    #[error("the spool `{0}` is in use by another relay\nhint: end that one, or give this one a `state_dir` of its own")]
    InUse(PathBuf),
    /// The folder is not sound.
    #[error("open the spool `{0}`: {1}\nhint: it must be a folder of its own, no link, that the relay's user may write")]
    Folder(PathBuf, io::Error),
}

/// A message is not on disk; the tool keeps it.
#[derive(Debug, thiserror::Error)]
#[error("the message cannot be held: {0}")]
pub struct NotHeld(pub io::Error);

/// A held message, taken out. On disk it stands as it did.
#[derive(Debug)]
pub struct Lent {
    /// The message.
    pub mail: Arc<Mail>,
    /// As on disk.
    pub record: Record,
    turn: Turn,
}

/// A held message that is under way; its record says so, and after a crash tells that it may have arrived already.
#[derive(Debug)]
pub struct InFlight {
    /// The message.
    pub mail: Arc<Mail>,
    /// To be changed by what the attempt came to.
    pub record: Record,
    turn: Turn,
}

/// The right to settle one message. Dropped on the way, it lets the message wait again.
#[derive(Debug)]
struct Turn {
    spool: Arc<Spool>,
    id: Id,
    over: bool,
}

impl Spool {
    /// Opens and locks the folder and lists what is in it; nothing is read yet. What was never promised is swept away.
    pub fn open(path: &Path, rhythm: Rhythm, min_free: u64) -> Result<(Arc<Self>, Backlog), OpenError> {
        let wrong = |error| OpenError::Folder(path.to_owned(), error);
        let folder = Folder::open(path).map_err(wrong)?;
        let lock = requests::lock(path).map_err(wrong)?.ok_or_else(|| OpenError::InUse(path.to_owned()))?;
        requests::open(path).map_err(wrong)?;
        let spool = Self {
            folder,
            _lock: lock,
            rhythm,
            min_free,
            room: Mutex::default(),
            schedule: Mutex::new(Schedule::new(rhythm)),
            files: Semaphore::new(FILES),
            changed: Notify::new(),
            chance: RandomState::new(),
            spread: AtomicU64::new(0),
        };
        let backlog = spool.sweep().map_err(wrong)?;
        Ok((Arc::new(spool), backlog))
    }

    fn sweep(&self) -> io::Result<Backlog> {
        let (mut records, mut messages) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(self.folder.path())? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            if is_temporary(name) {
                self.folder.remove_if_there(name)?;
            } else if let Some(id) = name.strip_suffix(".json").and_then(Id::parse) {
                records.push(id);
            } else if let Some(id) = name.strip_suffix(".msg").and_then(Id::parse) {
                messages.push(id);
            }
        }
        records.sort_unstable();
        for id in messages.into_iter().filter(|id| records.binary_search(id).is_err()) {
            self.folder.remove_if_there(&message_name(id))?;
        }
        Ok(Backlog(records))
    }

    /// Reads the records of the backlog and lets each wait for its time; how many that are. Blocks.
    pub fn schedule(&self, backlog: &Backlog) -> usize {
        let mut count = 0;
        for &id in &backlog.0 {
            match self.read_record(id) {
                Ok(record) => {
                    count += 1;
                    let age = Age { had: record.age + downtime(record.written), at: Instant::now() };
                    let delay_told = record.delay_told;
                    let due = Due { at: self.moment(record.next), fresh: false, delay_told };
                    self.locked().wait(id, age, due);
                    self.changed.notify_one();
                }
                Err(Unusable::Disk(error)) if passes(&error) => {
                    tracing::error!(%id, "read held mail: {error}; it is tried again later");
                    let now = Instant::now();
                    self.locked().rest(id, Age { had: Duration::ZERO, at: now }, now + self.rhythm.first);
                }
                Err(error) => self.set_aside(id, &error),
            }
        }
        count
    }

    /// A moment of the wall clock, but never further away than the longest wait.
    fn moment(&self, next: Timestamp) -> Instant {
        let wait = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
        Instant::now() + wait.min(self.rhythm.longest())
    }

    /// Puts a message on disk, to wait until `record.next`.
    pub async fn hold(self: &Arc<Self>, mail: Arc<Mail>, record: Record) -> Result<(), NotHeld> {
        self.hold_in(mail, record, false).await
    }

    async fn hold_in(self: &Arc<Self>, mail: Arc<Mail>, mut record: Record, fresh: bool) -> Result<(), NotHeld> {
        record.in_flight = false;
        let id = record.envelope.id;
        let age = Age { had: record.age, at: Instant::now() };
        let due = Due { at: self.moment(record.next), fresh, delay_told: record.delay_told };
        self.commit(mail, record).await?;
        self.locked().wait(id, age, due);
        self.changed.notify_one();
        Ok(())
    }

    /// Puts a message on disk whose first attempt is under way already.
    pub async fn hold_in_flight(self: &Arc<Self>, mail: Arc<Mail>, mut record: Record) -> Result<InFlight, NotHeld> {
        record.in_flight = true;
        let record = self.commit(mail.clone(), record).await?;
        let id = record.envelope.id;
        self.locked().start_elsewhere(id, Age { had: record.age, at: Instant::now() });
        Ok(InFlight { mail, record, turn: self.turn(id) })
    }

    /// Puts a new message on disk and hands it back for its first attempt, if there is a place for it now; if not it
    /// waits for its turn.
    pub async fn hold_to_send(self: &Arc<Self>, mail: Arc<Mail>, mut record: Record) -> Result<Option<InFlight>, NotHeld> {
        let id = record.envelope.id;
        let (starts, fresh) = {
            let mut schedule = self.locked();
            (schedule.start_fresh(id, Instant::now()), !schedule.host_is_known_away())
        };
        if !starts {
            return self.hold_in(mail, record, fresh).await.map(|()| None);
        }
        let turn = self.turn(id);
        record.in_flight = true;
        match self.commit(mail.clone(), record).await {
            Ok(record) => Ok(Some(InFlight { mail, record, turn })),
            Err(error) => {
                turn.end(|schedule| schedule.remove(id));
                Err(error)
            }
        }
    }

    async fn commit(self: &Arc<Self>, mail: Arc<Mail>, record: Record) -> Result<Record, NotHeld> {
        self.on_disk(move |spool| spool.write(&mail, &record).map(|()| record)).await.map_err(NotHeld)
    }

    /// Does something with files where that is allowed to take its time.
    async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // Nobody closes it, so there always is one.
        let _file = self.files.acquire().await;
        let spool = self.clone();
        spawn_blocking(move || work(&spool)).await.unwrap_or_else(|_| Err(io::Error::other("the writer failed")))
    }

    fn write(&self, mail: &Mail, record: &Record) -> io::Result<()> {
        let id = record.envelope.id;
        let (message, name) = (message_name(id), record_name(id));
        self.folder.create(&message, &[&mail.trace, mail.message.wire()])?;
        let written = self.folder.replace(&name, &record.to_json()).and_then(|()| self.folder.sync());
        if let Err(error) = &written {
            // The tool hears that it is not held, so it must not be: the record goes first.
            let taken_back = self.folder.remove_if_there(&name).and_then(|()| self.folder.remove_if_there(&message));
            if let Err(again) = taken_back {
                tracing::error!(%id, possible_duplicate = true, "not held ({error}), and cannot be taken back: {again}");
            }
        }
        written
    }

    /// Takes a message out for an attempt. `None` where it cannot be read: then it was set aside.
    pub async fn lend(self: &Arc<Self>, id: Id) -> Option<Lent> {
        let turn = self.turn(id);
        let read = self.on_disk(move |spool| match spool.read(id) {
            Ok(found) => Ok(Some(found)),
            Err(Unusable::Disk(error)) if passes(&error) => Err(error),
            Err(error) => {
                spool.set_aside(id, &error);
                Ok(None)
            }
        });
        match read.await {
            Ok(Some((mail, mut record))) => {
                if let Some(age) = self.locked().age(id) {
                    record.age = age.by(Instant::now());
                }
                Some(Lent { mail: Arc::new(mail), record, turn })
            }
            Ok(None) => {
                turn.end(|schedule| schedule.remove(id));
                None
            }
            // The turn is dropped, so it waits again.
            Err(error) => {
                tracing::error!(%id, "read held mail: {error}; it is tried again later");
                None
            }
        }
    }

    fn read_record(&self, id: Id) -> Result<Record, Unusable> {
        let record = Record::from_json(&self.folder.read(&record_name(id), MAX_RECORD)?)?;
        if record.envelope.id == id { Ok(record) } else { Err(Unusable::NotItsOwn) }
    }

    fn read(&self, id: Id) -> Result<(Mail, Record), Unusable> {
        let record = self.read_record(id)?;
        let mut bytes = Bytes::from(self.folder.read(&message_name(id), record.size)?);
        if bytes.len() as u64 != record.size || record.trace > record.size {
            return Err(Unusable::Cut);
        }
        let sound = |wire| Message::from_wire(wire).filter(|message| !ends_early(message)).ok_or(Unusable::NoMessage);
        let trace = sound(bytes.split_to(record.trace as usize))?;
        let message = sound(bytes)?;
        Ok((Mail::new(record.envelope.clone(), trace.wire().clone(), message), record))
    }

    /// What cannot be read does not hold up the rest.
    fn set_aside(&self, id: Id, error: &Unusable) {
        let place = self.folder.path().join(CORRUPT);
        tracing::error!(%id, "held mail {id} is set aside in {}: {error}\nhint: `{id}.json` says for whom it was", place.display());
        for name in [record_name(id), message_name(id)] {
            match self.folder.move_into(CORRUPT, &name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::error!(%id, "set {name} aside: {error}"),
                _ => {}
            }
        }
    }

    /// There is more room on the disk than must stay free.
    pub fn has_room(&self) -> bool {
        let now = Instant::now();
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        match *room {
            Some((found, has)) if now.saturating_duration_since(found) < ROOM_HOLDS => has,
            _ => {
                let free = self.folder.free();
                let has = self.min_free == 0 || free.as_ref().is_ok_and(|free| *free >= self.min_free);
                if !has && !matches!(*room, Some((_, false))) {
                    let free = free.map_or_else(|error| error.to_string(), |free| format!("{} MiB are free", free >> 20));
                    tracing::error!(
                        "no mail is taken: {free} on the disk of {}\nhint: free space, or lower `delivery.min_free`",
                        self.folder.path().display()
                    );
                }
                *room = Some((now, has));
                has
            }
        }
    }

    /// A place in the schedule for whoever carries mail out.
    fn turn(self: &Arc<Self>, id: Id) -> Turn {
        Turn { spool: self.clone(), id, over: false }
    }

    /// What is to be done now; a message that is named is out, and its [`Lent`] must be fetched.
    pub fn next(&self) -> Next {
        self.locked().next(Instant::now())
    }

    /// Returns when [`next`](Self::next) may have another answer.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Messages that are held.
    pub fn len(&self) -> usize {
        self.locked().count()
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Mail may go to the host now: it is there, or it is time to ask whether it is.
    pub fn may_try(&self) -> bool {
        self.locked().may_try(Instant::now())
    }

    /// Learns from what an attempt came to how the host is. Whoever set out to send must come back here, for others wait for
    /// what it finds.
    pub fn note_host(&self, outcomes: &[(usize, Outcome)]) {
        use crate::mail::Stage::{Connect, Data, Local, Mail, OptOut};
        let mut schedule = self.locked();
        let (news, more) = match outcomes.iter().map(|(_, outcome)| outcome).find(|outcome| outcome.status().stage != OptOut) {
            // Nobody was left to send it to, so others may ask.
            None => (false, schedule.stop_asking(None)),
            Some(Outcome::Deferred(status)) if matches!(status.stage, Connect | Local) => {
                if schedule.host_is_away(Instant::now()) {
                    tracing::warn!("the mail host is out of reach: mail is held until it is back");
                }
                return;
            }
            Some(Outcome::Deferred(status)) if matches!(status.stage, Mail | Data) => {
                schedule.host_is_busy();
                (false, true)
            }
            Some(_) => schedule.host_is_there(),
        };
        let held = schedule.count();
        drop(schedule);
        if news {
            tracing::info!(held, "the mail host is back");
        }
        if more {
            self.changed.notify_one();
        }
    }

    /// When a message that was tried so often is tried again.
    pub fn wait_after(&self, attempts: u32) -> Duration {
        let number = self.spread.fetch_add(1, Ordering::Relaxed);
        self.rhythm.wait(attempts, self.chance.hash_one(number) as u32)
    }

    /// What people want of held mail, since the last time. Blocks.
    pub fn requests(&self) -> io::Result<Vec<Request>> {
        requests::read(self.folder.path())
    }

    /// Tries one message now, or all; how many that are.
    pub fn hurry(&self, which: Option<Id>) -> usize {
        let count = self.locked().hurry(which, Instant::now());
        self.changed.notify_one();
        count
    }

    /// Forgets a message, unless an attempt is under way: then false. Blocks.
    pub fn forget(self: &Arc<Self>, id: Id) -> io::Result<bool> {
        let turn = {
            let mut schedule = self.locked();
            if schedule.is_out(id) {
                return Ok(false);
            }
            if let Some(age) = schedule.age(id) {
                schedule.start_elsewhere(id, age);
            }
            self.turn(id)
        };
        self.erase(id)?;
        turn.end(|schedule| schedule.remove(id));
        Ok(true)
    }

    /// A wish was heard. Blocks.
    pub fn is_done(&self, request: &Request) -> io::Result<()> {
        request.is_done(self.folder.path())
    }

    fn erase(&self, id: Id) -> io::Result<()> {
        self.folder.remove_if_there(&record_name(id))?;
        self.folder.remove_if_there(&message_name(id))?;
        self.folder.sync()
    }

    /// What the configuration says of waiting.
    pub fn rhythm(&self) -> &Rhythm {
        &self.rhythm
    }

    fn locked(&self) -> MutexGuard<'_, Schedule> {
        // Nothing below panics with the lock held.
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time that passed while nobody ran, as far as it counts.
fn downtime(written: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(written)).unwrap_or_default().min(MAX_DOWNTIME)
}

/// The ids of all held messages, in the order in which they came, and their records; whether or not a relay runs.
pub fn records(path: &Path) -> io::Result<impl Iterator<Item = (Id, Result<Record, String>)>> {
    let mut ids: Vec<_> = match std::fs::read_dir(path) {
        Ok(entries) => entries.filter_map(|entry| Id::parse(entry.ok()?.file_name().to_str()?.strip_suffix(".json")?)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    ids.sort_unstable();
    let path = path.to_owned();
    Ok(ids.into_iter().filter_map(move |id| match std::fs::read(path.join(record_name(id))) {
        // It left in the meantime.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some((id, Err(error.to_string()))),
        Ok(text) => Some((id, Record::from_json(&text).map_err(|error| error.to_string()))),
    }))
}

fn message_name(id: Id) -> String {
    format!("{id}.msg")
}

fn record_name(id: Id) -> String {
    format!("{id}.json")
}

/// The host would take the rest for commands. No such message comes in; disks and people can make one.
fn ends_early(message: &Message) -> bool {
    let wire = message.wire();
    wire.starts_with(b".\r\n") || memchr::memmem::find(wire, b"\r\n.\r\n").is_some()
}

/// A record that was never finished; other programs' files stay.
fn is_temporary(name: &str) -> bool {
    let record = name.strip_suffix(TEMPORARY).and_then(|name| name.strip_suffix(".json"));
    record.is_some_and(|id| Id::parse(id).is_some())
}

/// Why a held message cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Record(#[from] Unreadable),
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("its record is that of another message")]
    NotItsOwn,
    #[error("its message was cut")]
    Cut,
    #[error("its message is none: a line does not end in CR LF, or is a lone dot")]
    NoMessage,
}

/// Trouble of the disk or of the system passes, and then it is read after all.
fn passes(error: &io::Error) -> bool {
    let is_link = rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::LOOP);
    !is_link && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
}

impl Lent {
    /// Notes on disk that an attempt is under way. On failure it is handed back, and nothing may leave.
    pub async fn begin(mut self) -> Result<InFlight, (Self, io::Error)> {
        self.record.in_flight = true;
        self.record.written = Timestamp::now();
        match self.turn.rewrite(&self.record).await {
            Ok(()) => Ok(InFlight { mail: self.mail, record: self.record, turn: self.turn }),
            Err(error) => {
                self.record.in_flight = false;
                Err((self, error))
            }
        }
    }

    /// Lets it wait again for `wait`, as it stands on disk.
    pub fn rest(self, wait: Duration) {
        let Self { record, turn, .. } = self;
        turn.wait(&record, wait);
    }

    /// Lets it be due now, also at the next start; whether it was under way at the last end stands as it did.
    pub async fn hurry(mut self) -> io::Result<()> {
        self.record.next = Timestamp::now();
        self.turn.rewrite(&self.record).await?;
        self.rest(Duration::ZERO);
        Ok(())
    }

    /// Changes the record without an attempt: the delay was told, or it was given up.
    pub fn unsent(self) -> InFlight {
        let Self { mail, record, turn } = self;
        InFlight { mail, record, turn }
    }
}

impl InFlight {
    /// Ends the attempt: a message for which nobody waits is erased, another waits for `wait`. On failure it is handed
    /// back, still under way.
    pub async fn settle(mut self, wait: Duration) -> Result<(), (Self, io::Error)> {
        let done = self.record.is_settled();
        if done {
            if let Err(error) = self.turn.erase().await {
                return Err((self, error));
            }
            let id = self.turn.id;
            self.turn.end(|schedule| schedule.remove(id));
            return Ok(());
        }
        let before = self.record.clone();
        self.record.in_flight = false;
        self.record.written = Timestamp::now();
        self.record.next = self.record.written + wait;
        match self.turn.rewrite(&self.record).await {
            Ok(()) => {
                self.turn.wait(&self.record, wait);
                Ok(())
            }
            Err(error) => {
                self.record = before;
                Err((self, error))
            }
        }
    }

    /// How long it has waited by now.
    pub fn age(&self) -> Duration {
        let age = self.turn.spool.locked().age(self.turn.id);
        age.map_or(self.record.age, |age| age.by(Instant::now()))
    }
}

impl Turn {
    async fn rewrite(&self, record: &Record) -> io::Result<()> {
        let (id, mut record) = (self.id, record.clone());
        if let Some(age) = self.spool.locked().age(id) {
            record.age = age.by(Instant::now());
        }
        let written = self.spool.on_disk(move |spool| {
            spool.folder.replace(&record_name(id), &record.to_json())?;
            spool.folder.sync()
        });
        written.await
    }

    async fn erase(&self) -> io::Result<()> {
        let id = self.id;
        self.spool.on_disk(move |spool| spool.erase(id)).await
    }

    fn wait(self, record: &Record, wait: Duration) {
        let (id, delay_told, now) = (self.id, record.delay_told, Instant::now());
        self.end(|schedule| {
            let age = schedule.age(id).unwrap_or(Age { had: record.age, at: now });
            schedule.wait(id, age, Due { at: now + wait, fresh: false, delay_told });
        });
    }

    fn end(mut self, change: impl FnOnce(&mut Schedule)) {
        self.over = true;
        change(&mut self.spool.locked());
        self.spool.changed.notify_one();
    }
}

impl Drop for Turn {
    /// Whoever had it was cut short: what is on disk holds.
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let now = Instant::now();
        let mut schedule = self.spool.locked();
        if let Some(age) = schedule.age(self.id) {
            schedule.rest(self.id, age, now + self.spool.rhythm.first);
        }
        drop(schedule);
        self.spool.changed.notify_one();
    }
}

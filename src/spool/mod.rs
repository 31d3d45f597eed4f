//! Mail that waits, on disk. Never judges, never sends; never says that it holds a message before its files and their folder
//! are synced.
//!
//! In memory is only when each message is due. Whoever takes one out has it as a value, [`Lent`] or [`InFlight`], and what
//! fails hands that value back; one that is dropped on the way waits again as it stands on disk.

mod files;
mod record;
mod requests;
mod schedule;
mod shelf;

pub use record::{Form, Record, Unreadable, waits};
pub use requests::{Request, Wanted, owner};
pub use schedule::{Age, Due, Next, Rhythm, Schedule};
pub use shelf::{CORRUPT, records, records_after, single};

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use humantime_serde::re::humantime::format_duration;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;

use crate::disk::sync_above;
use crate::mail::{Id, Mail, Outcome};
use shelf::Shelf;

/// Downtime that counts as waiting, at most, for each start: so that no jump of the wall clock makes mail old at once.
const MAX_DOWNTIME: Duration = Duration::from_secs(86_400);

/// Downtime of so much is written down at the start, so that it counts at the next one as well.
const REMEMBER: Duration = Duration::from_secs(6 * 3600);

/// Threads that read the records at the start: a disk that is asked for several at once is faster.
const READERS: usize = 4;

/// Files of the spool that are open at once: clients must not use up what the relay itself needs.
const FILES: usize = 32;

/// The folder and what is in it.
#[derive(Debug)]
pub struct Spool {
    shelf: Shelf,
    /// Locked as long as we live: one relay a spool.
    _lock: File,
    rhythm: Rhythm,
    min_free: u64,
    /// Bytes, less what was written since somebody looked.
    free: AtomicU64,
    /// It was said that there is too little.
    told_of_room: AtomicBool,
    schedule: Mutex<Schedule>,
    /// The host is there and the queue flows in its full width: most mail finds nothing new.
    steady: AtomicBool,
    /// Files that may be open at once.
    files: Semaphore,
    /// Something has changed for whoever waits for mail to be due.
    changed: Notify,
    chance: RandomState,
    spread: AtomicU64,
}

/// What came of the wish to forget a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It is held no more.
    Now,
    /// It was not held: it has arrived, or was given up, before the wish was heard.
    Before,
    /// An attempt is under way.
    NotYet,
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
    /// What the record on disk holds that may not be forgotten.
    on_disk: (usize, bool),
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
        let shelf = Shelf::open(path).map_err(wrong)?;
        sync_above(path).map_err(wrong)?;
        let lock = requests::lock(path).map_err(wrong)?.ok_or_else(|| OpenError::InUse(path.to_owned()))?;
        requests::open(path).map_err(wrong)?;
        let backlog = Backlog(shelf.sweep().map_err(wrong)?);
        let free = shelf.free().unwrap_or(0);
        let spool = Self {
            shelf,
            _lock: lock,
            rhythm,
            min_free,
            free: AtomicU64::new(free),
            told_of_room: AtomicBool::new(false),
            schedule: Mutex::new(Schedule::new(rhythm)),
            steady: AtomicBool::new(false),
            files: Semaphore::new(FILES),
            changed: Notify::new(),
            chance: RandomState::new(),
            spread: AtomicU64::new(0),
        };
        Ok((Arc::new(spool), backlog))
    }

    /// Reads the records of the backlog and lets each wait for its time; how many that are. Blocks.
    pub fn schedule(&self, backlog: &Backlog) -> usize {
        let part = backlog.0.len().div_ceil(READERS).max(1);
        std::thread::scope(|scope| {
            let readers: Vec<_> = backlog.0.chunks(part).map(|ids| scope.spawn(|| self.schedule_part(ids))).collect();
            // What a reader that failed has not read is read at the next start.
            readers.into_iter().filter_map(|reader| reader.join().ok()).sum()
        })
    }

    fn schedule_part(&self, ids: &[Id]) -> usize {
        let mut count = 0;
        for &id in ids {
            match self.shelf.record(id) {
                Ok(mut record) => {
                    count += 1;
                    let had = record.age + downtime(record.written);
                    if had - record.age >= REMEMBER && record.form != Form::New {
                        (record.age, record.written) = (had, Timestamp::now());
                        // Where it cannot be written it counts at the next start.
                        let _ = self.shelf.note_age(&record);
                    }
                    let age = Age { had, at: Instant::now() };
                    let delay_told = record.delay_told;
                    let due = Due { at: self.moment(record.next), fresh: false, delay_told };
                    self.locked().wait(id, age, due);
                    self.changed.notify_one();
                }
                Err(error) if error.passes() => {
                    tracing::error!(%id, "read held mail: {error}; it is tried again later");
                    let now = Instant::now();
                    self.locked().rest(id, Age { had: Duration::ZERO, at: now }, now + self.rhythm.first);
                }
                Err(error) => self.shelf.set_aside(id, &error),
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
        record.form = Form::Rests;
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
        record.form = Form::New;
        let record = self.commit(mail.clone(), record).await?;
        let id = record.envelope.id;
        self.locked().start_elsewhere(id, Age { had: record.age, at: Instant::now() });
        Ok(InFlight::new(mail, record, self.turn(id)))
    }

    /// Puts a new message on disk and hands it back for its first attempt, if there is a place for it now; if not it
    /// waits for its turn.
    pub async fn hold_to_send(self: &Arc<Self>, mail: Arc<Mail>, mut record: Record) -> Result<Option<InFlight>, NotHeld> {
        let id = record.envelope.id;
        let (starts, fresh) = {
            let mut schedule = self.locked();
            (schedule.start_fresh(id, record.size, Instant::now()), !schedule.host_is_known_away())
        };
        if !starts {
            return self.hold_in(mail, record, fresh).await.map(|()| None);
        }
        let turn = self.turn(id);
        record.form = Form::New;
        match self.commit(mail.clone(), record).await {
            Ok(record) => Ok(Some(InFlight::new(mail, record, turn))),
            Err(error) => {
                turn.end(|schedule| schedule.remove(id));
                Err(error)
            }
        }
    }

    async fn commit(self: &Arc<Self>, mail: Arc<Mail>, record: Record) -> Result<Record, NotHeld> {
        // Until somebody looks again.
        let _ = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| Some(free.saturating_sub(record.size)));
        self.on_disk(move |spool| spool.shelf.put(&mail, &record).map(|()| record)).await.map_err(NotHeld)
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

    /// How many bytes a message takes up while it is out, about; 0 where it is not known.
    pub async fn size(self: &Arc<Self>, id: Id) -> usize {
        self.on_disk(move |spool| spool.shelf.size(id)).await.unwrap_or_default()
    }

    /// Takes a message out for an attempt. `None` where it cannot be read: then it was set aside.
    pub async fn lend(self: &Arc<Self>, id: Id) -> Option<Lent> {
        let turn = self.turn(id);
        let read = self.on_disk(move |spool| match spool.shelf.read(id) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.passes() => Err(io::Error::other(error)),
            Err(error) => {
                spool.shelf.set_aside(id, &error);
                Ok(None)
            }
        });
        match read.await {
            Ok(Some((mail, mut record))) => {
                record.age = self.age(id).unwrap_or(record.age);
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

    /// There is more room on the disk than must stay free.
    pub fn has_room(&self) -> bool {
        self.free.load(Ordering::Relaxed) >= self.min_free
    }

    /// Looks how much room there is, and says when there is too little. Called now and then.
    pub async fn look_for_room(self: &Arc<Self>) {
        // Where it cannot be told there is none.
        let free = self.on_disk(|spool| spool.shelf.free()).await.unwrap_or(0);
        self.free.store(free, Ordering::Relaxed);
        let too_little = free < self.min_free;
        let told = self.told_of_room.swap(too_little, Ordering::Relaxed);
        if too_little && !told {
            let (free, folder) = (free >> 20, self.shelf.path().display());
            tracing::error!(
                "no mail is taken: {free} MiB are free on the disk of {folder}\nhint: free space, or lower `delivery.min_free`"
            );
        }
    }

    /// A file can be made in its folder.
    pub async fn is_writable(self: &Arc<Self>) -> bool {
        self.on_disk(|spool| spool.shelf.probe()).await.is_ok()
    }

    /// How long a message has waited by now; `None` where it is not held.
    fn age(&self, id: Id) -> Option<Duration> {
        self.locked().age(id).map(|age| age.by(Instant::now()))
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

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.shelf.path()
    }

    /// It is held.
    pub fn holds(&self, id: Id) -> bool {
        self.age(id).is_some()
    }

    /// Messages that are held.
    pub fn len(&self) -> usize {
        self.locked().count()
    }

    /// How long the message has waited that waits longest; looks at each of them.
    pub fn longest_wait(&self) -> Option<Duration> {
        self.locked().longest(Instant::now())
    }

    /// Bytes that are free on its disk, as somebody saw last, less what was written since.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The host was out of reach when it was last asked. Unlike [`may_try`](Self::may_try) nobody is sent to ask.
    pub fn host_is_away(&self) -> bool {
        !self.steady.load(Ordering::Relaxed) && self.locked().host_is_known_away()
    }

    /// Mail may go to the host now: it is there, or it is time to ask whether it is.
    pub fn may_try(&self) -> bool {
        self.steady.load(Ordering::Relaxed) || self.locked().may_try(Instant::now())
    }

    /// Learns from what an attempt came to how the host is. Whoever set out to send must come back here, for others wait for
    /// what it finds.
    pub fn note_host(&self, outcomes: &[(usize, Outcome)]) {
        use crate::mail::Stage::{Data, Login, Mail, OptOut};
        let telling = outcomes.iter().map(|(_, outcome)| outcome).find(|outcome| outcome.status().stage != OptOut);
        if let (true, Some(Outcome::Delivered(_))) = (self.steady.load(Ordering::Relaxed), telling) {
            return;
        }
        let mut schedule = self.locked();
        self.steady.store(false, Ordering::Relaxed);
        let (news, more) = match telling {
            // Nobody was left to send it to, so others may ask.
            None => (false, schedule.stop_asking(None)),
            Some(Outcome::Deferred(status)) if status.stage == Login => {
                let wait = schedule.login_is_refused(Instant::now());
                drop(schedule);
                return wait.into_iter().for_each(|wait| tell_of_login(&status.text, wait));
            }
            Some(outcome) if outcome.host_is_away() => {
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
        self.steady.store(schedule.is_steady(), Ordering::Relaxed);
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
        requests::read(self.shelf.path())
    }

    /// Tries one message now, or all; how many that are.
    pub fn hurry(&self, which: Option<Id>) -> usize {
        let count = self.locked().hurry(which, Instant::now());
        self.changed.notify_one();
        count
    }

    /// Whatever kept the host away may be over: asks now.
    pub fn ask_again(&self) {
        self.locked().ask_again(Instant::now());
        self.changed.notify_one();
    }

    /// Forgets a message, unless an attempt is under way. Blocks.
    pub fn forget(self: &Arc<Self>, id: Id) -> io::Result<Forgotten> {
        let turn = {
            let mut schedule = self.locked();
            if schedule.is_out(id) {
                return Ok(Forgotten::NotYet);
            }
            if let Some(age) = schedule.age(id) {
                schedule.start_elsewhere(id, age);
            }
            self.turn(id)
        };
        let was_there = self.shelf.erase_any(id)?;
        turn.end(|schedule| schedule.remove(id));
        Ok(if was_there { Forgotten::Now } else { Forgotten::Before })
    }

    /// A wish was heard. Blocks.
    pub fn is_done(&self, request: &Request) -> io::Result<()> {
        request.is_done(self.shelf.path())
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

/// Once for each login that was refused, not for each message that waits for it.
fn tell_of_login(said: &str, wait: Duration) {
    let wait = format_duration(wait);
    tracing::error!(
        "{said}: mail is held, and the login is tried again in {wait}\nhint: see to `upstream.user` and its password; a password file that was changed is tried at once, and so is `optout-relay spool retry`"
    );
}

/// Time that passed while nobody ran, as far as it counts.
fn downtime(written: Timestamp) -> Duration {
    Duration::try_from(Timestamp::now().duration_since(written)).unwrap_or_default().min(MAX_DOWNTIME)
}

impl Lent {
    /// Notes on disk that an attempt is under way. On failure it is handed back, and nothing may leave.
    pub async fn begin(mut self) -> Result<InFlight, (Self, io::Error)> {
        // Under way at the last end already: the name says so still.
        if !self.record.in_flight() {
            if let Err(error) = self.turn.rename(Form::Rests, Form::Out).await {
                return Err((self, error));
            }
            self.record.form = Form::Out;
        }
        Ok(self.unsent())
    }

    /// Lets it wait again for `wait`, as it stands on disk.
    pub fn rest(self, wait: Duration) {
        let Self { record, turn, .. } = self;
        turn.wait(&record, wait);
    }

    /// Lets it be due now, also at the next start; whether it was under way at the last end stands as it did.
    pub async fn hurry(mut self) -> io::Result<()> {
        self.record.next = Timestamp::now();
        let form = if self.record.in_flight() { Form::Out } else { Form::Rests };
        self.turn.note(&self.mail, &self.record, form).await?;
        self.rest(Duration::ZERO);
        Ok(())
    }

    /// Changes the record without an attempt: the delay was told, or it was given up.
    pub fn unsent(self) -> InFlight {
        let Self { mail, record, turn } = self;
        InFlight::new(mail, record, turn)
    }
}

impl InFlight {
    /// Ends the attempt: a message for which nobody waits is erased, another waits for `wait`. On failure it is handed
    /// back, still under way.
    pub async fn settle(mut self, wait: Duration) -> Result<(), (Self, io::Error)> {
        if self.record.is_settled() {
            if let Err(error) = self.turn.erase(self.record.form).await {
                return Err((self, error));
            }
            let id = self.turn.id;
            self.turn.end(|schedule| schedule.remove(id));
            return Ok(());
        }
        self.record.written = Timestamp::now();
        self.record.next = self.record.written + wait;
        match self.turn.note(&self.mail, &self.record, Form::Rests).await {
            Ok(()) => {}
            // Nothing is lost where the record stays as it was: those who wait still wait.
            Err(error) if self.on_disk == Self::lasting(&self.record) && self.put_back().await => {
                let id = self.turn.id;
                tracing::error!(%id, "what the host said cannot be written: {error}; it is tried again all the same");
            }
            Err(error) => return Err((self, error)),
        }
        self.turn.wait(&self.record, wait);
        Ok(())
    }

    /// Has the disk say as far as it can that no attempt is under way any more; a single file cannot.
    async fn put_back(&self) -> bool {
        match self.record.form {
            Form::Out => self.turn.rename(Form::Out, Form::Rests).await.is_ok(),
            Form::Rests | Form::New => true,
        }
    }

    /// Cannot be settled now, and leaves its place to others meanwhile.
    pub fn step_aside(&self) {
        let id = self.turn.id;
        let mut schedule = self.turn.spool.locked();
        let age = schedule.age(id).unwrap_or(Age { had: self.record.age, at: Instant::now() });
        schedule.start_elsewhere(id, age);
        drop(schedule);
        self.turn.spool.changed.notify_one();
    }

    fn new(mail: Arc<Mail>, record: Record, turn: Turn) -> Self {
        Self { on_disk: Self::lasting(&record), mail, record, turn }
    }

    /// What of a record may not be forgotten: how many need no further attempt, and that the delay was told.
    fn lasting(record: &Record) -> (usize, bool) {
        (record.outcomes.len() - record.waiting().len(), record.delay_told)
    }

    /// How long it has waited by now.
    pub fn age(&self) -> Duration {
        self.turn.spool.age(self.turn.id).unwrap_or(self.record.age)
    }
}

impl Turn {
    async fn note(&self, mail: &Arc<Mail>, record: &Record, to: Form) -> io::Result<()> {
        let (mail, mut record) = (mail.clone(), record.clone());
        record.age = self.spool.age(self.id).unwrap_or(record.age);
        self.spool.on_disk(move |spool| spool.shelf.note(&mail, &record, to)).await
    }

    async fn rename(&self, from: Form, to: Form) -> io::Result<()> {
        let id = self.id;
        self.spool.on_disk(move |spool| spool.shelf.rename(id, from, to)).await
    }

    async fn erase(&self, form: Form) -> io::Result<()> {
        let id = self.id;
        self.spool.on_disk(move |spool| spool.shelf.erase(id, form)).await
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::{Address, Client, Envelope, Message, Recipient, ReversePath};

    const RHYTHM: Rhythm = Rhythm {
        first: Duration::from_secs(300),
        max: Duration::from_secs(300),
        give_up: Duration::from_secs(86_400),
        tell_delay: Duration::from_secs(3600),
        at_once: 2,
    };

    fn mail(to: impl IntoIterator<Item = String>) -> Arc<Mail> {
        let client = Client { helo: "tool".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let recipients = to.into_iter().map(|to| Recipient::from(Address::parse(&to).unwrap())).collect();
        let (id, sender) = (Id::new(1, 1), ReversePath::Null);
        let envelope = Envelope { id, client, sender, recipients, eight_bit: false, smtputf8: false, ret: None, envid: None };
        Arc::new(Mail::new(envelope, Bytes::new(), Message::from_wire("x\r\n".into()).unwrap()))
    }

    #[tokio::test]
    async fn a_record_of_very_many_recipients_is_read_again() {
        let home = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(home.path(), RHYTHM, 0).unwrap();
        let mail = mail((0..20_000).map(|number| format!("{number}{}@x.example", "a".repeat(250))));
        spool.hold(mail.clone(), Record::of(&mail, Timestamp::now())).await.unwrap();
        assert_eq!(spool.lend(mail.envelope.id).await.unwrap().record.waiting().len(), 20_000);
    }
}

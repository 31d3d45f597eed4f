//! Whose orders are whose: order number → recipients at marketplaces, built from the mail that leaves, so that a notice that
//! names only an order opts somebody out. Never decides, never asks the clock.
//!
//! The store is redb: one file, pure Rust, no C, a transaction is whole or not at all whatever happens to the machine, and
//! memory stays within a small cache however many orders there are. SQLite would do the same with 250,000 lines of C; a file
//! of our own would have to earn that trust first.
//!
//! No mail waits for the disk: what is noted is known at once, and is written within a moment, all of it by one sync. What was
//! noted in the last moment before a crash is lost, and a notice that names such an order waits until it is mailed about again.
//! Waiting would make relaying five times slower, measured.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, TableDefinition,
    TableError,
};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::disk::sync_above;
use crate::mail::{Address, Order, PlusTags};

/// Order number → day since 1970 on which it was mailed about last, four bytes, little end first; then the addresses as
/// written, an LF between two.
const BUYERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("buyers");

/// The same by day, for those that go first.
const DAYS: TableDefinition<'_, (u32, u64), ()> = TableDefinition::new("days");

/// An order has one buyer; more than a few recipients are no sign of whose it is.
const MAX_RECIPIENTS: usize = 8;

/// A known order that is mailed about again is written again only if its day is so old.
const SAME_FOR_DAYS: u32 = 30;

/// How many are dropped within one transaction: whoever waits for it must not wait long.
const DROPPED_AT_ONCE: usize = 500;

/// Bytes of the file that are kept in memory.
const CACHE: usize = 32 << 20;

/// What was noted lately is not noted again.
const RECENT: usize = 1 << 16;

/// Notes are gathered for so long: the more one commit writes, the less each costs.
const GATHER: Duration = Duration::from_millis(250);

/// Orders that may wait to be written, should the disk be slow or refuse; more are refused.
const WAITING: usize = 200_000;

/// A disk that refuses is asked again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// How many orders are kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `learn.max_orders`
    pub entries: u64,
    /// `learn.max_order_age`
    pub age: Duration,
}

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the index of orders `{0}` is in use\nhint: another relay has it; end that one, or give this one a `state_dir` of its own"
    )]
    InUse(PathBuf),
    /// The disk.
    #[error(
        "open the index of orders `{0}`: {1}\nhint: let the relay's user write there, or set learn.max_orders = 0 to do without"
    )]
    Disk(PathBuf, redb::Error),
}

/// There is no room to remember the order: a notice that names it would find nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the index of orders cannot be written")]
pub struct NotNoted;

/// The index; cheap to clone. Its writer ends when the last one is gone, and has then written everything.
#[derive(Clone, Debug)]
pub struct Orders(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Index>);

#[derive(Debug)]
struct Index {
    database: Database,
    desk: Mutex<Desk>,
    something: Condvar,
    hashes: RandomState,
}

/// What is not on disk yet, and what need not be noted again.
#[derive(Debug, Default)]
struct Desk {
    waiting: Notes,
    writing: Arc<Notes>,
    recent: HashSet<u64>,
    over: bool,
}

/// By order number: who was mailed about it, as written, and the day.
type Notes = HashMap<u64, Note>;

#[derive(Clone, Debug, Default)]
struct Note {
    recipients: Vec<String>,
    day: u32,
}

impl Orders {
    /// Opens the file, or begins it; await the handle after the last [`Orders`] is dropped. A file that is damaged is put
    /// aside: orders of before are then not known, and no mail is stopped for it. Blocks on the disk.
    pub fn open(path: &Path, caps: Caps) -> Result<(Self, JoinHandle<()>), OpenError> {
        let database = match open(path) {
            Err(OpenError::Disk(_, error)) if is_damage(&error) => {
                set_aside(path)?;
                open(path)?
            }
            opened => opened?,
        };
        let (desk, something, hashes) = (Mutex::default(), Condvar::new(), RandomState::new());
        let index = Arc::new(Index { database, desk, something, hashes });
        let writer = Writer { index: index.clone(), path: path.to_owned(), caps };
        Ok((Self(Arc::new(Handle(index))), spawn_blocking(move || writer.run())))
    }

    /// A mail to these recipients names these orders. Known from here on.
    pub fn note(&self, orders: &[Order], recipients: &[&Address], now: Timestamp) -> Result<(), NotNoted> {
        let index = &*self.0.0;
        let mut desk = index.desk();
        for order in orders {
            for to in recipients.iter().take(MAX_RECIPIENTS) {
                let pair = index.hashes.hash_one((order, to.as_str()));
                if desk.recent.contains(&pair) {
                    continue;
                }
                if desk.waiting.len() >= WAITING {
                    return Err(NotNoted);
                }
                desk.waiting.entry(order.number()).or_default().add(to.as_str(), day(now));
                if desk.recent.len() >= RECENT {
                    desk.recent.clear();
                }
                desk.recent.insert(pair);
            }
        }
        let news = !desk.waiting.is_empty();
        drop(desk);
        if news {
            index.something.notify_one();
        }
        Ok(())
    }

    /// Who was mailed about an order. Blocks on the disk, should the page not be in memory.
    pub fn recipients(&self, order: Order) -> Vec<Address> {
        let index = &*self.0.0;
        let fresh = {
            let desk = index.desk();
            let notes = [&desk.waiting, &desk.writing].map(|notes| notes.get(&order.number()).cloned().unwrap_or_default());
            notes.map(|note| note.recipients).concat()
        };
        let mut found = index.look_up(order).unwrap_or_else(|error| {
            tracing::error!("the index of orders cannot be read: {error}");
            Vec::new()
        });
        for text in fresh {
            if !found.iter().any(|known| is_same(known.as_str(), &text)) {
                found.extend(Address::parse(&text));
            }
        }
        found
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.desk().over = true;
        self.0.something.notify_one();
    }
}

impl Note {
    fn add(&mut self, to: &str, day: u32) {
        self.day = self.day.max(day);
        if self.recipients.len() < MAX_RECIPIENTS && !self.recipients.iter().any(|known| known == to) {
            self.recipients.push(to.to_owned());
        }
    }
}

impl Index {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look_up(&self, order: Order) -> Result<Vec<Address>, redb::Error> {
        let table = match self.database.begin_read()?.open_table(BUYERS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let value = table.get(order.number())?;
        Ok(value.map(|value| read(value.value()).1.filter_map(|text| Address::parse(text).ok()).collect()).unwrap_or_default())
    }
}

struct Writer {
    index: Arc<Index>,
    path: PathBuf,
    caps: Caps,
}

impl Writer {
    fn run(self) {
        // One that was written, with its room: a map that grows anew for each batch keeps mail waiting.
        let mut spare = Notes::new();
        loop {
            let idle = |desk: &mut Desk| desk.waiting.is_empty() && !desk.over;
            let desk = self.index.something.wait_while(self.index.desk(), idle).unwrap_or_else(PoisonError::into_inner);
            let over = desk.over;
            drop(desk);
            if !over {
                std::thread::sleep(GATHER);
            }
            let notes = {
                let mut desk = self.index.desk();
                desk.writing = Arc::new(std::mem::replace(&mut desk.waiting, std::mem::take(&mut spare)));
                desk.writing.clone()
            };
            let written = self.write(&notes);
            let mut desk = self.index.desk();
            desk.writing = Arc::default();
            if let Err(error) = &written {
                self.refused(error);
                // Nothing is forgotten before there is no room for it.
                for (order, note) in notes.iter() {
                    let waiting = desk.waiting.entry(*order).or_default();
                    note.recipients.iter().for_each(|to| waiting.add(to, note.day));
                }
            }
            let over = desk.over && (written.is_err() || desk.waiting.is_empty());
            drop(desk);
            spare = Arc::into_inner(notes).unwrap_or_default();
            spare.clear();
            if over {
                return;
            }
            if written.is_err() {
                std::thread::sleep(AGAIN);
            }
        }
    }

    fn refused(&self, error: &redb::Error) {
        tracing::error!(
            "write {}: {error}\nhint: free space or mend the folder; until then new orders are kept in memory, and mail that names \
             one gets 451 when there are too many",
            self.path.display()
        );
    }

    fn write(&self, notes: &Notes) -> Result<(), redb::Error> {
        let transaction = self.index.database.begin_write()?;
        let mut changed = false;
        {
            let (mut buyers, mut days) = (transaction.open_table(BUYERS)?, transaction.open_table(DAYS)?);
            // In the order of the table, which finds its pages near one another.
            let mut orders: Vec<_> = notes.iter().collect();
            orders.sort_unstable_by_key(|(order, _)| **order);
            for (order, note) in orders {
                let known = buyers.get(order)?.map(|value| value.value().to_vec());
                let Some((before, value)) = joined(known.as_deref(), note) else { continue };
                if let Some(before) = before {
                    days.remove((before, *order))?;
                }
                buyers.insert(order, value.as_slice())?;
                days.insert((note.day, *order), ())?;
                changed = true;
            }
            if let Some(today) = notes.values().map(|note| note.day).max().filter(|_| changed) {
                self.drop_oldest(&mut buyers, &mut days, today)?;
            }
        }
        if changed {
            transaction.commit()?
        } else {
            transaction.abort()?
        }
        Ok(())
    }

    /// Those beyond the age, and those beyond the number.
    fn drop_oldest(
        &self,
        buyers: &mut redb::Table<'_, u64, &[u8]>,
        days: &mut redb::Table<'_, (u32, u64), ()>,
        today: u32,
    ) -> Result<(), StorageError> {
        let oldest = today.saturating_sub(u32::try_from(self.caps.age.as_secs() / 86_400).unwrap_or(u32::MAX));
        for _ in 0..DROPPED_AT_ONCE {
            let Some((day, order)) = days.first()?.map(|(key, _)| key.value()) else { return Ok(()) };
            if day >= oldest && buyers.len()? <= self.caps.entries {
                return Ok(());
            }
            days.remove((day, order))?;
            buyers.remove(order)?;
        }
        Ok(())
    }
}

/// The day and the recipients of a value.
fn read(value: &[u8]) -> (u32, impl Iterator<Item = &str>) {
    let (day, texts) = value.split_first_chunk().map_or((0, &[][..]), |(day, texts)| (u32::from_le_bytes(*day), texts));
    (day, std::str::from_utf8(texts).unwrap_or_default().split('\n').filter(|text| !text.is_empty()))
}

/// The value with what the note adds, and the day of the former one; `None` where it adds nothing.
fn joined(known: Option<&[u8]>, note: &Note) -> Option<(Option<u32>, Vec<u8>)> {
    let (before, mut all) = match known {
        Some(value) => {
            let (day, texts) = read(value);
            (Some(day), texts.map(str::to_owned).collect::<Vec<_>>())
        }
        None => (None, Vec::new()),
    };
    let count = all.len();
    for to in &note.recipients {
        if all.len() < MAX_RECIPIENTS && !all.iter().any(|known| is_same(known, to)) {
            all.push(to.clone());
        }
    }
    let is_old = before.is_none_or(|day| note.day >= day.saturating_add(SAME_FOR_DAYS));
    if all.len() == count && !is_old {
        return None;
    }
    let mut value = note.day.to_le_bytes().to_vec();
    value.extend_from_slice(all.join("\n").as_bytes());
    Some((before, value))
}

fn is_same(one: &str, other: &str) -> bool {
    let key = |text: &str| Address::parse(text).map(|address| address.key(PlusTags::Ignore).to_string());
    one == other || key(one) == key(other)
}

fn day(time: Timestamp) -> u32 {
    u32::try_from(time.as_second() / 86_400).unwrap_or_default()
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let failed = |error: redb::Error| OpenError::Disk(path.to_owned(), error);
    let begin = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // Who has bought something is nobody else's business.
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        sync_above(path).map(|()| file)
    };
    let file: File = begin().map_err(|e: io::Error| failed(e.into()))?;
    let told = |error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.to_owned()),
        error => failed(error.into()),
    };
    let backend = FileBackend::new(file).map_err(told)?;
    Builder::new().set_cache_size(CACHE).create_with_backend(backend).map_err(told)
}

/// The file is there and can be read, but is none of ours.
fn is_damage(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) | redb::Error::TableTypeMismatch { .. } => true,
        _ => false,
    }
}

fn set_aside(path: &Path) -> Result<(), OpenError> {
    let aside = path.with_extension(format!("damaged-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")));
    std::fs::rename(path, &aside).map_err(|e| OpenError::Disk(path.to_owned(), e.into()))?;
    tracing::error!(
        "the index of orders is damaged and was put aside as {}; a new one is begun: notices that name only an order of before wait until that order is mailed about again",
        aside.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Orders {
        async fn is_written(&self) {
            let is_idle = || {
                let desk = self.0.0.desk();
                desk.waiting.is_empty() && desk.writing.is_empty()
            };
            while !is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    const CAPS: Caps = Caps { entries: 3, age: Duration::from_secs(100 * 86_400) };

    fn order(number: u32) -> Order {
        Order::parse(&format!("111-0000000-{number:07}")).unwrap()
    }

    fn on(day: i64) -> Timestamp {
        Timestamp::from_second(day * 86_400 + 7).unwrap()
    }

    async fn note(orders: &Orders, number: u32, to: &[&str], day: i64) {
        let to: Vec<_> = to.iter().map(|to| Address::parse(to).unwrap()).collect();
        orders.note(&[order(number)], &to.iter().collect::<Vec<_>>(), on(day)).unwrap();
        orders.is_written().await;
    }

    fn found(orders: &Orders, number: u32) -> Vec<String> {
        orders.recipients(order(number)).iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn what_was_noted_is_there_after_a_new_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.redb");
        let (orders, writer) = Orders::open(&path, CAPS).unwrap();
        assert!(matches!(Orders::open(&path, CAPS), Err(OpenError::InUse(_))));
        assert_eq!(found(&orders, 1), [""; 0]);
        note(&orders, 1, &["A+1@x.example"], 20_000).await;
        note(&orders, 1, &["a@x.example", "b@x.example"], 20_001).await;
        drop(orders);
        writer.await.unwrap();
        let (orders, _) = Orders::open(&path, CAPS).unwrap();
        assert_eq!(found(&orders, 1), ["A+1@x.example", "b@x.example"]);
        assert_eq!(found(&orders, 2), [""; 0]);
    }

    #[tokio::test]
    async fn the_oldest_go_first_and_no_order_belongs_to_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let (orders, _) = Orders::open(&folder.path().join("orders.redb"), CAPS).unwrap();
        let many: Vec<_> = (0..20).map(|number| format!("a{number}@x.example")).collect();
        note(&orders, 1, &many.iter().map(String::as_str).collect::<Vec<_>>(), 20_000).await;
        assert_eq!(found(&orders, 1).len(), MAX_RECIPIENTS);
        for number in 2..=3 {
            note(&orders, number, &["a@x.example"], 20_000).await;
        }
        // Mailed about again, so it is not the oldest any more.
        note(&orders, 1, &["a0@x.example"], 20_050).await;
        orders.0.0.desk().recent.clear();
        note(&orders, 1, &["a0@x.example"], 20_050).await;
        note(&orders, 4, &["a@x.example"], 20_050).await;
        assert_eq!([1, 2, 3, 4].map(|number| found(&orders, number).is_empty()), [false, true, false, false]);
        note(&orders, 5, &["a@x.example"], 20_101).await;
        assert_eq!([1, 3, 4, 5].map(|number| found(&orders, number).is_empty()), [false, true, false, false]);
    }

    #[tokio::test]
    async fn a_damaged_file_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.redb");
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        let (orders, _) = Orders::open(&path, CAPS).unwrap();
        note(&orders, 1, &["a@x.example"], 20_000).await;
        assert_eq!(found(&orders, 1), ["a@x.example"]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

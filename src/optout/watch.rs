//! Keeps the list in force in step with its files: looks, waits until they are still, reads, replaces the list whole.
//! Never lets a broken or half-written file weaken the list in force.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use jiff::Timestamp;
use tokio::sync::watch;

use super::file::{Loaded, load};
use super::list::{OptOutList, Source};
use crate::disk::Followed;
use crate::mail::PlusTags;
use crate::place::Fault;

/// Below this many entries a list may shrink as it likes.
const SMALL: usize = 100;

/// The list in force, and what it is made of.
#[derive(Debug)]
pub struct Lists {
    paths: Vec<PathBuf>,
    learned: Vec<PathBuf>,
    tags: PlusTags,
    max_shrink: f64,
    current: ArcSwap<OptOutList>,
    /// Whoever reads puts in force what it has read before another one reads.
    reading: Mutex<()>,
    changed: watch::Sender<()>,
    /// When the list in force was read; seconds since 1970.
    since: AtomicI64,
    /// How often it could not be read again,
    failures: AtomicU64,
    /// and which parts are not what stands on the disk.
    stale: [AtomicBool; 2],
    /// As the files were before they were first read: a change since then is not missed.
    opened: [Followed; 2],
}

/// Which part of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What people have written down.
    Written,
    /// What was learned.
    Learned,
}

impl Lists {
    /// Reads the lists for the first time. A fault here means: do not start.
    pub fn open(paths: Vec<PathBuf>, tags: PlusTags, max_shrink: f64) -> Result<Self, Fault> {
        let opened = [Followed::begin(&paths), Followed::begin(&[])];
        let current = ArcSwap::from_pointee(load(&paths, tags)?.list);
        let (learned, reading, changed) = (Vec::new(), Mutex::default(), watch::Sender::new(()));
        let since = AtomicI64::new(Timestamp::now().as_second());
        let (failures, stale) = (AtomicU64::new(0), Default::default());
        Ok(Self { paths, learned, tags, max_shrink, current, reading, changed, since, failures, stale, opened })
    }

    /// The same with the list of what was learned, read for the first time.
    pub fn with_learned(mut self, learned: PathBuf) -> Result<Self, Fault> {
        self.learned = vec![learned];
        self.opened[Part::Learned as usize] = Followed::begin(&self.learned);
        let learned = load(&self.learned, self.tags)?.list;
        let both = self.current().with_learned(&learned);
        self.current = ArcSwap::from_pointee(both);
        Ok(self)
    }

    /// The list of this moment.
    pub fn current(&self) -> Guard<Arc<OptOutList>> {
        self.current.load()
    }

    /// The same for whoever holds it while it waits for something.
    pub fn current_shared(&self) -> Arc<OptOutList> {
        self.current.load_full()
    }

    /// No other list has come into force since.
    pub fn is_current(&self, list: &Arc<OptOutList>) -> bool {
        Arc::ptr_eq(&self.current.load(), list)
    }

    /// The files of a part, as they were before they were first read: a change since then is not missed.
    pub fn followed(&self, part: Part) -> Followed {
        self.opened[part as usize].clone()
    }

    /// Since when the list of this moment is in force.
    pub fn since(&self) -> Timestamp {
        Timestamp::from_second(self.since.load(Ordering::Relaxed)).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// How often it could not be read again.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// What stands on the disk was refused when it was read last, and a former list is in force.
    pub fn is_stale(&self) -> bool {
        [Part::Written, Part::Learned].into_iter().any(|part| self.is_stale_in(part))
    }

    /// The same for one part.
    pub fn is_stale_in(&self, part: Part) -> bool {
        self.stale[part as usize].load(Ordering::Relaxed)
    }

    /// Tells of every list that comes into force from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Reads all files of a part again, and says in the log what came of it.
    pub async fn renew(self: Arc<Self>, part: Part) {
        let lists = self.clone();
        let read = tokio::task::spawn_blocking(move || lists.reload(part)).await;
        let failed = !matches!(read, Ok(Ok(_)));
        self.failures.fetch_add(u64::from(failed), Ordering::Relaxed);
        self.stale[part as usize].store(failed, Ordering::Relaxed);
        match read {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(loaded))) => {
                let current = self.current();
                tracing::info!(entries = current.len(), list = current.fingerprint(), "opt-out list reloaded");
                if loaded.twin_count > 0 {
                    tracing::warn!(count = loaded.twin_count, "some opt-outs stand in the lists twice; `check` names them");
                }
            }
            Ok(Err(fault)) => tracing::error!("opt-out list not reloaded, the last good one stays in force: {fault}"),
            Err(_) => tracing::error!("opt-out list not reloaded, the last good one stays in force: the reader failed"),
        }
    }

    /// Reads all files of a part again and puts them in force, unless something is wrong with them; `None` where they are as
    /// they were. Blocks on the disk.
    pub fn reload(&self, part: Part) -> Result<Option<Loaded>, Fault> {
        let _alone = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let (paths, files) = match part {
            Part::Written => (&self.paths, current.files()),
            Part::Learned => (&self.learned, current.learned_files()),
        };
        let mut loaded = load(paths, self.tags)?;
        let new = std::mem::take(&mut loaded.list);
        if part == Part::Learned && new.fingerprint() == current.learned_fingerprint() {
            return Ok(None);
        }
        self.refuse_shrinking(files, new.files())?;
        let list = match part {
            Part::Written => current.with_written(&new),
            Part::Learned => current.with_learned(&new),
        };
        self.current.store(Arc::new(list));
        self.since.store(Timestamp::now().as_second(), Ordering::Relaxed);
        self.changed.send_replace(());
        Ok(Some(loaded))
    }

    /// A list that suddenly lost most of its entries was more likely damaged than meant.
    fn refuse_shrinking(&self, old: &[Source], new: &[Source]) -> Result<(), Fault> {
        for (old, new) in old.iter().zip(new) {
            if old.entries > 0 && new.bytes == 0 {
                return Err(Fault::of_file(&old.path, format_args!("is empty, and had {} entries", old.entries)).hint(
                    "a full disk empties files; if it is meant, write a comment into it; until then the former list is in force",
                ));
            }
            let lost = old.entries.saturating_sub(new.entries);
            if old.entries > SMALL && lost as f64 > old.entries as f64 * self.max_shrink {
                let message = format!("would shrink from {} to {} entries", old.entries, new.entries);
                return Err(Fault::of_file(&old.path, message).hint(
                    "if that is meant, restart the relay, or raise `opt_out.max_shrink`; until then the former list is in force",
                ));
            }
        }
        Ok(())
    }
}

//! Keeps the list in force in step with its files: looks, waits until they are still, reads, replaces the list whole.
//! Never lets a broken or half-written file weaken the list in force.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::file::{Loaded, load};
use super::list::OptOutList;
use crate::disk::Followed;
use crate::mail::PlusTags;
use crate::place::Fault;

/// Below this many entries a list may shrink as it likes.
const SMALL: usize = 100;

/// The list in force, and what it is made of.
#[derive(Debug)]
pub struct Lists {
    paths: Vec<PathBuf>,
    tags: PlusTags,
    max_shrink: f64,
    current: ArcSwap<OptOutList>,
    /// As the files were before they were first read: a change since then is not missed.
    opened: Followed,
}

impl Lists {
    /// Reads the lists for the first time. A fault here means: do not start.
    pub fn open(paths: Vec<PathBuf>, tags: PlusTags, max_shrink: f64) -> Result<Self, Fault> {
        let opened = Followed::begin(&paths);
        let list = load(&paths, tags)?.list;
        Ok(Self { paths, tags, max_shrink, current: ArcSwap::from_pointee(list), opened })
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

    /// The files, as they were before they were first read: a change since then is not missed.
    pub fn followed(&self) -> Followed {
        self.opened.clone()
    }

    /// Reads all files again, and says in the log what came of it.
    pub async fn renew(self: Arc<Self>) {
        let lists = self.clone();
        match tokio::task::spawn_blocking(move || lists.reload()).await {
            Ok(Ok(loaded)) => {
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

    /// Reads all files again and puts the new list in force, unless something is wrong with it. Blocks on the disk.
    pub fn reload(&self) -> Result<Loaded, Fault> {
        let mut loaded = load(&self.paths, self.tags)?;
        self.refuse_shrinking(&loaded.list)?;
        let list = std::mem::take(&mut loaded.list);
        self.current.store(Arc::new(list));
        Ok(loaded)
    }

    /// A list that suddenly lost most of its entries was more likely damaged than meant.
    fn refuse_shrinking(&self, new: &OptOutList) -> Result<(), Fault> {
        let current = self.current();
        for (old, new) in current.files().iter().zip(new.files()) {
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

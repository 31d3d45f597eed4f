//! Keeps the list in force in step with its files: looks, waits until they are still, reads, replaces the list whole.
//! Never lets a broken or half-written file weaken the list in force.
//!
//! It polls and does nothing else. A few `stat` calls every 150 ms cost nothing that can be measured, are the same on
//! local disks and network mounts, and do not care whether an editor writes, renames or replaces.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::file::{Loaded, load};
use super::list::OptOutList;
use crate::mail::PlusTags;
use crate::place::Fault;

/// A change counts once the files have looked the same for two looks: an editor may still be writing.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Looks for which a file that became smaller must stay the same: more likely its writer has not finished.
const SMALLER: usize = 4;

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
    opened: Vec<Stamp>,
    /// Somebody wants them read again.
    asked: Notify,
    /// They were.
    reread: Notify,
}

/// What tells one state of a file from another: inode, size, change and modification times in nanoseconds.
type Stamp = Option<(u64, u64, (i64, i64), (i64, i64))>;

impl Lists {
    /// Reads the lists for the first time. A fault here means: do not start.
    pub fn open(paths: Vec<PathBuf>, tags: PlusTags, max_shrink: f64) -> Result<Self, Fault> {
        let opened = stamps(&paths);
        let list = load(&paths, tags)?.list;
        let current = ArcSwap::from_pointee(list);
        Ok(Self { paths, tags, max_shrink, current, opened, asked: Notify::new(), reread: Notify::new() })
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

    /// Reads all files again and puts the new list in force, unless something is wrong with it. Blocks on the disk.
    pub fn reload(&self) -> Result<Loaded, Fault> {
        let mut loaded = load(&self.paths, self.tags)?;
        self.refuse_shrinking(&loaded.list)?;
        let list = std::mem::take(&mut loaded.list);
        self.current.store(Arc::new(list));
        Ok(loaded)
    }

    /// Has them read again by whoever watches them, changed or not (SIGHUP), and returns when that was done.
    pub async fn reread(&self) {
        let mut reread = pin!(self.reread.notified());
        // From now on, so that no answer is missed.
        reread.as_mut().enable();
        self.asked.notify_one();
        reread.await;
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

fn stamps(paths: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.size(), (meta.ctime(), meta.ctime_nsec()), (meta.mtime(), meta.mtime_nsec())))
    };
    paths.iter().map(stamp).collect()
}

/// Some file is there no more, or has lost bytes.
fn is_smaller(seen: &[Stamp], in_force: &[Stamp]) -> bool {
    let size = |stamp: &Stamp| stamp.map_or(0, |(_, size, ..)| size);
    seen.iter().zip(in_force).any(|(seen, in_force)| size(seen) < size(in_force))
}

async fn stamps_off_the_runtime(lists: &Arc<Lists>) -> Vec<Stamp> {
    let lists = lists.clone();
    tokio::task::spawn_blocking(move || stamps(&lists.paths)).await.unwrap_or_default()
}

/// Follows the files until `stop`, and hears who wants them [`reread`](Lists::reread).
pub async fn watch(lists: Arc<Lists>, stop: CancellationToken) {
    let mut in_force = lists.opened.clone();
    let mut before = in_force.clone();
    let (mut asked, mut still) = (false, 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = lists.asked.notified() => asked = true,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        };
        let seen = stamps_off_the_runtime(&lists).await;
        still = if seen == before { still + 1 } else { 0 };
        before.clone_from(&seen);
        let enough = if is_smaller(&seen, &in_force) { SMALLER } else { 1 };
        if still >= enough && (asked || seen != in_force) {
            // Whatever comes of it, this state of the files has been dealt with: one line in the log, not one a look.
            in_force = seen;
            reload(&lists).await;
            if std::mem::take(&mut asked) {
                lists.reread.notify_waiters();
            }
        }
    }
}

async fn reload(lists: &Arc<Lists>) {
    let task = tokio::task::spawn_blocking({
        let lists = lists.clone();
        move || lists.reload()
    });
    match task.await {
        Ok(Ok(loaded)) => {
            let current = lists.current();
            tracing::info!(entries = current.len(), list = current.fingerprint(), "opt-out list reloaded");
            if loaded.twin_count > 0 {
                tracing::warn!(count = loaded.twin_count, "some opt-outs stand in the lists twice; `check` names them");
            }
        }
        Ok(Err(fault)) => tracing::error!("opt-out list not reloaded, the last good one stays in force: {fault}"),
        Err(_) => tracing::error!("opt-out list not reloaded, the last good one stays in force: the reader failed"),
    }
}

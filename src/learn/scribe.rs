//! Writes down what is to be learned, in the order in which it comes, and has it in force. Never decides.
//!
//! One writer: whoever waits for the disk waits together. All lessons that come in while a batch is written and read back
//! are the next batch, so ten thousand notices cost a few dozen writes.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};

use super::book::{Book, Fate};
use super::lesson::{Entry, Lesson};
use super::quarantine::Quarantine;
use super::{NotLearned, Settled};
use crate::mail::{Address, PlusTags};
use crate::optout::{Lists, Part, Subject};
use crate::spool::{Spool, records};

/// The most lessons of one batch.
const BATCH: usize = 1000;

/// Somebody waits for these lessons to be in force.
pub struct Request {
    /// In order.
    pub lessons: Vec<Lesson>,
    /// They count towards `learn.max_per_day`.
    pub limited: bool,
    /// Hears what came of each.
    pub done: oneshot::Sender<Result<Vec<Settled>, NotLearned>>,
}

/// The writer.
#[derive(Debug)]
pub struct Scribe {
    /// `learned.toml`
    pub book: Book,
    /// For what a person decides.
    pub quarantine: Quarantine,
    /// The lists in force; none: the relay that runs will read it by itself, if one does.
    pub lists: Option<Arc<Lists>>,
    /// Mail that waits.
    pub spool: Option<Arc<Spool>>,
    /// `learn.max_per_day`
    pub max_per_day: usize,
    /// `opt_out.plus_tags`
    pub tags: PlusTags,
}

impl Scribe {
    /// Until the last one who could have a lesson is gone. Blocks on the disk.
    pub fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(next) = inbox.try_recv()
            {
                batch.push(next);
            }
            let lessons: Vec<_> =
                batch.iter_mut().map(|request| (std::mem::take(&mut request.lessons), request.limited)).collect();
            let mut settled = self.settle(lessons).map(Vec::into_iter);
            for request in batch {
                let result = match &mut settled {
                    Ok(settled) => settled.next().ok_or(NotLearned),
                    Err(NotLearned) => Err(NotLearned),
                };
                // Whoever asked may have hung up; what was learned stays.
                let _ = request.done.send(result);
            }
        }
    }

    /// Writes the lessons of several mails down, and has them in force.
    pub fn settle(&mut self, mails: Vec<(Vec<Lesson>, bool)>) -> Result<Vec<Vec<Settled>>, NotLearned> {
        let now = Timestamp::now();
        let fates = self.append(&mails, now)?;
        let mut fates = fates.into_iter();
        let mut settled = Vec::with_capacity(mails.len());
        for (lessons, _) in mails {
            let each = lessons.into_iter().map(|lesson| match lesson {
                Lesson::Learn(entry) => self.settled(entry, fates.next().unwrap_or(Fate::TooMany)),
                Lesson::Ask(entry, why) => self.ask(entry, why),
                Lesson::Nothing(why) => Ok(Settled::Nothing(why)),
            });
            settled.push(each.collect::<Result<Vec<_>, _>>()?);
        }
        self.count_held(&mut settled);
        Ok(settled)
    }

    /// What is to be learned, on disk and in force; the fates in the order of the lessons.
    fn append(&mut self, mails: &[(Vec<Lesson>, bool)], now: Timestamp) -> Result<Vec<Fate>, NotLearned> {
        let mut fates = Vec::new();
        // Neighbours of one kind go in one write.
        for run in mails.chunk_by(|one, other| one.1 == other.1) {
            let entries: Vec<_> = run.iter().flat_map(|(lessons, _)| lessons).filter_map(Lesson::entry).cloned().collect();
            let most = run.first().and_then(|(_, limited)| limited.then_some(self.max_per_day));
            fates.extend(self.book.append(&entries, most, now).map_err(|fault| {
                tracing::error!("nothing learned: {fault}");
                NotLearned
            })?);
        }
        match &self.lists {
            // Also what stood there before: it is in force only if the file can be read.
            Some(lists) if fates.iter().any(|fate| matches!(fate, Fate::Written | Fate::Known)) => {
                lists.reload(Part::Learned).map_err(|fault| {
                    tracing::error!("what was learned is written down, but not in force: {fault}");
                    NotLearned
                })?;
            }
            _ => {}
        }
        Ok(fates)
    }

    fn settled(&self, entry: Entry, fate: Fate) -> Result<Settled, NotLearned> {
        match fate {
            Fate::Written => Ok(Settled::Learned(entry, 0)),
            Fate::Known => Ok(Settled::Known(entry)),
            Fate::Ended => {
                Ok(Settled::Nothing(format!("{} was learned from it before, and a person has ended that", entry.subject)))
            }
            Fate::TooMany => self.ask(entry, format!("more than `learn.max_per_day` = {} in a day", self.max_per_day)),
        }
    }

    fn ask(&self, entry: Entry, why: String) -> Result<Settled, NotLearned> {
        match self.quarantine.put(&entry, &why) {
            Ok(id) => Ok(Settled::Asked(entry, id, why)),
            // Whoever floods us must not keep what comes behind it from being learned.
            Err(error) if error.kind() == std::io::ErrorKind::QuotaExceeded => {
                tracing::error!(
                    "{} is not learned: {error}\nhint: settle them: optout-relay learn quarantine show",
                    entry.subject
                );
                Ok(Settled::Nothing(format!("{} would wait for a person, but the quarantine is full", entry.subject)))
            }
            Err(error) => {
                tracing::error!("the quarantine does not take {}: {error}\nhint: free space, or mend its folder", entry.subject);
                Err(NotLearned)
            }
        }
    }

    /// How many held messages each new entry stops.
    fn count_held(&self, settled: &mut [Vec<Settled>]) {
        let Some(spool) = self.spool.as_ref().filter(|spool| !spool.is_empty()) else { return };
        let mut new: HashMap<String, &mut usize> = HashMap::new();
        for settled in settled.iter_mut().flatten() {
            if let Settled::Learned(Entry { subject: Subject::Address(address), .. }, held) = settled {
                new.insert(self.key(address), held);
            }
        }
        // A count for people: what cannot be read is told of elsewhere.
        let Ok(records) = records(spool.path(), None) else { return };
        for (_, record) in records {
            let Ok(record) = record else { continue };
            for place in record.waiting() {
                if let Some(held) = new.get_mut(&self.key(&record.envelope.recipients[place].address)) {
                    **held += 1;
                }
            }
        }
    }

    fn key(&self, address: &Address) -> String {
        address.key(self.tags).to_string()
    }
}

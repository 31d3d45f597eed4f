//! Opt-outs that are learned, not typed in: a mail comes in, is recognised, weighed, written down, and in force before anybody
//! is told. Never decides by itself who may be mailed: what it learns is a list like any other.

mod book;
pub mod folder;
pub mod imap;
mod lesson;
mod letter;
mod letterbox;
mod notice;
mod phrases;
mod quarantine;
mod report;
mod scribe;

pub use book::{Book, BookError, Fate};
pub use lesson::{Entry, Intake, Lesson, Wishes, by_hand, decide, of_order};
pub use letterbox::{Asked, Letterbox};
pub use notice::{AuthResult, Evidence, Forwarded, Notice, Seen, recognise, recognise_all};
pub use phrases::Phrases;
pub use quarantine::{Quarantine, Waiting};
pub use report::{Report, ReportKind, Reported};
pub use scribe::Scribe;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::ledger::{self, Learning, Ledger};
use crate::mail::{Address, Mail, Order};
use crate::optout::{Lists, Rule, Subject};
use crate::orders::Orders;
use scribe::Request;

/// Lessons that may wait for the writer. More senders wait in line.
const WAITING: usize = 256;

/// Mails that are larger are taken apart beside the runtime, a few at a time: each is there twice meanwhile.
const LARGE: usize = 32 << 10;
const LARGE_AT_ONCE: usize = 4;

/// So much of a mail is looked at, in bytes: a notice is short, and in a report the part for machines stands before the original.
pub const MOST: usize = 4 << 20;

/// Everything that is needed to learn; cheap to clone.
#[derive(Clone, Debug)]
pub struct Learner {
    /// What notices look like.
    pub phrases: Arc<Phrases>,
    /// The operator's decisions.
    pub wishes: Arc<Wishes>,
    /// Whose orders are whose; none where no index is kept.
    pub orders: Option<Orders>,
    /// `learn.address`
    pub letterbox: Letterbox,
    turns: Arc<Semaphore>,
    ledger: Ledger,
    desk: mpsc::Sender<Request>,
}

/// What came of a mail that was to be learned from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned(pub Vec<Settled>);

/// What came of one lesson.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// In force now; so many held messages were stopped by it.
    Learned(Entry, usize),
    /// It was in force already.
    Known(Entry),
    /// A person decides; the id in the quarantine, and why.
    Asked(Entry, String, String),
    /// Nothing follows; why.
    Nothing(String),
}

/// Nothing was learned, and the mail is to be tried again: the disk, or a list that is broken. The log has the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what was learned cannot be written down")]
pub struct NotLearned;

impl Learner {
    /// Starts the writer; await its handle after the last [`Learner`] is dropped.
    pub fn new(
        phrases: Arc<Phrases>,
        letterbox: Letterbox,
        wishes: Wishes,
        orders: Option<Orders>,
        ledger: Ledger,
        scribe: Scribe,
    ) -> (Self, JoinHandle<()>) {
        let (desk, inbox) = mpsc::channel(WAITING);
        let writer = spawn_blocking(move || scribe.run(inbox));
        let turns = Arc::new(Semaphore::new(LARGE_AT_ONCE));
        (Self { phrases, wishes: Arc::new(wishes), letterbox, orders, turns, ledger, desk }, writer)
    }

    /// Learns from one mail, dots unstuffed. What it returns is in force.
    pub async fn learn(&self, mail: &[u8], intake: Intake) -> Result<Learned, NotLearned> {
        let mail = &mail[..mail.len().min(MOST)];
        let seen = if mail.len() <= LARGE {
            recognise_all(mail, &self.phrases)
        } else {
            let _turn = self.turns.acquire().await;
            let (mail, phrases) = (mail.to_vec(), self.phrases.clone());
            spawn_blocking(move || recognise_all(&mail, &phrases)).await.map_err(|_| NotLearned)?
        };
        let buyers = self.buyers_of(&seen).await;
        let now = Timestamp::now();
        let lessons = seen.iter().flat_map(|seen| decide(seen, |order| buyers_in(&buyers, order), &self.wishes, intake, now));
        self.settle(lessons.collect(), intake, true).await
    }

    /// Opts out what a person of ours has named. What it returns is in force.
    pub async fn obey(&self, entries: Vec<Entry>, intake: Intake) -> Result<Learned, NotLearned> {
        self.settle(entries.into_iter().map(Lesson::Learn).collect(), intake, false).await
    }

    /// The same for lessons that were weighed already.
    pub async fn weigh(&self, lessons: Vec<Lesson>, intake: Intake) -> Result<Learned, NotLearned> {
        self.settle(lessons, intake, true).await
    }

    /// Whose order it is, as far as that is known.
    pub async fn buyers(&self, order: Order) -> Vec<Address> {
        let Some(index) = self.orders.clone() else { return Vec::new() };
        spawn_blocking(move || index.recipients(order)).await.unwrap_or_default()
    }

    /// The mail that is to leave names orders: remembers whose they are.
    pub fn note(&self, mail: &Mail) -> Result<(), NotLearned> {
        let Some(index) = &self.orders else { return Ok(()) };
        let buyers: Vec<_> =
            mail.envelope.recipients.iter().map(|to| &to.address).filter(|to| self.phrases.is_buyer(to)).collect();
        if buyers.is_empty() || mail.orders().is_empty() {
            return Ok(());
        }
        index.note(mail.orders(), &buyers, Timestamp::now()).map_err(|_| NotLearned)
    }

    /// An order that an entry names has found its buyer, who has opted out with it.
    pub async fn bind(&self, rule: &Rule<'_>, buyer: &Address) -> Result<(), NotLearned> {
        let Some(order) = rule.order().filter(|_| !self.wishes.spare(buyer)) else { return Ok(()) };
        let place = format!("{}:{}", rule.file.display(), rule.line);
        let entry = of_order(order, buyer, rule.attributes, &place, Timestamp::now());
        self.obey(vec![entry], Intake::Order).await.map(|_| ())
    }

    /// Looks for the buyers of orders that have come into a list, until `stop`: an order is either known by then, or the mail
    /// that names it first is judged by that list.
    pub async fn bind_known(self, lists: Arc<Lists>, stop: CancellationToken) {
        let (mut changes, mut looked_for) = (lists.changes(), HashSet::new());
        loop {
            let list = lists.current_shared();
            let new: Vec<_> = list.orders().filter(|order| !looked_for.contains(order)).collect();
            for order in new {
                let found = self.buyers(order).await;
                let bound = async {
                    for buyer in &found {
                        if let Some(rule) = list.of_order(order) {
                            self.bind(&rule, buyer).await?;
                        }
                    }
                    Ok::<(), NotLearned>(())
                };
                // What could not be written down is looked for again at the next change.
                if bound.await.is_ok() {
                    looked_for.insert(order);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn buyers_of(&self, seen: &[Seen]) -> Vec<(Order, Vec<Address>)> {
        let notices = seen.iter().filter_map(|seen| if let Seen::OptedOut(notice) = seen { Some(notice) } else { None });
        let orders: Vec<_> = notices.flat_map(|notice| notice.orders.iter().copied()).collect();
        match self.orders.clone() {
            Some(index) if !orders.is_empty() => {
                let look = move || orders.into_iter().map(|order| (order, index.recipients(order))).collect();
                spawn_blocking(look).await.unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    async fn settle(&self, lessons: Vec<Lesson>, intake: Intake, limited: bool) -> Result<Learned, NotLearned> {
        let (done, settled) = oneshot::channel();
        self.desk.send(Request { lessons, limited, done }).await.map_err(|_| NotLearned)?;
        let settled = settled.await.map_err(|_| NotLearned)??;
        let lines: Vec<_> = settled.iter().filter_map(|settled| line(settled, intake)).collect();
        self.ledger.learned(&lines).await.map_err(|_| NotLearned)?;
        Ok(Learned(settled))
    }
}

impl Learned {
    /// Somebody was opted out, or an order waits for its buyer.
    pub fn is_news(&self) -> bool {
        self.0.iter().any(|settled| matches!(settled, Settled::Learned(..)))
    }

    /// It was a notice or a report that says something: also one that was known, or that a person must look at.
    pub fn is_something(&self) -> bool {
        !self.0.iter().all(|settled| matches!(settled, Settled::Nothing(_)))
    }
}

/// In one line, for people.
impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, settled) in self.0.iter().enumerate() {
            write!(f, "{}{settled}", if at > 0 { "; " } else { "" })?;
        }
        if self.0.is_empty() { f.write_str("nothing learned: it names nobody") } else { Ok(()) }
    }
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Learned(Entry { subject: Subject::Order(order), .. }, _) => {
                write!(f, "learned: order {order} opted out, its buyer will be known by the first mail that names it")
            }
            Self::Learned(entry, 0) => write!(f, "learned: {} opted out", entry.subject),
            Self::Learned(entry, held) => write!(f, "learned: {} opted out, {held} held messages are stopped", entry.subject),
            Self::Known(entry) => write!(f, "known: {} had opted out before", entry.subject),
            Self::Asked(entry, id, why) => write!(f, "waits as {id} for a person to decide: {}, {why}", entry.subject),
            Self::Nothing(why) => write!(f, "nothing learned: {why}"),
        }
    }
}

fn buyers_in(known: &[(Order, Vec<Address>)], order: Order) -> Vec<Address> {
    known.iter().find(|(known, _)| *known == order).map(|(_, buyers)| buyers.clone()).unwrap_or_default()
}

/// The line about it in the log; none where nothing has changed.
pub fn line(settled: &Settled, intake: Intake) -> Option<Learning> {
    use ledger::Lesson::{Bound, Learned, Quarantined, Waiting};
    let (event, entry, held, why) = match settled {
        Settled::Learned(entry, held) => {
            let event = match (&entry.subject, intake) {
                (Subject::Order(_), _) => Waiting,
                (_, Intake::Order) => Bound,
                _ => Learned,
            };
            (event, entry, *held, None)
        }
        Settled::Asked(entry, _, why) => (Quarantined, entry, 0, Some(why.clone())),
        Settled::Known(_) | Settled::Nothing(_) => return None,
    };
    let line = about(entry, event, intake.to_string());
    Some(Learning { held, reason: why.or(line.reason), ..line })
}

/// Lines that are missing in the log: what was written down right before the relay died. `told` is what stands at its end.
pub fn untold(book: &Book, told: &[Learning]) -> Vec<Learning> {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let last = told.iter().filter_map(|line| time(&line.time)).max();
    // Times of entries have no fractions.
    let since = last.map(|last| last - SignedDuration::from_secs(2));
    let known: HashSet<_> = told.iter().map(|line| (&line.address, &line.order, &line.message_id)).collect();
    let lines = book.latest().filter_map(|entry| {
        let evidence = entry.attributes.evidence.as_ref()?;
        let learned = time(evidence.learned.as_deref()?)?;
        let event = match (&entry.subject, evidence.intake.as_deref()) {
            (Subject::Order(_), _) => ledger::Lesson::Waiting,
            (_, Some("order")) => ledger::Lesson::Bound,
            _ => ledger::Lesson::Learned,
        };
        let line = about(entry, event, evidence.intake.clone().unwrap_or_default());
        let is_told = known.contains(&(&line.address, &line.order, &line.message_id));
        (!is_told && since.is_none_or(|since| learned >= since)).then_some(line)
    });
    lines.collect()
}

/// The line about what became of an entry.
pub fn about(entry: &Entry, event: ledger::Lesson, intake: String) -> Learning {
    let Entry { subject, attributes } = entry;
    let evidence = attributes.evidence.as_deref().cloned().unwrap_or_default();
    Learning {
        time: Timestamp::now().to_string(),
        event,
        intake,
        address: if let Subject::Address(address) = subject { Some(address.to_string()) } else { None },
        order: evidence.order,
        evidence: evidence.by,
        verified: attributes.verified,
        message_id: evidence.message_id,
        since: attributes.since.clone(),
        source: attributes.source.clone(),
        reason: attributes.reason.clone(),
        held: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::PlusTags;
    use crate::optout::Subject;

    #[test]
    fn only_what_was_written_right_before_the_end_can_be_untold() {
        let folder = tempfile::tempdir().unwrap();
        let mut book = Book::open(&folder.path().join("learned.toml"), PlusTags::Ignore).unwrap();
        let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).unwrap();
        let entry = |name: &str, seconds| {
            let subject = Subject::guess(name).unwrap();
            by_hand(subject, "x".into(), "x".into(), None, Intake::Folder, at(seconds))
        };
        let entries = [entry("old@x.example", 0), entry("told@x.example", 100), entry("untold@x.example", 100)];
        book.append(&entries, None, at(100)).unwrap();
        let line =
            |entry, seconds| Learning { time: at(seconds).to_string(), ..about(entry, ledger::Lesson::Learned, "folder".into()) };
        let found = |told: &[Learning]| untold(&book, told).into_iter().filter_map(|line| line.address).collect::<Vec<_>>();
        assert_eq!(found(&[line(&entries[1], 101)]), ["untold@x.example"]);
        assert_eq!(found(&[line(&entries[1], 101), line(&entries[2], 101)]), [""; 0]);
        assert_eq!(found(&[]).len(), 3);
    }
}

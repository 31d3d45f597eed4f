//! The line. A message is accepted, becomes an envelope, is judged recipient by recipient, is delivered or held, and
//! every ending is logged. Read this file first. Never opens a socket, never reads a file.

mod answer;
mod held;
mod judged;
mod lessons;
mod patience;
mod postfix;
mod sent;
mod words;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dsn;
use crate::learn::{Learner, NotLearned};
use crate::ledger::{Event, Ledger, NotWritten};
use crate::mail::{Address, Envelope, Id, Mail, Message, Outcome, received};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::optout::{self, Action, Context, Lists, Policy, Title, Verdict};
use crate::smtp::Reply;
use crate::spool::{Record, Spool};
use crate::upstream::{Load, Sent, To, Upstream};
pub use postfix::TARGET as POSTFIX;

use answer::{Answer, answer};
use judged::{Judged, Logged, Rules, event};

/// A message with more `Received:` fields than this goes in a circle (RFC 5321 6.3).
const MAX_HOPS: usize = 50;

/// Everything on the way of a message.
#[derive(Debug)]
pub struct Relay {
    /// Our name in `Received:`.
    pub hostname: Arc<str>,
    /// The opt-outs of this moment.
    pub lists: Arc<Lists>,
    /// The operator's decisions.
    pub policy: Policy,
    /// What is learned, and whose orders are whose.
    pub learner: Learner,
    /// Judge the mailboxes of To, Cc and Bcc too (`opt_out.headers = "enforce"`).
    pub judge_headers: bool,
    /// The proof.
    pub ledger: Ledger,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The real host.
    pub upstream: Upstream,
    /// Mail that waits.
    pub spool: Arc<Spool>,
    /// Room for it while it is tried.
    pub memory: Memory,
    /// Whether the tool waits for the host, and how long; `None`: until its message is stored.
    pub patience: Option<Duration>,
    /// For each attempt that a tool has waited for too long, while it goes on: what is under way is in memory.
    pub late: Arc<Semaphore>,
    /// For tools that wait.
    pub seats: Seats,
    /// Attempts for which no tool waits.
    pub attempts: TaskTracker,
    /// The relay is shutting down.
    pub stop: CancellationToken,
    /// How many ids were given.
    pub ids_given: AtomicU64,
    /// The chance in them.
    pub chance: RandomState,
}

/// What one attempt came to. `Err` is an answer too: it came before anything could leave.
pub type Attempted = Result<Attempt, Reply>;

/// Seats for tools that wait for an attempt.
pub type Seats = patience::Seats<Attempted>;

/// An attempt that is over.
#[derive(Debug, Default)]
pub struct Attempt {
    /// By the place of the recipient.
    outcomes: Vec<(usize, Outcome)>,
    /// A host took it that reports no success, so those of them whose sender wants to hear of it are told by us.
    relayed: Vec<usize>,
}

/// How far an attempt goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// Everybody is judged, and who opted out is in the log.
    Judged,
    /// The host has spoken.
    Sent,
}

impl Relay {
    /// At the door: the answer to RCPT. A refusal is on disk before it is told.
    pub async fn judge(&self, envelope: &Envelope, recipient: &Address) -> Reply {
        if self.learner.letterbox.asked(recipient).is_some() {
            return Reply::RECIPIENT_OK;
        }
        let event = {
            let (list, now) = (self.lists.current(), Timestamp::now());
            let context = Context { sender: &envelope.sender, now, title: Title::NotYet, policy: &self.policy, orders: &[] };
            match optout::judge(&list, recipient, &context) {
                Verdict::OptedOut(suppression) if suppression.action == Action::Reject => {
                    event(envelope, recipient, &suppression, &list, &Reply::OPTED_OUT, now)
                }
                // Settled when the mail would leave, with the list and the header of that moment.
                Verdict::Clear(_) | Verdict::Observed(..) | Verdict::Exempted(..) | Verdict::Open(_) | Verdict::OptedOut(_) => {
                    return Reply::RECIPIENT_OK;
                }
            }
        };
        match self.record(&[event]).await {
            Ok(()) => Reply::OPTED_OUT,
            Err(NotWritten) => Reply::CANNOT_LOG,
        }
    }

    /// After the final dot: judges again, delivers or holds, answers. 250 means that the host has it, that it is on disk,
    /// or that all recipients are suppressed and logged; anything else leaves the message with the tool.
    pub async fn take(self: &Arc<Self>, envelope: Envelope, message: Message) -> Reply {
        let (begun, recipients) = (Instant::now(), envelope.recipients.len());
        let reply = self.settle_at_once(envelope, message).await;
        match reply.is_positive() {
            true => self.metrics.accepted(recipients, begun.elapsed()),
            false => self.metrics.turned_away(reply.code, begun.elapsed()),
        }
        reply
    }

    async fn settle_at_once(self: &Arc<Self>, mut envelope: Envelope, message: Message) -> Reply {
        if message.received_count() > MAX_HOPS {
            return Reply::LOOP;
        }
        let asked = self.learner.letterbox.take_from(&mut envelope);
        let arrived = Timestamp::now();
        let trace = received(&self.hostname, &envelope, arrived);
        let mail = Arc::new(Mail::new(envelope, trace, message));
        if asked.is_empty() {
            return self.forward(mail, arrived).await;
        }
        match self.learn(&asked, &mail).await {
            Err(reply) => reply,
            Ok(learned) if mail.envelope.recipients.is_empty() => Reply::learned(mail.envelope.id, &learned.to_string()),
            Ok(learned) => Self::with_lesson(&mail, &learned, self.forward(mail.clone(), arrived).await),
        }
    }

    /// On to the host, or into the spool.
    async fn forward(self: &Arc<Self>, mail: Arc<Mail>, arrived: Timestamp) -> Reply {
        // A notice may name an order and nobody else: whose it is must be known by then.
        if let Err(NotLearned) = self.learner.note(&mail) {
            return Reply::CANNOT_LEARN;
        }
        postfix::came(&mail);
        match self.patience {
            // Where so many wait for the host already, more would only wait in memory instead of on disk.
            Some(patience) if self.late.available_permits() > 0 && self.spool.may_try() => {
                self.deliver(mail, arrived, patience).await
            }
            _ => self.store(mail, arrived).await,
        }
    }

    /// Tries while the tool waits. Where that takes too long the message is held first, and the attempt that is under way
    /// settles the held one.
    async fn deliver(self: &Arc<Self>, mail: Arc<Mail>, arrived: Timestamp, patience: Duration) -> Reply {
        let mut seat = self.seats.take(self.clone().first_attempt(mail.clone(), Until::Sent));
        let attempted = match seat.within(patience).await {
            Some(attempted) => {
                self.seats.give_back(seat);
                attempted
            }
            None => match self.spool.hold_in_flight(mail.clone(), Record::of(&mail, arrived)).await {
                Ok(held) => {
                    let (relay, late) = (self.clone(), self.late.clone().try_acquire_owned());
                    let settled = async move {
                        let attempted = seat.rest().await;
                        drop(late);
                        relay.conclude(held, attempted).await;
                    };
                    self.attempts.spawn(settled);
                    return Reply::held(mail.envelope.id);
                }
                // The disk does not take it, but the host may.
                Err(error) => {
                    words::not_held(&mail, &error);
                    seat.rest().await
                }
            },
        };
        self.spool.note_host(attempted.as_ref().map_or(&[], |attempt| &attempt.outcomes));
        match attempted {
            Ok(attempt) => self.settle_new(mail, arrived, attempt).await,
            Err(reply) => reply,
        }
    }

    /// Stores first, delivers afterwards.
    async fn store(self: &Arc<Self>, mail: Arc<Mail>, arrived: Timestamp) -> Reply {
        let attempt = match self.clone().first_attempt(mail.clone(), Until::Judged).await {
            Ok(attempt) => attempt,
            Err(reply) => return reply,
        };
        let mut record = Record::of(&mail, arrived);
        if attempt.outcomes.len() == record.outcomes.len() {
            return self.settle_new(mail, arrived, attempt).await;
        }
        record.note(attempt.outcomes);
        let id = mail.envelope.id;
        match self.spool.hold_to_send(mail.clone(), record).await {
            Ok(Some(held)) => {
                self.attempts.spawn(self.clone().send(held));
                Reply::held(id)
            }
            Ok(None) => {
                words::log_held(&mail);
                Reply::held(id)
            }
            Err(error) => words::not_held(&mail, &error),
        }
    }

    /// A message that was not held until now: whoever waits is held, whoever failed is reported.
    async fn settle_new(self: &Arc<Self>, mail: Arc<Mail>, arrived: Timestamp, attempt: Attempt) -> Reply {
        let Attempt { outcomes, relayed } = attempt;
        let id = mail.envelope.id;
        if !relayed.is_empty() {
            let mut record = Record::of(&mail, arrived);
            record.note(outcomes.iter().cloned());
            self.report_relayed(&mail, &record, &relayed).await;
        }
        if outcomes.iter().all(|(_, outcome)| !matches!(outcome, Outcome::Deferred(_))) {
            postfix::removed(id);
        }
        let is_refused = outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Refused(_)));
        match answer(id, &outcomes) {
            Answer::Say(reply) => reply,
            // Nobody gets a report, so the tool hears who did not get its mail.
            Answer::Report { or_else, .. } if is_refused && dsn::to_be_told(&mail.envelope.sender).is_none() => or_else,
            Answer::Report { then, or_else } => {
                let mut record = Record::of(&mail, arrived);
                record.note(outcomes);
                match self.report_failures(&mail, &record).await {
                    Ok(()) => then,
                    Err(error) => {
                        words::not_reported(&mail, &error);
                        or_else
                    }
                }
            }
            Answer::Hold => {
                let mut record = Record::of(&mail, arrived);
                record.next = record.written + self.note(&mut record, outcomes);
                // Whoever has it must not get it again, so the tool is then not asked to send it again.
                let partly = partly_held(&record);
                match self.spool.hold(mail.clone(), record).await {
                    Ok(()) => Reply::held(id),
                    Err(error) => {
                        let reply = words::not_held(&mail, &error);
                        partly.unwrap_or(reply)
                    }
                }
            }
        }
    }

    async fn first_attempt(self: Arc<Self>, mail: Arc<Mail>, until: Until) -> Attempted {
        let everybody: Vec<_> = (0..mail.envelope.recipients.len()).collect();
        self.attempt(&mail, &everybody, None, until).await
    }

    /// One attempt for all who wait; `told` is what the tool has heard about them, if it waits no more. They are judged by
    /// the list of the moment at which the host's connection is there, and nothing leaves before the log has whoever opted
    /// out.
    async fn attempt(&self, mail: &Mail, waiting: &[usize], told: Option<&Reply>, until: Until) -> Attempted {
        let started = Instant::now();
        let load = Load::new(mail);
        let (mut van, mut fresh, mut logged) = (None, false, Logged::new());
        loop {
            let list = self.lists.current_shared();
            let now = Timestamp::now();
            let rules = Rules { policy: &self.policy, headers: self.judge_headers, phrases: &self.learner.phrases, now };
            let judged = Judged::new(&list, mail, waiting, &rules, &logged)?;
            let somebody = !judged.cleared.is_empty() && until == Until::Sent;
            if van.is_none() && somebody {
                // Judged once more when it is here: waiting for a place takes time, and the list may change.
                match self.upstream.open(fresh).await {
                    Ok(opened) => van = Some(opened),
                    Err(status) => {
                        let later = |place: &usize| (*place, Outcome::Deferred(status.clone()));
                        let mut outcomes: Vec<_> = judged.places.iter().map(later).collect();
                        self.tell(mail, &outcomes, started);
                        // After a connection that was closed: who is in the log as suppressed is, whatever the next list says.
                        outcomes.extend(judged.settled_outcomes(mail));
                        return Ok(Attempt { outcomes, relayed: Vec::new() });
                    }
                }
                continue;
            }
            let mut outcomes = judged.outcomes(mail);
            let told = match told {
                Some(told) => told.clone(),
                None if outcomes.len() < waiting.len() => Reply::RECIPIENT_OK,
                // Nobody is left to send it to: the log tells what the tool will hear.
                None => answer(mail.envelope.id, &outcomes).hoped(),
            };
            let events = judged.events(mail, &list, &told, &mut logged, until, now);
            self.record(&events).await.map_err(|NotWritten| Reply::CANNOT_LOG)?;
            self.bind(&judged).await?;
            if !events.is_empty() && !self.lists.is_current(&list) {
                // The list changed while the log was written: what leaves is judged by the new one.
                continue;
            }
            if !somebody {
                return Ok(Attempt { outcomes, relayed: Vec::new() });
            }
            let Some(van) = van.take() else { continue };
            let reports_success = van.reports_success();
            match van.send(&to(mail, &judged), &load, &|| self.lists.is_current(&list)).await {
                Sent::Done(sent) => {
                    let kept_back = outcomes.len();
                    outcomes.extend(judged.places.iter().copied().zip(sent));
                    let sent = &outcomes[kept_back..];
                    self.tell(mail, sent, started);
                    self.record_sent(mail, sent).await;
                    self.learn_refusals(mail, sent).await;
                    let relayed = if reports_success { Vec::new() } else { relayed(mail, sent) };
                    return Ok(Attempt { outcomes, relayed });
                }
                Sent::Recalled => {}
                // The host had closed a kept connection before it took anything.
                Sent::Stale => fresh = true,
            }
        }
    }

    /// What came of an attempt.
    fn tell(&self, mail: &Mail, outcomes: &[(usize, Outcome)], started: Instant) {
        self.metrics.attempted(outcomes.iter().map(|(_, outcome)| outcome), started.elapsed());
        words::log_outcomes(mail, outcomes, self.upstream.name(), started);
        for (place, outcome) in outcomes {
            postfix::outcome(mail, *place, outcome, self.upstream.name(), started.elapsed());
        }
    }

    async fn record(&self, events: &[Event]) -> Result<(), NotWritten> {
        events.iter().for_each(words::log_suppression);
        self.ledger.record(events).await?;
        events.iter().for_each(postfix::suppressed);
        Ok(())
    }

    /// A new id.
    pub fn next_id(&self) -> Id {
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        Id::new(now, self.chance.hash_one(self.ids_given.fetch_add(1, Ordering::Relaxed)) as u32)
    }
}

/// Whoever is cleared, with what the sender wants to hear of it.
fn to<'a>(mail: &'a Mail, judged: &Judged<'a>) -> Vec<To<'a>> {
    let wish = |place: usize| &mail.envelope.recipients[place].wish;
    judged.places.iter().zip(&judged.cleared).map(|(place, permit)| To { permit: *permit, wish: wish(*place) }).collect()
}

/// The places of those who have it and whose sender wants to hear that.
fn relayed(mail: &Mail, sent: &[(usize, Outcome)]) -> Vec<usize> {
    let wished = |place: usize| mail.envelope.recipients[place].wish.notify.of_success();
    let told = sent.iter().filter(|(place, outcome)| matches!(outcome, Outcome::Delivered(_)) && wished(*place));
    told.map(|(place, _)| *place).collect()
}

/// What the tool hears where some have the message and what the others wait for cannot be written.
fn partly_held(record: &Record) -> Option<Reply> {
    let has_it = record.outcomes.iter().flatten().filter(|outcome| matches!(outcome, Outcome::Delivered(_))).count();
    let all = record.outcomes.len();
    (has_it > 0).then(|| Reply::partly_held(all - has_it, all))
}

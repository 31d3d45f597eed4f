//! The line for mail that waits: the same attempt, for which no tool waits, and what follows from it. Never lets go of a
//! message before the disk has what became of it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Attempt, Attempted, Relay, Until, postfix, words};
use crate::dsn::{self, Notice, Occasion, Reporter};
use crate::mail::{Id, Mail, Outcome, Stage, Status};
use crate::memory::Share;
use crate::smtp::Reply;
use crate::spool::{InFlight, Lent, NotHeld, Record, waits};

/// How soon what the disk did not take is tried again.
const DISK_AGAIN: Duration = Duration::from_secs(2);

impl Relay {
    /// Takes a held message out and tries it again.
    pub async fn retry(self: Arc<Self>, id: Id) {
        let Some((lent, _room)) = self.lend(id).await else { return };
        match lent.begin().await {
            Ok(held) => self.send(held).await,
            Err((lent, error)) => {
                words::disk_refuses(id, "an attempt cannot be noted, so nothing is sent", &error);
                lent.rest(self.spool.rhythm().first);
            }
        }
    }

    /// The host is away, and a message has waited so long that its sender is to hear of it.
    pub async fn tell_late(self: Arc<Self>, id: Id) {
        if let Some((lent, _room)) = self.lend(id).await {
            self.settle(lent.unsent(), Duration::ZERO).await;
        }
    }

    /// A held message, and its room in memory. Room comes first: whoever has a connection never waits for it.
    async fn lend(&self, id: Id) -> Option<(Lent, Share)> {
        let room = tokio::select! {
            room = self.memory.share(self.spool.size(id).await) => room,
            // It rests on the disk.
            () = self.stop.cancelled() => return None,
        };
        let lent = self.spool.lend(id).await?;
        if lent.record.in_flight() {
            words::was_under_way(&lent.record);
        }
        Some((lent, room))
    }

    /// One attempt for a held message.
    pub(super) async fn send(self: Arc<Self>, held: InFlight) {
        let (mail, waiting) = (held.mail.clone(), held.record.waiting());
        let attempted = self.attempt(&mail, &waiting, Some(&Reply::held(mail.envelope.id)), Until::Sent).await;
        self.conclude(held, attempted).await;
    }

    /// Notes what an attempt came to, and settles the message by it.
    pub(super) async fn conclude(self: &Arc<Self>, mut held: InFlight, attempted: Attempted) {
        let Attempt { outcomes, relayed } = attempted.unwrap_or_else(|reply| unsent(&held.record.waiting(), &reply));
        self.spool.note_host(&outcomes);
        let wait = self.note(&mut held.record, outcomes);
        if !relayed.is_empty() {
            self.report_relayed(&held.mail, &held.record, &relayed).await;
        }
        self.settle(held, wait).await;
    }

    /// Puts outcomes into the record; how long those who wait do so.
    pub(super) fn note(&self, record: &mut Record, outcomes: Vec<(usize, Outcome)>) -> Duration {
        // While the host is away all wait for it, and none for a time of its own.
        let host_is_away = outcomes.iter().any(|(_, outcome)| outcome.host_is_away());
        record.attempts = record.attempts.saturating_add(u32::from(!host_is_away));
        record.note(outcomes);
        if host_is_away { Duration::ZERO } else { self.spool.wait_after(record.attempts) }
    }

    /// Sees to reports, then to the files. The disk is asked until it takes it, or until the relay stops: then the record
    /// still says that the message is under way.
    async fn settle(&self, mut held: InFlight, wait: Duration) {
        let rhythm = *self.spool.rhythm();
        let age = held.age();
        if !held.record.is_settled() && age >= rhythm.give_up {
            let waiting = held.record.waiting();
            held.record.give_up(rhythm.give_up);
            self.metrics.given_up(waiting.len());
            words::log_given_up(&held.record, &waiting);
        }
        let late = !rhythm.tell_delay.is_zero() && age >= rhythm.tell_delay && !held.record.delay_told;
        let mut reported = false;
        loop {
            let trouble = match reported {
                true => None,
                false if held.record.is_settled() => self.report_failures(&held.mail, &held.record).await.err(),
                false if late => self.report_delay(&held.mail, &held.record, rhythm.give_up - age).await.err(),
                false => None,
            };
            let trouble = match trouble {
                Some(NotHeld(error)) => error,
                None => {
                    reported = true;
                    held.record.delay_told |= late;
                    let (id, is_settled) = (held.record.envelope.id, held.record.is_settled());
                    match held.settle(wait).await {
                        Ok(()) => {
                            if is_settled {
                                postfix::removed(id);
                            }
                            return;
                        }
                        Err((back, error)) => {
                            held = back;
                            error
                        }
                    }
                }
            };
            words::disk_refuses(held.record.envelope.id, "what became of held mail cannot be written", &trouble);
            held.step_aside();
            tokio::select! {
                () = tokio::time::sleep(DISK_AGAIN) => {}
                () = self.stop.cancelled() => return words::will_come_again(&held.record),
            }
        }
    }

    /// One report about all who did not get it and whose sender wants to know.
    pub(super) async fn report_failures(&self, mail: &Mail, record: &Record) -> Result<(), NotHeld> {
        let failed = |_, outcome: &Option<Outcome>| {
            matches!(outcome, Some(Outcome::Refused(_) | Outcome::Suppressed { silent: false, .. }))
        };
        self.report(mail, record, Occasion::Failed, failed).await
    }

    /// The sender wants to hear that the host has it, and the host will not say so. A wish, no promise: where the disk does
    /// not take it nothing else is held up.
    pub(super) async fn report_relayed(&self, mail: &Mail, record: &Record, places: &[usize]) {
        if let Err(NotHeld(error)) = self.report(mail, record, Occasion::Relayed, |place, _| places.contains(&place)).await {
            words::disk_refuses(mail.envelope.id, "the report of success cannot be held", &error);
        }
    }

    async fn report_delay(&self, mail: &Mail, record: &Record, left: Duration) -> Result<(), NotHeld> {
        let until = Timestamp::now() + left;
        self.report(mail, record, Occasion::Delayed { until }, |_, outcome| waits(outcome)).await
    }

    /// Puts a report into the spool, to go the way of any mail; nothing where nobody wants one.
    async fn report(
        &self,
        mail: &Mail,
        record: &Record,
        occasion: Occasion,
        concerns: impl Fn(usize, &Option<Outcome>) -> bool,
    ) -> Result<(), NotHeld> {
        let recipients = mail.envelope.recipients.iter().zip(&record.outcomes).enumerate();
        let concerned = recipients.filter(|(place, (_, outcome))| concerns(*place, outcome)).map(|(_, both)| both);
        if dsn::to_be_told(&mail.envelope.sender).is_none() {
            if occasion == Occasion::Failed {
                words::nobody_to_tell(mail, concerned.count());
            }
            return Ok(());
        }
        let unknown = Status::new(Stage::Connect, 451, "4.4.1 the mail host was not reached yet");
        let notices: Vec<_> = concerned
            .map(|(recipient, outcome)| Notice {
                recipient,
                status: outcome.as_ref().map_or(&unknown, Outcome::status),
                at: outcome.as_ref().map(|_| record.written),
            })
            .collect();
        let (id, now) = (self.next_id(), Timestamp::now());
        let by = Reporter { hostname: &self.hostname, upstream: self.upstream.name(), id, now };
        // None where nobody wants one.
        let Some(report) = dsn::report(mail, record.arrived, occasion, &notices, &by) else { return Ok(()) };
        let record = Record::of(&report, now);
        let report = Arc::new(report);
        self.spool.hold(report.clone(), record).await?;
        words::log_report(mail, &report);
        Ok(())
    }
}

/// An attempt that came to an end before anything could leave.
fn unsent(waiting: &[usize], reply: &Reply) -> Attempt {
    let status = Status::new(Stage::OptOut, reply.code, &reply.text());
    let outcome = if reply.code / 100 == 5 { Outcome::Refused(status) } else { Outcome::Deferred(status) };
    Attempt { outcomes: waiting.iter().map(|place| (*place, outcome.clone())).collect(), relayed: Vec::new() }
}

//! The line. A message is accepted, becomes an envelope, is judged recipient by recipient, is delivered or handed
//! back, and every ending is logged. Read this file first. Never opens a socket, never reads a file.

mod judged;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;

use crate::ledger::{Ending, Event, Ledger, NotWritten};
use crate::mail::{Address, Envelope, Id, Mail, Message, Outcome, Stage, clean, received};
use crate::optout::{self, Action, Cleared, Context, Lists, Policy, Title, Verdict};
use crate::smtp::Reply;
use crate::upstream::{Load, Sent, To, Upstream};
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
    /// Judge the mailboxes of To, Cc and Bcc too (`opt_out.headers = "enforce"`).
    pub judge_headers: bool,
    /// The proof.
    pub ledger: Ledger,
    /// The real host.
    pub upstream: Upstream,
    /// How many ids were given.
    pub ids_given: AtomicU64,
    /// The chance in them.
    pub chance: RandomState,
}

impl Relay {
    /// At the door: the answer to RCPT. A refusal is on disk before it is told.
    pub async fn judge(&self, envelope: &Envelope, recipient: &Address) -> Reply {
        let event = {
            let (list, now) = (self.lists.current(), Timestamp::now());
            let context = Context { sender: &envelope.sender, now, title: Title::NotYet, policy: &self.policy };
            match optout::judge(&list, recipient, &context) {
                Verdict::OptedOut(suppression) if suppression.action != Action::Drop => {
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

    /// After the final dot: judges again, delivers, answers. 250 means that the host has it, or that all recipients
    /// are suppressed and logged; anything else leaves the message with the tool.
    pub async fn take(&self, envelope: Envelope, message: Message) -> Reply {
        if message.received_count() > MAX_HOPS {
            return Reply::LOOP;
        }
        let trace = received(&self.hostname, &envelope, Timestamp::now());
        self.attempt(&Mail::new(envelope, trace, message)).await.unwrap_or_else(|reply| reply)
    }

    /// One attempt for all recipients. `Err` is an answer too: it came before anything could leave.
    async fn attempt(&self, mail: &Mail) -> Result<Reply, Reply> {
        let started = Instant::now();
        let load = Load::new(mail);
        let (mut van, mut fresh, mut logged) = (None, false, Logged::new());
        loop {
            let list = self.lists.current_shared();
            let now = Timestamp::now();
            let judged = Judged::new(&list, mail, &Rules { policy: &self.policy, headers: self.judge_headers, now }, &logged)?;
            let nobody = judged.cleared.is_empty();
            if van.is_none() && !nobody {
                // Judged once more when it is here: waiting for a place takes time, and the list may change.
                match self.upstream.open(fresh).await {
                    Ok(opened) => van = Some(opened),
                    Err(status) => {
                        let outcomes = vec![Outcome::Deferred(status); judged.cleared.len()];
                        self.log_outcomes(mail, &judged.cleared, &outcomes, started);
                        return Ok(answer(mail.envelope.id, &outcomes));
                    }
                }
                continue;
            }
            let told = if nobody { judged.answer(mail.envelope.id) } else { Reply::RECIPIENT_OK };
            let events = judged.events(mail, &list, &told, &mut logged, now);
            self.record(&events).await.map_err(|NotWritten| Reply::CANNOT_LOG)?;
            if nobody {
                log_stopped(mail, &judged);
                return Ok(told);
            }
            if !events.is_empty() && !self.lists.is_current(&list) {
                // The list changed while the log was written: what leaves is judged by the new one.
                continue;
            }
            let Some(van) = van.take() else { continue };
            match van.send(&to(mail, &judged), &load).await {
                Sent::Done(outcomes) => {
                    warn_unreported(mail, &judged);
                    self.log_outcomes(mail, &judged.cleared, &outcomes, started);
                    return Ok(answer(mail.envelope.id, &outcomes));
                }
                // The host had closed a kept connection before it took anything.
                Sent::Stale => fresh = true,
            }
        }
    }

    async fn record(&self, events: &[Event]) -> Result<(), NotWritten> {
        for event in events {
            let Event { id, recipient, rule, .. } = event;
            let (to, rule, action) = (clean(recipient, 320), format!("{}:{}", rule.file, rule.line), event.action);
            match (event.event, action) {
                (Ending::Suppressed, Action::Bounce) => {
                    tracing::info!(%id, %to, rule, %action, "suppressed: recipient has opted out; answered as reject does, for this version sends no reports");
                }
                (Ending::Suppressed, _) => tracing::info!(%id, %to, rule, %action, "suppressed: recipient has opted out"),
                (Ending::Observed, _) => {
                    tracing::warn!(%id, %to, rule, "recipient has opted out, and is mailed all the same: opt_out.mode is observe")
                }
                (Ending::Exempted, _) => {
                    tracing::info!(%id, %to, rule, "recipient has opted out, and is mailed all the same: the subject is exempt")
                }
            }
        }
        self.ledger.record(events).await
    }

    fn log_outcomes(&self, mail: &Mail, cleared: &[Cleared<'_>], outcomes: &[Outcome], started: Instant) {
        let delay = format!("{:.3}", started.elapsed().as_secs_f64());
        let (id, relay) = (mail.envelope.id, self.upstream.name());
        for (permit, outcome) in cleared.iter().zip(outcomes) {
            let (to, status) = (clean(permit.recipient().as_str(), 320), outcome.status());
            tracing::info!(%id, %to, relay, delay, dsn = %status.enhanced, status = outcome.word(), "{} {}", status.code, status.text);
            if status.stage == Stage::Unanswered {
                tracing::warn!(%id, %to, possible_duplicate = true, "the host may have this mail although it did not say so");
            }
        }
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

/// They have not opted out, and are not mailed either.
fn log_stopped(mail: &Mail, judged: &Judged<'_>) {
    for permit in &judged.stopped {
        let (id, to) = (mail.envelope.id, clean(permit.recipient().as_str(), 320));
        tracing::info!(%id, %to, status = "suppressed", "not sent: somebody who opted out stands in To, Cc or Bcc");
    }
}

/// No report can be sent yet to the sender of a mail that was suppressed after its recipient was accepted.
fn warn_unreported(mail: &Mail, judged: &Judged<'_>) {
    for recipient in judged.unreported() {
        let (id, to) = (mail.envelope.id, clean(recipient.as_str(), 320));
        tracing::warn!(%id, %to, "suppressed after it was accepted; this version sends no report to the sender");
    }
}

/// What the tool is told when the host has spoken. A 250 must not hide that somebody did not get the mail.
fn answer(id: Id, outcomes: &[Outcome]) -> Reply {
    let mut refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_))).map(Outcome::status);
    if let Some(deferred) = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Deferred(_))) {
        return Reply::deferred(deferred.status());
    }
    let Some(first) = refused.next() else { return Reply::delivered(id) };
    match refused.count() + 1 {
        all if all == outcomes.len() => Reply::refused(first),
        some => Reply::partly_refused(first, some, outcomes.len()),
    }
}

//! The line. A message is accepted, becomes an envelope, is judged recipient by recipient, is delivered or handed
//! back, and every ending is logged. Read this file first. Never opens a socket, never reads a file.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use jiff::Timestamp;

use crate::ledger::{Event, EventRule, Ledger, NotWritten};
use crate::mail::{Address, Envelope, Heading, Id, Message, Outcome, Stage, clean};
use crate::optout::{self, Action, Cleared, Context, Lists, Mode, OptOutList, Policy, Suppression, Title, Verdict};
use crate::smtp::Reply;
use crate::upstream::{Body, Sent, Upstream};

/// A message with more `Received:` fields than this goes in a circle (RFC 5321 6.3).
const MAX_HOPS: usize = 50;
/// A header section that rules must read may not be longer, in bytes.
const MAX_HEADER: usize = 256 << 10;

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
    /// The id given last, in microseconds since 1970.
    pub last_id: AtomicU64,
}

/// One message under way.
struct Mail {
    envelope: Envelope,
    message: Message,
    /// Read when a rule or the log first asks for it.
    heading: OnceLock<Option<Heading>>,
}

/// The recipients of one message, judged by one list.
#[derive(Default)]
struct Judged<'a> {
    cleared: Vec<Cleared<'a>>,
    /// With their place, so that none is logged twice when a second try judges again.
    suppressed: Vec<(usize, &'a Address, Suppression<'a>)>,
    observed: Vec<(usize, &'a Address, Suppression<'a>)>,
}

impl Relay {
    /// At the door: the answer to RCPT. A refusal is on disk before it is told.
    pub async fn judge(&self, envelope: &Envelope, recipient: &Address) -> Reply {
        let event = {
            let list = self.lists.current();
            match optout::judge(&list, recipient, &self.context(envelope, Title::NotYet)) {
                Verdict::OptedOut(suppression) if suppression.action != Action::Drop => {
                    event(envelope, recipient, &suppression, &list, None, &Reply::OPTED_OUT)
                }
                // Settled when the mail would leave, with the list and the header of that moment.
                Verdict::Clear(_) | Verdict::Observed(..) | Verdict::Open(_) | Verdict::OptedOut(_) => {
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
        let mail = Mail { envelope, message, heading: OnceLock::new() };
        self.attempt(&mail).await.unwrap_or_else(|reply| reply)
    }

    /// One attempt for all recipients. `Err` is an answer too: it came before anything could leave.
    async fn attempt(&self, mail: &Mail) -> Result<Reply, Reply> {
        let started = Instant::now();
        let body = Body::new(self.trace(mail), &mail.message, mail.envelope.smtputf8);
        let (mut van, mut fresh, mut logged) = (None, false, BTreeSet::new());
        loop {
            let list = self.lists.current_shared();
            let judged = self.judge_all(&list, mail)?;
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
            let events = judged.events(mail, &list, &told, &mut logged);
            self.record(&events).await.map_err(|NotWritten| Reply::CANNOT_LOG)?;
            let Some(van) = van.take().filter(|_| !nobody) else { return Ok(told) };
            match van.send(&mail.envelope.sender, &judged.cleared, &body).await {
                Sent::Done(outcomes) => {
                    judged.warn_unreported(mail);
                    self.log_outcomes(mail, &judged.cleared, &outcomes, started);
                    return Ok(answer(mail.envelope.id, &outcomes));
                }
                // The host had closed a kept connection before it took anything.
                Sent::Stale => fresh = true,
            }
        }
    }

    fn judge_all<'a>(&self, list: &'a OptOutList, mail: &'a Mail) -> Result<Judged<'a>, Reply> {
        let title = match mail.heading_if(!self.policy.exempt_subjects.is_empty()) {
            Some(heading) => Title::Is(&heading.subject),
            None => Title::Is(""),
        };
        let context = self.context(&mail.envelope, title);
        let mut judged = Judged::default();
        for (place, recipient) in mail.envelope.recipients.iter().enumerate() {
            judged.add(place, recipient, optout::judge(list, recipient, &context));
        }
        if self.judge_headers {
            self.judge_named(list, mail, &context, &mut judged)?;
        }
        Ok(judged)
    }

    /// Somebody who opted out stands in To, Cc or Bcc: nothing of the message leaves.
    fn judge_named<'a>(
        &self,
        list: &'a OptOutList,
        mail: &'a Mail,
        context: &Context<'_>,
        judged: &mut Judged<'a>,
    ) -> Result<(), Reply> {
        let enforce = self.policy.mode == Mode::Enforce;
        let heading = match mail.heading_if(true) {
            None if enforce => return Err(Reply::LONG_HEADER),
            Some(heading) if enforce && heading.unreadable_recipient => return Err(Reply::UNREADABLE_HEADER),
            None => return Ok(()),
            Some(heading) => heading,
        };
        let mut named = Judged::default();
        let first = mail.envelope.recipients.len();
        for (place, recipient) in heading.recipients.iter().enumerate() {
            // Who is in the envelope as well has been judged and would be logged twice.
            let known = mail.envelope.recipients.iter().any(|known| known.as_str() == recipient.as_str());
            if !known {
                named.add(first + place, recipient, optout::judge(list, recipient, context));
            }
        }
        judged.observed.append(&mut named.observed);
        judged.suppressed.append(&mut named.suppressed);
        if !judged.suppressed.is_empty() {
            judged.cleared.clear();
        }
        Ok(())
    }

    fn context<'a>(&'a self, envelope: &'a Envelope, title: Title<'a>) -> Context<'a> {
        Context { sender: &envelope.sender, now: Timestamp::now(), title, policy: &self.policy }
    }

    async fn record(&self, events: &[Event]) -> Result<(), NotWritten> {
        for event in events {
            let Event { id, recipient, rule, .. } = event;
            let (to, rule) = (clean(recipient, 320), format!("{}:{}", rule.file, rule.line));
            tracing::info!(%id, %to, rule, action = ?event.action, "{}: recipient has opted out", event.event);
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

    /// The only bytes that are added to a message (RFC 5321 4.4).
    fn trace(&self, mail: &Mail) -> Bytes {
        let Envelope { id, client, smtputf8, .. } = &mail.envelope;
        let helo = if client.helo.is_empty() { "unknown" } else { &client.helo };
        let ip = match client.ip {
            IpAddr::V4(ip) => format!("[{ip}]"),
            IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
        };
        let with = match (smtputf8, client.extended) {
            (true, _) => "UTF8SMTP",
            (false, true) => "ESMTP",
            (false, false) => "SMTP",
        };
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S +0000");
        format!("Received: from {helo} ({ip})\r\n\tby {} with {with} id {id};\r\n\t{date}\r\n", self.hostname).into()
    }

    /// A new id: the time in microseconds, or one more than the last.
    pub fn next_id(&self) -> Id {
        let now = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        let last = self.last_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now.max(last + 1)));
        Id::from_micros(now.max(last.unwrap_or_default() + 1))
    }
}

impl Mail {
    /// What stands in the header, if somebody wants to know and it is not too long.
    fn heading_if(&self, wanted: bool) -> Option<&Heading> {
        if !wanted {
            return None;
        }
        self.heading.get_or_init(|| self.message.headers(MAX_HEADER).map(|section| Heading::read(&section))).as_ref()
    }
}

impl<'a> Judged<'a> {
    fn add(&mut self, place: usize, recipient: &'a Address, verdict: Verdict<'a>) {
        match verdict {
            Verdict::Clear(permit) => self.cleared.push(permit),
            Verdict::Observed(permit, suppression) => {
                self.cleared.push(permit);
                self.observed.push((place, recipient, suppression));
            }
            Verdict::Open(suppression) | Verdict::OptedOut(suppression) => {
                self.suppressed.push((place, recipient, suppression));
            }
        }
    }

    /// The answer when nobody is left.
    fn answer(&self, id: Id) -> Reply {
        let silent = self.suppressed.iter().all(|(_, _, suppression)| suppression.action == Action::Drop);
        if silent { Reply::suppressed(id) } else { Reply::OPTED_OUT }
    }

    fn events(&self, mail: &Mail, list: &OptOutList, told: &Reply, logged: &mut BTreeSet<usize>) -> Vec<Event> {
        let mut events = Vec::new();
        for (word, group) in [("suppressed", &self.suppressed), ("observed", &self.observed)] {
            for (place, recipient, suppression) in group {
                if logged.insert(*place) {
                    let message_id = mail.heading_if(true).and_then(|heading| heading.message_id.clone());
                    events.push(Event { event: word, ..event(&mail.envelope, recipient, suppression, list, message_id, told) });
                }
            }
        }
        events
    }

    /// Accepted at RCPT, opted out when the mail left, and its action wants the sender to know: no report can be sent.
    fn warn_unreported(&self, mail: &Mail) {
        for (_, recipient, suppression) in &self.suppressed {
            if suppression.action != Action::Drop {
                let (id, to) = (mail.envelope.id, clean(recipient.as_str(), 320));
                tracing::warn!(%id, %to, "suppressed after it was accepted; this version sends no report to the sender");
            }
        }
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

fn event(
    envelope: &Envelope,
    recipient: &Address,
    suppression: &Suppression<'_>,
    list: &OptOutList,
    message_id: Option<String>,
    reply: &Reply,
) -> Event {
    let Suppression { rule, action } = suppression;
    let text = |text: &Option<String>| text.clone();
    Event {
        time: Timestamp::now().to_string(),
        event: "suppressed",
        action: *action,
        recipient: recipient.to_string(),
        sender: envelope.sender.to_string(),
        client: envelope.client.ip.to_string(),
        helo: envelope.client.helo.to_string(),
        message_id,
        id: envelope.id.to_string(),
        rule: EventRule {
            file: rule.file.display().to_string(),
            line: rule.line,
            kind: rule.kind.to_string(),
            value: rule.value(),
        },
        reason: text(&rule.attributes.reason),
        source: text(&rule.attributes.source),
        since: text(&rule.attributes.since),
        list: list.fingerprint().to_owned(),
        reply: reply.to_string(),
    }
}

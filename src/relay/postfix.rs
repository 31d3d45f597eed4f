//! The way of each message in the words of Postfix's log, for `log.format = "postfix"` and whoever reads such logs. Costs nothing where
//! nobody listens, never decides anything.
//!
//! Who has opted out is told as Postfix would have it: `reject` as a recipient that it rejects, `drop` as one that it discards, `bounce`
//! as a delivery that bounced. None of them is ever told as sent.

use std::process::id as pid;
use std::time::Duration;

use crate::ledger::{Ending, Event};
use crate::mail::{Id, Mail, Outcome, ReversePath, Stage, Status, clean};
use crate::optout::Action;

/// What these lines are known by.
pub const TARGET: &str = "optout_relay::postfix";

/// The longest Message-ID that is told.
const MAX_ID: usize = 250;

macro_rules! line {
    ($program:literal, $id:expr, $($rest:tt)+) => {
        tracing::trace!(target: TARGET, "postfix/{}[{}]: {}: {}", $program, pid(), $id, format_args!($($rest)+))
    };
}

/// A message is here.
pub fn came(mail: &Mail) {
    if !is_heard() {
        return;
    }
    let (envelope, client) = (&mail.envelope, &mail.envelope.client);
    match &client.user {
        Some(user) => line!("smtpd", envelope.id, "client=unknown[{}], sasl_username={}", client.ip, clean(user, 100)),
        // Names are not looked up.
        None => line!("smtpd", envelope.id, "client=unknown[{}]", client.ip),
    }
    if let Some(id) = mail.message.message_id() {
        line!("cleanup", envelope.id, "message-id=<{}>", clean(&String::from_utf8_lossy(id), MAX_ID));
    }
    queued(mail);
}

/// It waits for what becomes of its recipients; the first word about a report of our own.
pub fn queued(mail: &Mail) {
    let envelope = &mail.envelope;
    let (from, count) = (path(&envelope.sender), envelope.recipients.len());
    line!("qmgr", envelope.id, "from=<{from}>, size={}, nrcpt={count} (queue active)", mail.len());
}

/// What became of one recipient at an attempt.
pub fn outcome(mail: &Mail, place: usize, outcome: &Outcome, relay: &str, took: Duration) {
    if !is_heard() {
        return;
    }
    let status = outcome.status();
    let word = match outcome {
        Outcome::Delivered(_) => "sent",
        Outcome::Deferred(_) => "deferred",
        Outcome::Refused(_) => "bounced",
        // Told when it was logged.
        Outcome::Suppressed { .. } => return,
    };
    let (id, to, delay) = (mail.envelope.id, address(mail, place), took.as_secs_f64());
    let text = said(status, relay);
    line!(
        "smtp",
        id,
        "to=<{to}>, relay={relay}, delay={delay:.2}, delays=0/0/0/{delay:.2}, dsn={}, status={word} ({text})",
        status.enhanced
    );
}

/// Nobody tries any more.
pub fn given_up(id: Id, to: &str, status: &Status) {
    line!(
        "qmgr",
        id,
        "to=<{to}>, relay=none, delay=0, delays=0/0/0/0, dsn={}, status=bounced ({})",
        status.enhanced,
        status.text
    );
}

/// Somebody has opted out.
pub fn suppressed(event: &Event) {
    if event.event != Ending::Suppressed || !is_heard() {
        return;
    }
    let (to, from, helo) = (clean(&event.recipient, 320), clean(&event.sender, 320), clean(&event.helo, 255));
    let (id, client) = (&event.id, &event.client);
    let about = format!("from=<{from}> to=<{to}> proto=ESMTP helo=<{helo}>");
    match event.action {
        Action::Reject => {
            line!(
                "smtpd",
                id,
                "reject: RCPT from unknown[{client}]: 550 5.7.1 <{to}>: Recipient address rejected: opted out; {about}"
            );
        }
        Action::Drop => line!("smtpd", id, "discard: RCPT from unknown[{client}]: <{to}>: Recipient address opted out; {about}"),
        Action::Bounce => {
            line!(
                "bounce",
                id,
                "to=<{to}>, relay=none, delay=0, delays=0/0/0/0, dsn=5.7.1, status=bounced (recipient has opted out)"
            );
        }
    }
}

/// A message is settled, for all of its recipients.
pub fn removed(id: Id) {
    line!("qmgr", id, "removed");
}

fn is_heard() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::TRACE)
}

fn address(mail: &Mail, place: usize) -> String {
    clean(mail.envelope.recipients[place].address.as_str(), 320)
}

fn path(sender: &ReversePath) -> String {
    clean(sender.as_str(), 320)
}

/// As Postfix names the step, where the host has spoken.
fn said(status: &Status, relay: &str) -> String {
    let step = match status.stage {
        _ if !status.by_host => return status.to_string(),
        Stage::Mail => "MAIL FROM command",
        Stage::Recipient => "RCPT TO command",
        Stage::Data => "DATA command",
        Stage::Dot if status.code / 100 == 2 => return status.to_string(),
        Stage::Dot => "end of DATA command",
        _ => return status.to_string(),
    };
    format!("host {relay} said: {status} (in reply to {step})")
}

//! What the line says in the operational log, in words for the shop owner. Never decides anything.

use std::io;
use std::time::Instant;

use super::postfix;
use crate::learn::Learned;
use crate::ledger::{Ending, Event};
use crate::mail::{Id, Mail, Outcome, Recipient, Stage, clean};
use crate::smtp::Reply;
use crate::spool::{NotHeld, Record};

/// One line for each recipient of an attempt, in the words of Postfix.
pub fn log_outcomes(mail: &Mail, outcomes: &[(usize, Outcome)], relay: &str, started: Instant) {
    let delay = format!("{:.3}", started.elapsed().as_secs_f64());
    let id = mail.envelope.id;
    for (place, outcome) in outcomes {
        let (to, status) = (address(&mail.envelope.recipients[*place]), outcome.status());
        tracing::info!(%id, %to, relay, delay, dsn = %status.enhanced, status = outcome.word(), "{} {}", status.code, status.text);
        if status.stage == Stage::Unanswered {
            tracing::warn!(%id, %to, possible_duplicate = true, "the host may have this mail although it did not say so");
        }
    }
}

/// Somebody has opted out.
pub fn log_suppression(event: &Event) {
    let Event { id, recipient, rule, action, .. } = event;
    let (to, rule) = (clean(recipient, 320), format!("{}:{}", rule.file, rule.line));
    match event.event {
        Ending::Suppressed => tracing::info!(%id, %to, rule, %action, "suppressed: recipient has opted out"),
        Ending::Observed => {
            tracing::warn!(%id, %to, rule, "recipient has opted out, and is mailed all the same: opt_out.mode is observe")
        }
        Ending::Exempted => {
            tracing::info!(%id, %to, rule, "recipient has opted out, and is mailed all the same: the subject is exempt")
        }
    }
}

/// What came of a mail that was learned from.
pub fn log_lesson(mail: &Mail, learned: &Learned) {
    let (id, client, helo) = (mail.envelope.id, mail.envelope.client.ip, &*mail.envelope.client.helo);
    let sender = clean(mail.envelope.sender.as_str(), 320);
    for settled in &learned.0 {
        tracing::info!(%id, %client, helo, sender, "{}", clean(&settled.to_string(), 400));
    }
}

/// Nobody has tried yet.
pub fn log_held(mail: &Mail) {
    let (id, recipients) = (mail.envelope.id, mail.envelope.recipients.len());
    tracing::info!(%id, recipients, status = "held", "on disk, and sent when its turn comes");
}

/// The tool keeps its message; what it hears.
pub fn not_held(mail: &Mail, NotHeld(error): &NotHeld) -> Reply {
    disk_refuses(mail.envelope.id, "a message cannot be held, so the tool keeps it", error);
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        Reply::NO_ROOM
    } else {
        Reply::CANNOT_HOLD
    }
}

/// There is no report on disk, so the tool hears it.
pub fn not_reported(mail: &Mail, NotHeld(error): &NotHeld) {
    disk_refuses(mail.envelope.id, "a report cannot be held, so the tool hears who did not get its mail", error);
}

/// A file of the spool could not be written.
pub fn disk_refuses(id: Id, what: &str, error: &io::Error) {
    tracing::error!(%id, "{what}: {error}\nhint: free space or mend the disk of `state_dir`; it is tried again by itself");
}

/// The relay ended in the middle of an attempt.
pub fn was_under_way(record: &Record) {
    for place in record.waiting() {
        let (id, to) = (record.envelope.id, address(&record.envelope.recipients[place]));
        tracing::warn!(%id, %to, possible_duplicate = true, "the relay ended while this mail was under way, so the host may have it already");
    }
}

/// What has arrived cannot be noted, so it may be sent once more.
pub fn will_come_again(record: &Record) {
    let id = record.envelope.id;
    for (recipient, outcome) in record.envelope.recipients.iter().zip(&record.outcomes) {
        if let Some(Outcome::Delivered(_)) = outcome {
            let to = address(recipient);
            tracing::warn!(%id, %to, possible_duplicate = true, "the host has this mail, and may get it again: that it has it could not be written");
        }
    }
}

/// Nobody tries any more for those who waited until now.
pub fn log_given_up(record: &Record, waiting: &[usize]) {
    let id = record.envelope.id;
    for place in waiting {
        if let Some(Outcome::Refused(status)) = &record.outcomes[*place] {
            let to = address(&record.envelope.recipients[*place]);
            tracing::warn!(%id, %to, dsn = %status.enhanced, status = "bounced", "{}", status.text);
            postfix::given_up(id, &to, status);
        }
    }
}

/// The sender will hear of it.
pub fn log_report(mail: &Mail, report: &Mail) {
    let (id, as_id, to) = (mail.envelope.id, report.envelope.id, clean(mail.envelope.sender.as_str(), 320));
    tracing::info!(%id, report = %as_id, %to, "its sender gets a report");
    postfix::queued(report);
}

/// A report, or mail with the null sender, has failed: it ends here (RFC 5321 4.5.5).
pub fn nobody_to_tell(mail: &Mail, failed: usize) {
    let id = mail.envelope.id;
    if failed > 0 {
        tracing::warn!(%id, "not delivered to {failed} recipients, and there is no sender to tell");
    }
}

fn address(recipient: &Recipient) -> String {
    clean(recipient.address.as_str(), 320)
}

//! One mail transaction with the host (RFC 5321 3.3): what we say, and what each reply means at its stage. Never
//! reports less than one outcome for each recipient.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Broken, Connection, HostReply};
use super::host::Host;
use super::offer::Offer;
use super::{Load, Sent, To};
use crate::mail::{Envelope, Notify, Outcome, Stage, Status, Wish, embedded};

const LOST: &str = "4.4.2 the connection to the mail host was lost";

/// Sends one message; the second value tells whether the connection may be used again.
///
/// `kept` says that the connection has served before: if it breaks before the final dot, nothing was lost and the
/// message can go over a fresh one.
///
/// Nothing holds what the host defers for a part of the recipients, so the message then goes to nobody: the tool
/// keeps it and nobody gets it twice.
pub async fn transact(connection: &mut Connection, host: &Host, to: &[To<'_>], load: &Load<'_>, kept: bool) -> (Sent, bool) {
    if let Some(refusal) = unfit(connection.offer, to, load) {
        return (all(to, &Outcome::Refused(refusal)), true);
    }
    let mut dialogue = Dialogue { connection, within: host.settings().timeout, batch: String::new(), begun: false };
    match dialogue.envelope(to, load).await {
        Ok(Answered { outcomes, go_on: true }) => dialogue.content(outcomes, load, host).await,
        Ok(Answered { outcomes, go_on: false }) => {
            let usable = dialogue.reset(&outcomes).await;
            (Sent::Done(outcomes), usable)
        }
        Err(_) if kept => (Sent::Stale, false),
        Err(lost) => {
            tracing::error!("mail host: {lost}");
            let status = Status::new(Stage::Mail, 451, LOST);
            (all(to, &Outcome::Deferred(status)), false)
        }
    }
}

/// What MAIL, RCPT and DATA came to.
struct Answered {
    /// For those who are accepted so far: delivered, with the reply to RCPT.
    outcomes: Vec<Outcome>,
    /// 354 came and somebody is accepted.
    go_on: bool,
}

struct Dialogue<'c> {
    connection: &'c mut Connection,
    within: Duration,
    /// Commands not sent yet.
    batch: String,
    /// 354 came: from here on the host waits for a message.
    begun: bool,
}

impl Dialogue<'_> {
    async fn envelope(&mut self, to: &[To<'_>], load: &Load<'_>) -> Result<Answered, Broken> {
        let mut commands = commands(self.connection.offer, to, load).into_iter();
        let pipelining = self.connection.offer.pipelining;
        let mut outcomes = Vec::with_capacity(to.len());
        if pipelining {
            self.batch = commands.by_ref().collect();
        }
        let mail = self.next(&mut commands).await?;
        let closing = mail.code == 421;
        if closing {
            return Err(Broken::from(&mail));
        }
        let mail_refused = (mail.code / 100 != 2).then(|| at_mail(&mail));
        if let (Some(outcome), false) = (&mail_refused, pipelining) {
            return Ok(Answered { outcomes: vec![outcome.clone(); to.len()], go_on: false });
        }
        for _ in to {
            let reply = self.next(&mut commands).await?;
            outcomes.push(mail_refused.clone().unwrap_or_else(|| outcome(Stage::Recipient, &reply)));
        }
        // A message that would go to a part now and to the others later is not begun, unless that is beyond recall.
        let nobody = !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_)));
        if !pipelining && (nobody || is_split(&outcomes)) {
            return Ok(Answered { outcomes: nobody_gets_it(outcomes), go_on: false });
        }
        let data = self.next(&mut commands).await?;
        let go_on = data.code == 354;
        self.begun = go_on;
        if !go_on {
            let refusal = match outcome(Stage::Data, &data) {
                // Nothing was taken yet: a 250 here belongs to something else.
                Outcome::Delivered(Status { code, .. }) => {
                    Outcome::Deferred(Status::new(Stage::Data, 451, &format!("4.5.0 the mail host said {code} to DATA")))
                }
                other => other,
            };
            let settled = |earlier| if let Outcome::Delivered(_) = earlier { refusal.clone() } else { earlier };
            outcomes = outcomes.into_iter().map(settled).collect();
        }
        let go_on = go_on && !nobody && !is_split(&outcomes);
        Ok(Answered { outcomes: if go_on { outcomes } else { nobody_gets_it(outcomes) }, go_on })
    }

    /// The next reply, to the next command or to one of the batch.
    async fn next(&mut self, commands: &mut impl Iterator<Item = String>) -> Result<HostReply, Broken> {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            return self.connection.ask(&batch, self.within).await;
        }
        match commands.next() {
            Some(command) => self.connection.ask(&command, self.within).await,
            None => self.connection.reply(self.within).await,
        }
    }

    /// The message and its dot in one write; the reply settles all who were accepted.
    async fn content(self, outcomes: Vec<Outcome>, load: &Load<'_>, host: &Host) -> (Sent, bool) {
        self.connection.hold(load.mail.trace.clone());
        self.connection.hold(load.mail.message.wire().clone());
        self.connection.hold(Bytes::from_static(b".\r\n"));
        let reply = tokio::select! {
            reply = self.connection.reply(host.settings().data_timeout) => reply,
            () = host.cut.cancelled() => Err(Broken::new("the relay was stopped".into())),
        };
        let (last, usable) = match reply {
            // A reply before everything was sent speaks of something else.
            Ok(reply) if reply.code / 100 == 2 && !self.connection.all_is_sent() => {
                (unanswered("replied before it had it all"), false)
            }
            Ok(reply) if matches!(reply.code, 200..=299 | 400..=599) => (outcome(Stage::Dot, &reply), reply.code != 421),
            Ok(reply) => (unanswered(&format!("said {}", reply.code)), false),
            Err(broken) if !self.connection.all_is_sent() => {
                tracing::error!("mail host, before it had the whole message: {broken}");
                (Outcome::Deferred(Status::new(Stage::Data, 451, LOST)), false)
            }
            Err(broken) => {
                tracing::error!("mail host, after the final dot: {broken}");
                (unanswered("did not answer"), false)
            }
        };
        let settled = |earlier| if let Outcome::Delivered(_) = earlier { last.clone() } else { earlier };
        (Sent::Done(outcomes.into_iter().map(settled).collect()), usable)
    }

    /// After a transaction that ended before the message: in step again, or the connection goes.
    async fn reset(self, outcomes: &[Outcome]) -> bool {
        let closing = outcomes.iter().any(|outcome| outcome.status().code == 421);
        // After 354 only the end of the connection takes the message back.
        !closing && !self.begun && matches!(self.connection.ask("RSET\r\n", self.within).await, Ok(HostReply { code: 250, .. }))
    }
}

impl From<&HostReply> for Broken {
    fn from(reply: &HostReply) -> Self {
        Self::new(format!("the host is closing: {reply}"))
    }
}

fn all(to: &[To<'_>], outcome: &Outcome) -> Sent {
    Sent::Done(vec![outcome.clone(); to.len()])
}

/// What this host could never take (RFC 6152 3, RFC 6531 3.2, RFC 1870 6.1).
fn unfit(offer: Offer, to: &[To<'_>], load: &Load<'_>) -> Option<Status> {
    let refuse = |code, text| Some(Status::new(Stage::Local, code, text));
    if needs_smtputf8(to, load) && !offer.smtputf8 {
        return refuse(553, "5.6.7 the mail host does not take international addresses (SMTPUTF8)");
    }
    if load.eight_bit && !offer.eight_bit {
        return refuse(554, "5.6.3 the mail host does not take 8-bit mail (8BITMIME)");
    }
    match offer.size {
        Some(limit) if limit > 0 && load.mail.len() as u64 > limit => {
            refuse(552, "5.3.4 the message is too large for the mail host")
        }
        _ => None,
    }
}

fn needs_smtputf8(to: &[To<'_>], load: &Load<'_>) -> bool {
    load.utf8_header
        || !load.mail.envelope.sender.as_str().is_ascii()
        || to.iter().any(|to| !to.permit.recipient().as_str().is_ascii())
}

fn commands(offer: Offer, to: &[To<'_>], load: &Load<'_>) -> Vec<String> {
    // An address has no control bytes and no unquoted brackets: it was parsed. Writing to a String cannot fail.
    let mut mail = format!("MAIL FROM:<{}>", load.mail.envelope.sender);
    if offer.size.is_some() {
        let _ = write!(mail, " SIZE={}", load.mail.len());
    }
    if load.eight_bit {
        mail.push_str(" BODY=8BITMIME");
    }
    let smtputf8 = needs_smtputf8(to, load);
    if smtputf8 {
        mail.push_str(" SMTPUTF8");
    }
    if offer.dsn {
        let Envelope { ret, envid, .. } = &load.mail.envelope;
        let _ = ret.map(|ret| write!(mail, " RET={ret}"));
        let _ = envid.as_deref().map(|id| write!(mail, " ENVID={id}"));
    }
    mail.push_str("\r\n");
    let wish = |to: &To<'_>| if offer.dsn { wish(to.wish, smtputf8) } else { String::new() };
    let rcpt = to.iter().map(|to| format!("RCPT TO:<{}>{}\r\n", to.permit.recipient(), wish(to)));
    std::iter::once(mail).chain(rcpt).chain(std::iter::once("DATA\r\n".to_owned())).collect()
}

/// What goes along with RCPT, as it was written; only an `ORCPT` in letters that this mail does not need otherwise takes its
/// form for hosts without SMTPUTF8 (RFC 6533 3).
fn wish(wish: &Wish, smtputf8: bool) -> String {
    let mut words = String::new();
    if wish.notify != Notify::Unsaid {
        let _ = write!(words, " NOTIFY={}", wish.notify);
    }
    if let Some(original) = wish.original.as_deref() {
        let original = if smtputf8 { original.into() } else { embedded(original) };
        let _ = write!(words, " ORCPT={original}");
    }
    words
}

fn status(stage: Stage, reply: &HostReply) -> Status {
    Status::new(stage, reply.code, &reply.text)
}

/// RCPT, DATA and the dot: the first digit decides; nonsense is deferred.
fn outcome(stage: Stage, reply: &HostReply) -> Outcome {
    match reply.code {
        200..=299 => Outcome::Delivered(status(stage, reply)),
        500..=599 => Outcome::Refused(status(stage, reply)),
        400..=499 => Outcome::Deferred(status(stage, reply)),
        code => Outcome::Deferred(Status::new(stage, 451, &format!("4.5.0 the mail host said {code}"))),
    }
}

/// A refusal of MAIL that speaks of us, not of the mail, is our configuration: alarm, and keep the mail.
fn at_mail(reply: &HostReply) -> Outcome {
    let refusal = outcome(Stage::Mail, reply);
    let said = reply.text.to_ascii_lowercase();
    let ours = matches!(reply.code, 530 | 535) || (refusal.status().enhanced.1 == 7 && said.contains("authenticat"));
    if reply.code / 100 == 5 && ours {
        tracing::error!("mail host wants a login: {reply}\nhint: set `upstream.user` and `upstream.password`");
        return Outcome::Deferred(Status::new(Stage::Mail, 451, "4.7.0 the mail host wants a login"));
    }
    match refusal {
        Outcome::Delivered(status) => Outcome::Deferred(status),
        other => other,
    }
}

fn unanswered(what: &str) -> Outcome {
    Outcome::Deferred(Status::new(
        Stage::Unanswered,
        451,
        &format!("4.4.2 the mail host {what} after the message, it may have it"),
    ))
}

/// Some were accepted and some deferred.
fn is_split(outcomes: &[Outcome]) -> bool {
    let accepted = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_)));
    accepted && outcomes.iter().any(|outcome| matches!(outcome, Outcome::Deferred(_)))
}

/// Whoever was accepted waits with those who were deferred, and for the same reason.
fn nobody_gets_it(outcomes: Vec<Outcome>) -> Vec<Outcome> {
    let deferred = outcomes.iter().find(|outcome| matches!(outcome, Outcome::Deferred(_)));
    let Some(reason) = deferred.map(Outcome::status).cloned() else { return outcomes };
    let text = format!("waits for another recipient of the message: {}", reason.text);
    let waits = Outcome::Deferred(Status { text, ..reason });
    outcomes.into_iter().map(|outcome| if let Outcome::Delivered(_) = outcome { waits.clone() } else { outcome }).collect()
}

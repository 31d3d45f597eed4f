//! One mail transaction with the host (RFC 5321 3.3): what we say, and what each reply means at its stage. Never
//! reports less than one outcome for each recipient.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;

use super::connection::{Broken, Connection, HostReply};
use super::host::Settings;
use super::offer::Offer;
use super::{Load, Sent, To};
use crate::mail::{Envelope, Notify, Outcome, Stage, Status, Wish, embedded, is_trace};

/// Nobody waits longer for a connection to be in step again; a new one is made faster.
const RESET: Duration = Duration::from_secs(5);

/// Sends one message; the second value tells whether the connection may be used again.
///
/// `kept` says that the connection has served before: if it breaks before the final dot, nothing was lost and the
/// message can go over a fresh one.
///
/// The message goes to those whom the host accepts; what it says of one recipient touches no other.
pub async fn transact(
    connection: &mut Connection,
    settings: &Settings,
    to: &[To<'_>],
    load: &Load<'_>,
    still: &(dyn Fn() -> bool + Sync),
    kept: bool,
) -> (Sent, bool) {
    if let Some(refusal) = unfit(connection.offer, to, load) {
        return (Sent::Done(vec![Outcome::Refused(refusal); to.len()]), true);
    }
    let commands = commands(connection.offer, to, load);
    if let Some(refusal) = forged(&commands, load) {
        return (Sent::Done(vec![Outcome::Refused(refusal); to.len()]), true);
    }
    let outcomes = Vec::with_capacity(to.len());
    let mut dialogue = Dialogue { connection, settings, batch: String::new(), stage: Stage::Mail, outcomes, begun: false };
    let usable = match dialogue.envelope(to, commands).await {
        // Only the end of the connection takes back what 354 has begun.
        Ok(()) if dialogue.begun && dialogue.has_accepted() && !still() => return (Sent::Recalled, false),
        Ok(()) if dialogue.begun && dialogue.has_accepted() => dialogue.content(load).await,
        Ok(()) => dialogue.reset().await,
        // Everybody has an answer, and nobody was accepted: nothing is open.
        Err(_) if dialogue.outcomes.len() == to.len() && !dialogue.has_accepted() => false,
        Err(broken) if kept && !matches!(broken, Broken::Stopped) => return (Sent::Stale, false),
        Err(broken) => {
            tracing::error!("mail host, {}: {broken}", dialogue.stage);
            let lost = Outcome::Deferred(broken.status(dialogue.stage));
            dialogue.settle(&lost);
            dialogue.outcomes.resize(to.len(), lost);
            false
        }
    };
    (Sent::Done(dialogue.outcomes), usable)
}

struct Dialogue<'c> {
    connection: &'c mut Connection,
    settings: &'c Settings,
    /// Commands not sent yet.
    batch: String,
    /// What the next reply speaks of.
    stage: Stage,
    /// Of the recipients so far; for whoever is accepted it is "delivered" until the message is answered.
    outcomes: Vec<Outcome>,
    /// 354 came: from here on the host waits for a message.
    begun: bool,
}

impl Dialogue<'_> {
    /// MAIL, RCPT and DATA, as far as there is somebody to send to.
    async fn envelope(&mut self, to: &[To<'_>], commands: Vec<String>) -> Result<(), Broken> {
        let mut commands = commands.into_iter();
        let pipelining = self.connection.offer.pipelining;
        if pipelining {
            self.batch = commands.by_ref().collect();
        }
        let mail = self.next(&mut commands).await?;
        if mail.code / 100 != 2 {
            self.outcomes.resize(to.len(), at_mail(&mail));
            if !pipelining {
                return Ok(());
            }
        }
        self.stage = Stage::Recipient;
        for place in 0..to.len() {
            let reply = self.next(&mut commands).await?;
            if place == self.outcomes.len() {
                self.outcomes.push(outcome(Stage::Recipient, &reply));
            }
        }
        if !pipelining && !self.has_accepted() {
            return Ok(());
        }
        self.stage = Stage::Data;
        let data = self.next(&mut commands).await?;
        self.begun = data.code == 354;
        if !self.begun {
            self.settle(&at_data(&data));
        }
        Ok(())
    }

    /// The next reply, to the next command or to one of the batch.
    async fn next(&mut self, commands: &mut impl Iterator<Item = String>) -> Result<HostReply, Broken> {
        let within = self.settings.timeout;
        let next = if self.batch.is_empty() { commands.next() } else { Some(std::mem::take(&mut self.batch)) };
        let reply = match next {
            Some(command) => self.connection.ask(&command, within).await?,
            None => self.connection.reply(within).await?,
        };
        if reply.code == 421 { Err(Broken::Closing(reply)) } else { Ok(reply) }
    }

    /// The message and its dot in one write; the reply settles all who were accepted.
    async fn content(&mut self, load: &Load<'_>) -> bool {
        debug_assert!(!load.mail.message.ends_early(), "a lone dot is an end of data");
        self.connection.hold(load.mail.trace.clone());
        self.connection.hold(load.mail.message.wire().clone());
        self.connection.hold(Bytes::from_static(b".\r\n"));
        let reply = self.connection.conclude(self.settings.timeout, self.settings.data_timeout).await;
        let (last, usable) = match reply {
            // A reply before everything was sent speaks of something else.
            Ok(reply) if reply.code / 100 == 2 && !self.connection.all_is_sent() => {
                (unanswered("replied before it had it all"), false)
            }
            Ok(reply) if matches!(reply.code, 200..=299 | 400..=599) => (outcome(Stage::Dot, &reply), reply.code != 421),
            Ok(reply) => (unanswered(&format!("said {}", reply.code)), false),
            Err(broken) if !self.connection.all_is_sent() => {
                tracing::error!("mail host, before it had the whole message: {broken}");
                (Outcome::Deferred(broken.status(Stage::Data)), false)
            }
            Err(broken) => {
                tracing::error!("mail host, after the final dot: {broken}");
                (unanswered("did not answer"), false)
            }
        };
        self.settle(&last);
        usable
    }

    /// After a transaction that ended before the message: in step again, or the connection goes.
    async fn reset(&mut self) -> bool {
        // After 354 only the end of the connection takes the message back.
        let within = self.settings.timeout.min(RESET);
        !self.begun && matches!(self.connection.ask("RSET\r\n", within).await, Ok(HostReply { code: 250, .. }))
    }

    fn has_accepted(&self) -> bool {
        self.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Delivered(_)))
    }

    /// What becomes of all who were accepted so far.
    fn settle(&mut self, last: &Outcome) {
        let accepted = self.outcomes.iter_mut().filter(|outcome| matches!(outcome, Outcome::Delivered(_)));
        accepted.for_each(|outcome| last.clone_into(outcome));
    }
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

/// What would be more than one command to the host, or more than one field to whoever reads the mail. Whatever comes in was
/// parsed or cleaned, so there is none; if there ever is, it stays here.
fn forged(commands: &[String], load: &Load<'_>) -> Option<Status> {
    let is_line = |command: &String| command.strip_suffix("\r\n").is_some_and(|line| !line.contains(char::is_control));
    if commands.iter().all(is_line) && is_trace(&load.mail.trace) {
        return None;
    }
    tracing::error!(id = %load.mail.envelope.id, "not sent: its envelope holds control characters");
    Some(Status::new(Stage::Local, 554, "5.6.0 the envelope holds control characters"))
}

fn needs_smtputf8(to: &[To<'_>], load: &Load<'_>) -> bool {
    load.utf8_header
        || !load.mail.envelope.sender.as_str().is_ascii()
        || to.iter().any(|to| !to.permit.recipient().as_str().is_ascii())
}

fn commands(offer: Offer, to: &[To<'_>], load: &Load<'_>) -> Vec<String> {
    // An address has no unquoted brackets: it was parsed. Writing to a String cannot fail.
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
    Status::said(stage, reply.code, &reply.text)
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
    refusal
}

/// Anything but 354: nothing was taken yet, so a 250 here belongs to something else.
fn at_data(reply: &HostReply) -> Outcome {
    match outcome(Stage::Data, reply) {
        Outcome::Delivered(Status { code, .. }) => {
            Outcome::Deferred(Status::new(Stage::Data, 451, &format!("4.5.0 the mail host said {code} to DATA")))
        }
        other => other,
    }
}

fn unanswered(what: &str) -> Outcome {
    let text = format!("4.4.2 the mail host {what} after the message, it may have it");
    Outcome::Deferred(Status::new(Stage::Unanswered, 451, &text))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::mail::{Address, Client, Id, Mail, Message, PlusTags, ReversePath};
    use crate::optout::{Builder, Context, Policy, Title, Verdict, judge};

    /// What is said of a message with such an `ENVID`, `ORCPT` and trace field, to a host that takes them all.
    fn refusal(envid: &str, original: &str, trace: &'static str) -> Option<u16> {
        let (list, policy) = (Builder::new(PlusTags::Ignore).finish(), Policy::default());
        let address = Address::parse("in@x.example").unwrap();
        let context = Context {
            sender: &ReversePath::Null,
            now: Timestamp::UNIX_EPOCH,
            title: Title::Is(""),
            policy: &policy,
            orders: &[],
        };
        let Verdict::Clear(permit) = judge(&list, &address, &context) else { panic!("nobody has opted out") };
        let wish = Wish { notify: Notify::Unsaid, original: Some(original.into()) };
        let envelope = Envelope {
            id: Id::new(1, 1),
            client: Client::new([127, 0, 0, 1].into()),
            sender: ReversePath::Null,
            recipients: vec![],
            eight_bit: false,
            smtputf8: false,
            ret: None,
            envid: Some(envid.into()),
        };
        let mail = Mail::new(envelope, trace.into(), Message::from_wire("x\r\n".into()).unwrap());
        let (load, to) = (Load::new(&mail), [To { permit, wish: &wish }]);
        let offer = Offer { dsn: true, ..Offer::default() };
        forged(&commands(offer, &to, &load), &load).map(|status| status.code)
    }

    #[test]
    fn nothing_that_is_two_commands_or_two_fields_goes_to_the_host() {
        const TRACE: &str = "Received: from tool\r\n\tby us\r\n";
        assert_eq!(refusal("a", "rfc822;a@x.example", TRACE), None);
        assert_eq!(refusal("a", "rfc822;a@x.example", ""), None);
        for (envid, original, trace) in [
            ("a\r\nRCPT TO:<victim@x.example>", "rfc822;a@x.example", TRACE),
            ("a\nb", "rfc822;a@x.example", TRACE),
            ("a", "rfc822;a@x.example\r\nDATA", TRACE),
            ("a", "rfc822;a\0@x.example", TRACE),
            ("a", "rfc822;a@x.example", "Received: from tool\r\nSubject: forged\r\n"),
            ("a", "rfc822;a@x.example", "Received: from tool\r\n.\r\n"),
            ("a", "rfc822;a@x.example", "Received: from tool\n"),
        ] {
            assert_eq!(refusal(envid, original, trace), Some(554), "{envid:?} {original:?} {trace:?}");
        }
    }
}

//! Where the line and what is learned meet: mail to our own address, orders that find their buyers, refusals that say more
//! than no. Never recognises anything itself.

use std::borrow::Cow;

use jiff::Timestamp;

use super::judged::Judged;
use super::{Relay, words};
use crate::learn::{Asked, Entry, Intake, Learned, MOST, NotLearned, Settled, by_hand};
use crate::mail::{Address, Mail, OPTED_OUT, Order, Outcome, PlusTags, ReversePath};
use crate::optout::Subject;
use crate::smtp::Reply;

/// A header that names recipients may not be longer, in bytes.
const MAX_HEADER: usize = 256 << 10;

impl Relay {
    /// Mail to our own address is learned from, and goes nowhere; `mail` has its other recipients. What is learned is in force
    /// before any of them is judged.
    pub(super) async fn learn(&self, asked: &[Asked], mail: &Mail) -> Result<Learned, Reply> {
        let (mut entries, mut settled) = (Vec::new(), Vec::new());
        for asked in asked {
            match asked {
                Asked::Notice => {
                    let learned = self.learner.learn(&top_of(mail), Intake::Address).await;
                    settled.extend(learned.map_err(|NotLearned| Reply::CANNOT_LEARN)?.0);
                }
                Asked::Buyers => entries.extend(self.buyers(mail)),
                Asked::Orders => entries.extend(self.orders(mail).await),
            }
        }
        if !entries.is_empty() {
            let learned = self.learner.obey(entries, Intake::Address).await;
            settled.extend(learned.map_err(|NotLearned| Reply::CANNOT_LEARN)?.0);
        }
        if settled.is_empty() {
            let why = if asked.contains(&Asked::Orders) { "it names no order" } else { "it has no other recipients" };
            settled.push(Settled::Nothing(why.to_owned()));
        }
        let learned = Learned(settled);
        words::log_lesson(mail, &learned);
        Ok(learned)
    }

    /// What the tool hears of a message that was learned from and had other recipients.
    pub(super) fn with_lesson(mail: &Mail, learned: &Learned, reply: Reply) -> Reply {
        // All of them are opted out, some just now: that was asked for, and is no refusal.
        let suppressed = reply.code == 550 && reply.text() == OPTED_OUT;
        match reply.is_positive() {
            true => Reply::learned(mail.envelope.id, &format!("{}; {learned}", reply.text())),
            false if suppressed && learned.is_something() => {
                Reply::learned(mail.envelope.id, &format!("{learned}; this message was not sent to them"))
            }
            false => reply,
        }
    }

    /// The other recipients; where there are none, whoever stands in the header. Nobody of the sender's own domain.
    fn buyers(&self, mail: &Mail) -> Vec<Entry> {
        let domain = match &mail.envelope.sender {
            ReversePath::Address(sender) => Some(sender.key(PlusTags::Distinct).domain),
            ReversePath::Null => None,
        };
        let is_other = |to: &&Address| {
            let own = domain == Some(to.key(PlusTags::Distinct).domain);
            !own && self.learner.letterbox.asked(to).is_none() && !self.learner.wishes.spare(to)
        };
        let others: Vec<_> = mail.envelope.recipients.iter().map(|to| &to.address).filter(is_other).collect();
        let named = mail.heading(MAX_HEADER).map_or(&[][..], |heading| &heading.recipients);
        let chosen = if mail.envelope.recipients.is_empty() { named.iter().filter(is_other).collect() } else { others };
        chosen.into_iter().map(|buyer| by_sender(mail, Subject::Address(buyer.clone()), None)).collect()
    }

    async fn orders(&self, mail: &Mail) -> Vec<Entry> {
        let mut entries = Vec::new();
        for order in mail.orders() {
            let buyers = self.learner.buyers(*order).await;
            if buyers.is_empty() {
                entries.push(by_sender(mail, Subject::Order(*order), Some(*order)));
            }
            entries.extend(buyers.into_iter().map(|buyer| by_sender(mail, Subject::Address(buyer), Some(*order))));
        }
        entries
    }

    /// Orders that entries name have found their buyers: from here on they are opted out by their addresses.
    pub(super) async fn bind(&self, judged: &Judged<'_>) -> Result<(), Reply> {
        for (rule, buyer) in judged.found_by_order() {
            self.learner.bind(rule, buyer).await.map_err(|NotLearned| Reply::CANNOT_LEARN)?;
        }
        Ok(())
    }

    /// The host has refused somebody in words that mean an opt-out (`learn.refusals`).
    pub(super) async fn learn_refusals(&self, mail: &Mail, outcomes: &[(usize, Outcome)]) {
        if self.learner.wishes.refusals.is_empty() {
            return;
        }
        let now = Timestamp::now();
        let refused = outcomes.iter().filter_map(|(place, outcome)| match outcome {
            Outcome::Refused(status) => Some((&mail.envelope.recipients[*place].address, status)),
            _ => None,
        });
        let source = format!("refusal by {}", self.upstream.name());
        let lessons: Vec<_> = refused
            .filter_map(|(to, status)| self.learner.wishes.of_refusal(to, status, &source, mail.envelope.id, now))
            .collect();
        if !lessons.is_empty() {
            // The mail is refused whatever comes of it; what could not be written down is in the log.
            if let Ok(learned) = self.learner.weigh(lessons, Intake::Delivery).await {
                words::log_lesson(mail, &learned);
            }
        }
    }
}

/// As much of a mail as is looked at, dots unstuffed.
fn top_of(mail: &Mail) -> Cow<'_, [u8]> {
    let wire = &mail.message.wire()[..mail.message.len().min(MOST)];
    if memchr::memmem::find(wire, b"\n.").is_none() && !wire.starts_with(b".") {
        return Cow::Borrowed(wire);
    }
    let mut content = Vec::with_capacity(wire.len());
    for chunk in mail.message.content() {
        content.extend_from_slice(&chunk[..chunk.len().min(MOST - content.len())]);
    }
    Cow::Owned(content)
}

fn by_sender(mail: &Mail, subject: Subject, order: Option<Order>) -> Entry {
    let message_id = mail.heading(MAX_HEADER).and_then(|heading| heading.message_id.clone());
    let source = match &message_id {
        Some(id) => format!("mail <{id}> to learn.address"),
        None => format!("mail {} to learn.address", mail.envelope.id),
    };
    let reason = format!("opted out by {}", mail.envelope.sender);
    by_hand(subject, source, reason, order, Intake::Address, Timestamp::now())
}

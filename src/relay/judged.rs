//! The recipients of one message, judged by one list, and their lines in the suppression log. Never does I/O, never
//! asks the clock.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

use super::Until;
use crate::learn::Phrases;
use crate::ledger::{Ending, Event, EventRule};
use crate::mail::{Address, Envelope, Heading, Mail, OPTED_OUT, Outcome, PlusTags, Stage, Status};
use crate::metrics::Source;
use crate::optout::{self, Action, Cleared, Context, Mode, OptOutList, Policy, Rule, Suppression, Title, Verdict};
use crate::smtp::Reply;

/// A header section that rules must read may not be longer, in bytes.
const MAX_HEADER: usize = 256 << 10;

/// What there is to judge by besides the list.
pub struct Rules<'r> {
    pub policy: &'r Policy,
    /// Judge the mailboxes of To, Cc and Bcc too.
    pub headers: bool,
    /// Where buyers are.
    pub phrases: &'r Phrases,
    pub now: Timestamp,
}

impl Rules<'_> {
    /// The orders of a mail are those of a buyer, not of whoever else gets it.
    fn of<'c>(&self, context: &Context<'c>, recipient: &Address) -> Context<'c> {
        let is_buyer = !context.orders.is_empty() && self.phrases.is_buyer(recipient);
        Context { orders: if is_buyer { context.orders } else { &[] }, ..*context }
    }
}

/// The recipients of one message, judged by one list.
#[derive(Default)]
pub struct Judged<'a> {
    /// May be mailed.
    pub cleared: Vec<Cleared<'a>>,
    /// Their places in the envelope.
    pub places: Vec<usize>,
    /// Could have been mailed, but somebody who opted out stands in the header: their places.
    pub stopped: Vec<usize>,
    hits: Vec<Hit<'a>>,
    /// Suppressed and logged in this attempt already.
    settled: Vec<(usize, Action)>,
}

/// What the log says of this attempt already, by the place of the recipient.
pub type Logged = BTreeMap<usize, (Ending, Action)>;

/// A recipient who has opted out, and what becomes of the mail.
struct Hit<'a> {
    /// In the envelope, then in the header: so that none is logged twice when a second try judges again.
    place: usize,
    recipient: &'a Address,
    suppression: Suppression<'a>,
    ending: Ending,
}

/// What stands in the header, if somebody wants to know and it is not too long.
fn heading_if(wanted: bool, mail: &Mail) -> Option<&Heading> {
    if wanted { mail.heading(MAX_HEADER) } else { None }
}

impl<'a> Judged<'a> {
    /// Judges everybody who waits, by place. `Err` is the answer where a header that must be judged cannot be read.
    ///
    /// Whoever stands in the log as suppressed for this attempt stays suppressed, whatever the list says now.
    pub fn new(
        list: &'a OptOutList,
        mail: &'a Mail,
        waiting: &[usize],
        rules: &Rules<'_>,
        logged: &Logged,
    ) -> Result<Self, Reply> {
        let title = match heading_if(!rules.policy.exempt_subjects.is_empty(), mail) {
            Some(heading) => Title::Is(&heading.subject),
            None => Title::Is(""),
        };
        // Read only where an entry names one.
        let orders = if list.names_orders() { mail.orders() } else { &[] };
        let context = Context { sender: &mail.envelope.sender, now: rules.now, title, policy: rules.policy, orders };
        let judge = |address: &'a Address| optout::judge(list, address, &rules.of(&context, address));
        let mut judged = Self::default();
        for &place in waiting {
            let address = &mail.envelope.recipients[place].address;
            match logged.get(&place) {
                Some((Ending::Suppressed, action)) => judged.settled.push((place, *action)),
                _ => judged.add(place, address, judge(address)),
            }
        }
        if rules.headers {
            judged.add_named(mail, waiting, logged, context.policy, judge)?;
        }
        Ok(judged)
    }

    /// Somebody who opted out stands in To, Cc or Bcc: nothing of the message leaves.
    fn add_named(
        &mut self,
        mail: &'a Mail,
        waiting: &[usize],
        logged: &Logged,
        policy: &Policy,
        judge: impl Fn(&'a Address) -> Verdict<'a>,
    ) -> Result<(), Reply> {
        let enforce = policy.mode == Mode::Enforce;
        let heading = match heading_if(true, mail) {
            None if enforce => return Err(Reply::LONG_HEADER),
            Some(heading) if enforce && heading.unreadable_recipient => return Err(Reply::UNREADABLE_HEADER),
            None => return Ok(()),
            Some(heading) => heading,
        };
        let key = |address: &'a Address| address.key(PlusTags::Distinct);
        // Whoever got it at an attempt before is judged here only.
        let judged: HashSet<_> = waiting.iter().map(|place| key(&mail.envelope.recipients[*place].address)).collect();
        let (first, mut stopped) = (mail.envelope.recipients.len(), false);
        for (place, recipient) in heading.recipients.iter().enumerate() {
            let place = first + place;
            if let Some((Ending::Suppressed, action)) = logged.get(&place) {
                self.settled.push((place, *action));
                stopped = true;
                continue;
            }
            let mut named = Self::default();
            named.add(place, recipient, judge(recipient));
            stopped |= named.suppressed().next().is_some();
            // Who waits as well is among the hits already.
            if !judged.contains(&key(recipient)) {
                self.hits.append(&mut named.hits);
            }
        }
        if stopped {
            self.cleared.clear();
            self.stopped = std::mem::take(&mut self.places);
        }
        Ok(())
    }

    fn add(&mut self, place: usize, recipient: &'a Address, verdict: Verdict<'a>) {
        let (permit, suppression, ending) = match verdict {
            Verdict::Clear(permit) => return self.clear(place, permit),
            Verdict::Observed(permit, suppression) => (Some(permit), suppression, Ending::Observed),
            Verdict::Exempted(permit, suppression) => (Some(permit), suppression, Ending::Exempted),
            Verdict::Open(suppression) | Verdict::OptedOut(suppression) => (None, suppression, Ending::Suppressed),
        };
        if let Some(permit) = permit {
            self.clear(place, permit);
        }
        self.hits.push(Hit { place, recipient, suppression, ending });
    }

    fn clear(&mut self, place: usize, permit: Cleared<'a>) {
        self.cleared.push(permit);
        self.places.push(place);
    }

    /// Buyers who were found by an order that the mail names, with the entry that names it.
    pub fn found_by_order(&self) -> impl Iterator<Item = (&Rule<'a>, &'a Address)> {
        let found = self.hits.iter().filter(|hit| hit.suppression.rule.order().is_some());
        found.map(|hit| (&hit.suppression.rule, hit.recipient))
    }

    fn suppressed(&self) -> impl Iterator<Item = &Hit<'a>> {
        self.hits.iter().filter(|hit| hit.ending == Ending::Suppressed)
    }

    /// What becomes of those who are not mailed, by place.
    pub fn outcomes(&self, mail: &Mail) -> Vec<(usize, Outcome)> {
        let hits = self.suppressed().map(|hit| (hit.place, hit.suppression.action));
        let kept_back: Vec<_> = hits.chain(self.settled.iter().copied()).collect();
        // Where one of them is to be told of, so are those who were stopped for their sake.
        let strictest = [Action::Reject, Action::Bounce].into_iter().find(|action| kept_back.iter().any(|(_, of)| of == action));
        let stopped = self.stopped.iter().map(|place| (*place, ending(strictest.unwrap_or(Action::Drop), STOPPED)));
        let in_envelope = kept_back.iter().filter(|(place, _)| *place < mail.envelope.recipients.len());
        in_envelope.map(|(place, action)| (*place, ending(*action, OPTED_OUT))).chain(stopped).collect()
    }

    /// What becomes of those who were suppressed and logged in this attempt already, by place.
    pub fn settled_outcomes(&self, mail: &Mail) -> impl Iterator<Item = (usize, Outcome)> {
        let in_envelope = self.settled.iter().filter(|(place, _)| *place < mail.envelope.recipients.len());
        in_envelope.map(|(place, action)| (*place, ending(*action, OPTED_OUT)))
    }

    /// The lines for the log, without those whose place is in `logged`; they are added to it. Who is mailed all the same has
    /// one when it leaves, and none before.
    pub fn events(
        &self,
        mail: &Mail,
        list: &OptOutList,
        told: &Reply,
        logged: &mut Logged,
        until: Until,
        now: Timestamp,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        let hits = self.hits.iter().filter(|hit| until == Until::Sent || hit.ending == Ending::Suppressed);
        for Hit { place, recipient, suppression, ending } in hits {
            if logged.insert(*place, (*ending, suppression.action)).is_none() {
                let message_id = heading_if(true, mail).and_then(|heading| heading.message_id.clone());
                let event = event(&mail.envelope, recipient, suppression, list, told, now);
                events.push(Event { event: *ending, message_id, ..event });
            }
        }
        events
    }
}

const STOPPED: &str = "not sent, for somebody who opted out stands in To, Cc or Bcc";

/// How it ends for a recipient who is not mailed, by what the opt-out wants.
fn ending(action: Action, text: &str) -> Outcome {
    let status = Status::new(Stage::OptOut, 550, &format!("5.7.1 {text}"));
    match action {
        Action::Reject => Outcome::Refused(status),
        Action::Bounce => Outcome::Suppressed { status, silent: false },
        Action::Drop => Outcome::Suppressed { status, silent: true },
    }
}

/// The line about one recipient who was suppressed, before the message is known.
pub fn event(
    envelope: &Envelope,
    recipient: &Address,
    suppression: &Suppression<'_>,
    list: &OptOutList,
    reply: &Reply,
    now: Timestamp,
) -> Event {
    let Suppression { rule, action } = suppression;
    let text = |text: &Option<String>| text.clone();
    Event {
        time: now.to_string(),
        event: Ending::Suppressed,
        action: *action,
        recipient: recipient.to_string(),
        sender: envelope.sender.to_string(),
        client: envelope.client.ip.to_string(),
        helo: envelope.client.helo.to_string(),
        message_id: None,
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
        origin: Source::of(rule.attributes),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::{Client, Id, Message, ReversePath};
    use crate::optout::{Attributes, Builder, Subject};

    fn mail(to: &[&str], wire: &'static str) -> Mail {
        let client = Client { helo: "tool".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let recipients = to.iter().map(|to| Address::parse(to).unwrap().into()).collect();
        let (id, sender) = (Id::new(1, 1), ReversePath::Null);
        let envelope = Envelope { id, client, sender, recipients, eight_bit: false, smtputf8: false, ret: None, envid: None };
        Mail::new(envelope, Bytes::new(), Message::from_wire(wire.into()).unwrap())
    }

    fn list(names: &[&str]) -> OptOutList {
        let mut list = Builder::new(PlusTags::Ignore);
        for name in names {
            list.add(1, Subject::guess(name).unwrap(), Attributes::default());
        }
        list.finish()
    }

    fn names(permits: &[Cleared<'_>]) -> Vec<String> {
        permits.iter().map(|permit| permit.recipient().to_string()).collect()
    }

    #[test]
    fn whom_the_log_calls_suppressed_stays_so_when_the_list_lets_go() {
        let (mail, policy) = (mail(&["out@x.example", "in@x.example"], "x\r\n"), Policy::default());
        let rules = Rules { policy: &policy, phrases: &Phrases::compiled(), headers: false, now: Timestamp::UNIX_EPOCH };
        let mut logged = Logged::new();
        let (before, after) = (list(&["out@x.example"]), list(&[]));
        let judged = Judged::new(&before, &mail, &[0, 1], &rules, &logged).ok().unwrap();
        assert_eq!(judged.events(&mail, &before, &Reply::OK, &mut logged, Until::Sent, rules.now).len(), 1);
        let judged = Judged::new(&after, &mail, &[0, 1], &rules, &logged).ok().unwrap();
        assert_eq!(names(&judged.cleared), ["in@x.example"]);
        assert!(judged.events(&mail, &after, &Reply::OK, &mut logged, Until::Sent, rules.now).is_empty());
    }

    #[test]
    fn whom_the_log_calls_suppressed_in_the_header_stops_it_when_the_list_lets_go() {
        let (mail, policy) = (mail(&["in@x.example"], "To: out@x.example\r\n\r\nx\r\n"), Policy::default());
        let rules = Rules { policy: &policy, phrases: &Phrases::compiled(), headers: true, now: Timestamp::UNIX_EPOCH };
        let mut logged = Logged::new();
        let (before, after) = (list(&["out@x.example"]), list(&[]));
        let judged = Judged::new(&before, &mail, &[0], &rules, &logged).ok().unwrap();
        assert_eq!(judged.events(&mail, &before, &Reply::OK, &mut logged, Until::Sent, rules.now).len(), 1);
        let judged = Judged::new(&after, &mail, &[0], &rules, &logged).ok().unwrap();
        assert_eq!((names(&judged.cleared), judged.outcomes(&mail)), (vec![], vec![(0, ending(Action::Reject, STOPPED))]));
        assert!(judged.events(&mail, &after, &Reply::OK, &mut logged, Until::Sent, rules.now).is_empty());
    }

    #[test]
    fn who_stops_it_is_logged_although_he_has_it_already() {
        let wire = "To: out@x.example, in@x.example\r\n\r\nx\r\n";
        let (mail, policy) = (mail(&["out@x.example", "in@x.example"], wire), Policy::default());
        let rules = Rules { policy: &policy, phrases: &Phrases::compiled(), headers: true, now: Timestamp::UNIX_EPOCH };
        let (list, mut logged) = (list(&["out@x.example"]), Logged::new());
        let judged = Judged::new(&list, &mail, &[1], &rules, &logged).ok().unwrap();
        assert_eq!((names(&judged.cleared), &judged.stopped[..]), (vec![], &[1][..]));
        let events = judged.events(&mail, &list, &Reply::OK, &mut logged, Until::Sent, rules.now);
        assert_eq!(events.iter().map(|event| event.recipient.as_str()).collect::<Vec<_>>(), ["out@x.example"]);
    }

    #[test]
    fn somebody_in_the_header_stops_everybody_and_is_logged_once() {
        let wire = "To: Out@X.example, in@x.example\r\nCc: other@x.example\r\n\r\nx\r\n";
        let (mail, policy) = (mail(&["in@x.example", "out@x.example"], wire), Policy::default());
        let rules = Rules { policy: &policy, phrases: &Phrases::compiled(), headers: true, now: Timestamp::UNIX_EPOCH };
        let list = list(&["out@x.example"]);
        let judged = Judged::new(&list, &mail, &[0, 1], &rules, &Logged::new()).ok().unwrap();
        assert_eq!((names(&judged.cleared), &judged.stopped[..]), (vec![], &[0][..]));
        assert_eq!(judged.suppressed().count(), 1);
    }
}

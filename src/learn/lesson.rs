//! What follows from a mail that was recognised: whom it opts out, what must wait for a person, and why nothing follows from
//! it. Pure; never does I/O, never asks the clock.

use std::fmt;

use jiff::Timestamp;
use regex_lite::Regex;
use wildmatch::WildMatch;

use super::notice::{Notice, Seen};
use super::report::{Report, ReportKind};
use crate::mail::{Address, Id, Order, PlusTags, Status, clean};
use crate::optout::{Attributes, Evidence, Subject};

/// The way by which a mail came to be learned from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intake {
    /// To `learn.address`, at our own port.
    Address,
    /// A file in `learn.folder`.
    Folder,
    /// A mailbox.
    Imap,
    /// `optout-relay learn`
    Command,
    /// What the host said of a mail of ours.
    Delivery,
    /// An order that was known, or waited, has found its buyer.
    Order,
}

/// One opt-out, as it stands in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whom it names.
    pub subject: Subject,
    /// What stands beside the name.
    pub attributes: Attributes,
}

/// The operator's decisions from `[learn]`.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Globs over addresses in comparing form: nobody of them is ever learned.
    pub never: Vec<String>,
    /// Hosts whose `Authentication-Results` are believed. None: nothing is demanded, and nothing counts as verified.
    pub trusted: Vec<String>,
    /// Reports may be learned from.
    pub reports: bool,
    /// What a host says to mail to somebody who has opted out: its code, and what its words are like.
    pub refusals: Vec<(u16, Regex)>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// Into the list.
    Learn(Entry),
    /// A person decides; why.
    Ask(Entry, String),
    /// Nothing; why.
    Nothing(String),
}

impl Lesson {
    /// What is to be written into the list.
    pub fn entry(&self) -> Option<&Entry> {
        if let Self::Learn(entry) = self { Some(entry) } else { None }
    }
}

/// Decides. `buyers` knows who has placed an order, as far as that is known.
pub fn decide(
    seen: &Seen,
    buyers: impl Fn(Order) -> Vec<Address>,
    wishes: &Wishes,
    intake: Intake,
    now: Timestamp,
) -> Vec<Lesson> {
    match seen {
        Seen::OptedOut(notice) => of_notice(notice, buyers, wishes, intake, now),
        Seen::Report(report) => of_report(report, wishes, intake, now),
        Seen::OtherNotice(what) => vec![Lesson::Nothing(what.clone())],
        Seen::Unknown(why) => vec![Lesson::Nothing(why.clone())],
    }
}

fn of_notice(
    notice: &Notice,
    buyers: impl Fn(Order) -> Vec<Address>,
    wishes: &Wishes,
    intake: Intake,
    now: Timestamp,
) -> Vec<Lesson> {
    let vouched = notice.results.iter().any(|result| result.passed && wishes.trusts(&result.authserv));
    let doubt = (!vouched && !wishes.trusted.is_empty())
        .then(|| format!("no DKIM or DMARC pass of {} by {}", notice.marketplace, wishes.trusted.join(" or ")));
    let entry = |subject: Subject, order: Option<Order>| Entry {
        subject,
        attributes: Attributes {
            since: Some(seconds(notice.sent.unwrap_or(now))),
            reason: Some(format!("opted out of unsolicited messages at {}", notice.marketplace)),
            source: Some(source("notice", notice.message_id.as_deref(), notice.sent.unwrap_or(now))),
            verified: Some(vouched),
            evidence: Some(Box::new(Evidence {
                message_id: notice.message_id.clone(),
                order: order.map(|order| order.to_string()),
                by: Some(notice.evidence.to_string()),
                intake: Some(intake.to_string()),
                learned: Some(seconds(now)),
            })),
            ..Attributes::default()
        },
    };
    let first = notice.orders.first().copied();
    let mut entries: Vec<_> = notice.addresses.iter().map(|address| entry(Subject::Address(address.clone()), first)).collect();
    for order in &notice.orders {
        // Of an address that many share, the order alone tells which mail is whose.
        let known: Vec<_> = buyers(*order).into_iter().filter(|buyer| !wishes.spare(buyer)).collect();
        if known.is_empty() && notice.addresses.is_empty() {
            entries.push(entry(Subject::Order(*order), Some(*order)));
        }
        entries.extend(known.into_iter().map(|address| entry(Subject::Address(address), Some(*order))));
    }
    if entries.is_empty() {
        return vec![Lesson::Nothing("a notice that somebody has opted out, but it names neither a buyer nor an order".into())];
    }
    entries.into_iter().map(|entry| wishes.weigh(entry, doubt.as_deref())).collect()
}

fn of_report(report: &Report, wishes: &Wishes, intake: Intake, now: Timestamp) -> Vec<Lesson> {
    if !wishes.reports {
        return vec![Lesson::Nothing("a report, and `learn.reports` is false".into())];
    }
    let kind = match report.kind {
        ReportKind::Delivery => "delivery report",
        ReportKind::Abuse => "abuse report",
    };
    let entries = report.recipients.iter().map(|reported| Entry {
        subject: Subject::Address(reported.address.clone()),
        attributes: Attributes {
            since: Some(seconds(report.sent.unwrap_or(now))),
            reason: Some(clean(&reported.why, 200)),
            source: Some(source(kind, report.message_id.as_deref(), report.sent.unwrap_or(now))),
            verified: Some(false),
            evidence: Some(Box::new(Evidence {
                message_id: report.message_id.clone(),
                by: Some(kind.into()),
                intake: Some(intake.to_string()),
                learned: Some(seconds(now)),
                ..Evidence::default()
            })),
            ..Attributes::default()
        },
    });
    let lessons: Vec<_> = entries.map(|entry| wishes.weigh(entry, None)).collect();
    if lessons.is_empty() { vec![Lesson::Nothing(format!("a {kind} that says nothing final of anybody"))] } else { lessons }
}

/// An entry because a person of ours says so: in a mail to `learn.address`, or by whom an order was placed.
pub fn by_hand(subject: Subject, source: String, reason: String, order: Option<Order>, intake: Intake, now: Timestamp) -> Entry {
    let evidence = Evidence {
        order: order.map(|order| order.to_string()),
        intake: Some(intake.to_string()),
        learned: Some(seconds(now)),
        ..Evidence::default()
    };
    let attributes = Attributes {
        since: Some(seconds(now)),
        reason: Some(clean(&reason, 200)),
        source: Some(clean(&source, 400)),
        verified: Some(true),
        evidence: Some(Box::new(evidence)),
        ..Attributes::default()
    };
    Entry { subject, attributes }
}

/// The buyer of an order that an entry names: what stands beside the order stands beside the buyer too.
pub fn of_order(order: Order, buyer: &Address, about: &Attributes, place: &str, now: Timestamp) -> Entry {
    let known = about.evidence.as_deref().cloned().unwrap_or_default();
    let evidence = Evidence {
        order: Some(order.to_string()),
        by: known.by.or_else(|| Some(format!("the order stands in {place}"))),
        intake: Some(Intake::Order.to_string()),
        learned: Some(seconds(now)),
        ..known
    };
    let source = about.source.clone().unwrap_or_else(|| format!("order {order} in {place}"));
    let attributes = Attributes { source: Some(source), evidence: Some(Box::new(evidence)), ..about.clone() };
    Entry { subject: Subject::Address(buyer.clone()), attributes }
}

impl Wishes {
    fn trusts(&self, authserv: &str) -> bool {
        self.trusted.iter().any(|host| host.eq_ignore_ascii_case(authserv))
    }

    /// The address is never learned.
    pub fn spare(&self, address: &Address) -> bool {
        let texts: Vec<_> = [PlusTags::Distinct, PlusTags::Ignore].iter().flat_map(|tags| address.key(*tags).globbed()).collect();
        self.never.iter().map(|glob| WildMatch::new(glob)).any(|glob| texts.iter().any(|text| glob.matches(text)))
    }

    /// A refusal of the host that means an opt-out.
    pub fn of_refusal(&self, to: &Address, status: &Status, source: &str, id: Id, now: Timestamp) -> Option<Lesson> {
        let text = status.to_string();
        let (_, regex) = self.refusals.iter().find(|(code, regex)| *code == status.code && regex.is_match(&text))?;
        let by = Some(format!("refusal like {regex}"));
        let evidence =
            Evidence { by, intake: Some(Intake::Delivery.to_string()), learned: Some(seconds(now)), ..Evidence::default() };
        let attributes = Attributes {
            since: Some(seconds(now)),
            reason: Some(clean(&text, 200)),
            source: Some(clean(&format!("{source} of {id}"), 400)),
            verified: Some(false),
            evidence: Some(Box::new(evidence)),
            ..Attributes::default()
        };
        Some(self.weigh(Entry { subject: Subject::Address(to.clone()), attributes }, None))
    }

    fn weigh(&self, entry: Entry, doubt: Option<&str>) -> Lesson {
        match (&entry.subject, doubt) {
            (Subject::Address(address), _) if self.spare(address) => {
                Lesson::Nothing(format!("{address} is never learned (`learn.never_learn`)"))
            }
            (_, Some(doubt)) => Lesson::Ask(entry, doubt.to_owned()),
            (_, None) => Lesson::Learn(entry),
        }
    }
}

/// Names the mail that something was learned from.
fn source(kind: &str, message_id: Option<&str>, sent: Timestamp) -> String {
    match message_id {
        Some(id) => format!("{kind} <{}>", clean(id, 300)),
        None => format!("{kind} of {}", seconds(sent)),
    }
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The word in logs and lists.
impl fmt::Display for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Folder => "folder",
            Self::Imap => "imap",
            Self::Command => "command",
            Self::Delivery => "delivery",
            Self::Order => "order",
        })
    }
}

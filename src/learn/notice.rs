//! What a mail is: a notice that somebody has opted out, another notice, a report, or none of them. Pure; never panics,
//! whatever is in the mail. Never decides what follows.
//!
//! In this order: whose the mail is, what its header says, what its subject and text say. Whoever else quotes a notice, a
//! buyer among them, is not believed; who forwards one is, with the sender that the forwarded mail has.

mod names;
mod quoted;
mod results;

use std::fmt;

use jiff::Timestamp;

use super::letter::{Letter, Text, date, mailboxes, one_mailbox, sole_mailbox};
use super::phrases::{Belief, Company, Phrases, fold};
use super::report::{self, Report};
use crate::mail::{Address, Order, PlusTags, clean};
use quoted::{Piece, Quoted, pieces};

/// Bytes of a word of a mail that is repeated for people.
const MAX_SHOWN: usize = 100;

/// What a mail was recognised as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Somebody has opted out. It names an address or an order, and its sender is the marketplace's own.
    OptedOut(Notice),
    /// Something else from a marketplace; what, in plain words.
    OtherNotice(String),
    /// A mail host reports.
    Report(Report),
    /// None of these; why, in plain words.
    Unknown(String),
}

/// A notice that somebody has opted out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The marketplace's own, of the notice itself.
    pub sender: Address,
    /// As in `amazon.it`.
    pub marketplace: String,
    /// The buyer's, if it is named.
    pub addresses: Vec<Address>,
    /// Those that the notice is about.
    pub orders: Vec<Order>,
    /// Without angle brackets; of the notice itself, not of the mail that forwards it: that of one forwarded inline is unknown.
    pub message_id: Option<String>,
    /// Its Date; of one that is forwarded inline with a date that cannot be read, when it was forwarded.
    pub sent: Option<Timestamp>,
    /// By what it was recognised.
    pub evidence: Evidence,
    /// It was brought along by another mail.
    pub forwarded: Option<Forwarded>,
    /// Who has forwarded it, by the mail's own From, which nobody vouches for.
    pub forwarder: Option<Address>,
    /// What hosts say about its sender. None where it is forwarded: whoever forwards a mail could have written that too.
    pub results: Vec<AuthResult>,
}

/// By what a notice is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A field of its header that says so.
    Header {
        /// As the marketplace writes it.
        name: String,
        /// What means an opt-out.
        value: String,
    },
    /// Its subject and a clause of its text.
    Fingerprint {
        /// In which these are.
        language: String,
    },
}

/// How another mail brings a notice along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// As an attachment.
    Attached,
    /// In its own text.
    Inline,
}

/// One field `Authentication-Results` (RFC 8601) beside a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthResult {
    /// The host that says it.
    pub authserv: String,
    /// DKIM or DMARC vouches for a domain of the marketplace.
    pub passed: bool,
}

/// One short phrase.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, value } => write!(f, "header {name}: {value}"),
            Self::Fingerprint { language } => write!(f, "its subject and text ({language})"),
        }
    }
}

/// Recognises a mail as it was sent: dots unstuffed, lines ended by CRLF or LF. Of several forwarded in one mail, the first
/// opt-out; see [`recognise_all`].
pub fn recognise(mail: &[u8], phrases: &Phrases) -> Seen {
    let mut all = recognise_all(mail, phrases);
    let best = all.iter().position(|seen| matches!(seen, Seen::OptedOut(_))).unwrap_or(0);
    all.swap_remove(best)
}

/// The same for each notice that a mail forwards; never empty. A mail that is none, and forwards none, is one.
pub fn recognise_all(mail: &[u8], phrases: &Phrases) -> Vec<Seen> {
    let letter = Letter::read(mail);
    let mut all = of_letter(&letter, phrases);
    // What a mail forwards beside a notice is not worth a word.
    if all.iter().any(|seen| !matches!(seen, Seen::Unknown(_))) {
        all.retain(|seen| !matches!(seen, Seen::Unknown(_)));
    }
    all
}

fn of_letter(letter: &Letter, phrases: &Phrases) -> Vec<Seen> {
    if let Some(report) = report::read(letter) {
        return vec![report];
    }
    let sender = match sender_of(letter) {
        Ok(sender) => sender,
        Err(why) => return vec![Seen::Unknown(why)],
    };
    if let Some((company, belief)) = phrases.company_of(&sender) {
        return vec![of_company(letter, sender, company, belief, phrases)];
    }
    if phrases.is_buyer(&sender) {
        return vec![Seen::Unknown(format!("{} is a buyer's address: buyers are not believed", shown(&sender)))];
    }
    if letter.head.all("Auto-Submitted").any(|said| said.to_ascii_lowercase().starts_with("auto-replied")) {
        return vec![Seen::Unknown("an automatic reply".into())];
    }
    let mut all: Vec<_> = letter.attached.iter().flat_map(|attached| forwarded(attached, &sender, phrases)).collect();
    if all.is_empty() {
        all.extend(inline(letter, &sender, phrases));
    }
    if all.is_empty() {
        all.push(Seen::Unknown(foreign(letter, &sender, phrases)));
    }
    all
}

/// From whom a mail is, if there is no doubt about it.
fn sender_of(letter: &Letter) -> Result<Address, String> {
    if letter.head.cut {
        return Err("its header is too long to be read".into());
    }
    let mut fields = letter.head.all("From");
    match (fields.next(), fields.next()) {
        (None, _) => Err("it has no From".into()),
        (Some(_), Some(_)) => Err("it has two From".into()),
        (Some(from), None) => sole_mailbox(from).ok_or_else(|| format!("nobody alone is its sender: {}", clean(from, MAX_SHOWN))),
    }
}

/// A mail whose sender is the company's own.
fn of_company(letter: &Letter, sender: Address, company: &Company, belief: Belief, phrases: &Phrases) -> Seen {
    let subject = letter.head.subject();
    let said: Vec<_> = company.header.iter().flat_map(|header| letter.head.all(header)).collect();
    let evidence = match company.header.as_ref().zip(said.first()) {
        Some((header, first)) => {
            let other = said.iter().find(|said| !company.opted_out.iter().any(|value| value.eq_ignore_ascii_case(said)));
            if let Some(other) = other {
                return Seen::OtherNotice(company.notice_of(other));
            }
            Evidence::Header { name: header.clone(), value: clean(first, MAX_SHOWN) }
        }
        None if belief == Belief::ByHeader => return Seen::OtherNotice(company.other_mail()),
        None => match fingerprint(&subject, &letter.texts, phrases) {
            Some(evidence) => evidence,
            None => return Seen::OtherNotice(company.other_mail()),
        },
    };
    let results = letter.head.all("Authentication-Results");
    let about = About {
        id: company.marketplace_header.as_ref().and_then(|header| letter.head.first(header)),
        message_id: letter.head.message_id(),
        sent: letter.head.date(),
        evidence,
        results: results.filter_map(|field| results::read(field, &company.vouched_by)).collect(),
    };
    named(sender, company, &subject, &letter.texts, about, phrases)
}

/// What is known of a notice but for whom it names.
struct About<'a> {
    /// The marketplace's.
    id: Option<&'a str>,
    message_id: Option<String>,
    sent: Option<Timestamp>,
    evidence: Evidence,
    results: Vec<AuthResult>,
}

/// An opt-out is one of somebody.
fn named(sender: Address, company: &Company, subject: &str, texts: &[Text], about: About<'_>, phrases: &Phrases) -> Seen {
    let (addresses, orders) = (names::buyers(texts, phrases), names::orders(subject, texts));
    if addresses.is_empty() && orders.is_empty() {
        return Seen::OtherNotice(format!(
            "{} says that somebody has opted out, but names neither a buyer nor an order",
            company.name
        ));
    }
    let domain = sender.domain().to_ascii_lowercase();
    let of_buyer = addresses.first().and_then(|buyer| phrases.marketplace_of(buyer.key(PlusTags::Distinct).domain));
    let by_id = || about.id.and_then(|id| company.marketplace_by_id(id));
    let marketplace = of_buyer.or_else(by_id).unwrap_or(&domain).to_owned();
    let About { message_id, sent, evidence, results, .. } = about;
    Seen::OptedOut(Notice {
        sender,
        marketplace,
        addresses,
        orders,
        message_id,
        sent,
        evidence,
        forwarded: None,
        forwarder: None,
        results,
    })
}

fn fingerprint(subject: &str, texts: &[Text], phrases: &Phrases) -> Option<Evidence> {
    let subject = fold(subject);
    let found = texts.iter().find_map(|text| phrases.language_of(&subject, &fold(&text.text)));
    found.map(|language| Evidence::Fingerprint { language: language.to_owned() })
}

/// A mail that is attached to another, as if it stood alone; but nothing that a host has said about it is believed.
fn forwarded(attached: &Letter, by: &Address, phrases: &Phrases) -> Vec<Seen> {
    let mut all = of_letter(attached, phrases);
    for seen in &mut all {
        match seen {
            Seen::OptedOut(notice) => {
                notice.forwarded.get_or_insert(Forwarded::Attached);
                notice.forwarder = Some(by.clone());
                notice.results.clear();
            }
            Seen::Unknown(why) => *why = format!("attached to a mail of {}: {why}", shown(by)),
            Seen::OtherNotice(_) | Seen::Report(_) => {}
        }
    }
    all
}

/// Mails that are quoted in the text. Of the forms of one text, the first in which there are any.
fn inline(letter: &Letter, by: &Address, phrases: &Phrases) -> Vec<Seen> {
    let mut all = Vec::new();
    for text in &letter.texts {
        all = in_text(text, by, letter.head.date(), phrases);
        if all.iter().any(|seen| matches!(seen, Seen::OptedOut(_))) {
            break;
        }
    }
    all
}

fn in_text(text: &Text, by: &Address, forwarded: Option<Timestamp>, phrases: &Phrases) -> Vec<Seen> {
    let mut all = Vec::new();
    for piece in pieces(text, phrases) {
        match piece {
            // What follows are a buyer's words.
            Piece::Own(words) if quotes_a_buyer(&words, phrases) => break,
            Piece::Own(_) => {}
            Piece::Quoted(quoted) if is_of_buyer(&quoted.from, phrases) => break,
            Piece::Quoted(quoted) => {
                let doubt = quotes_a_buyer(&quoted.text.text, phrases);
                all.extend(of_quoted(quoted, by, forwarded, phrases));
                if doubt {
                    break;
                }
            }
        }
    }
    all
}

fn of_quoted(quoted: Quoted, by: &Address, forwarded: Option<Timestamp>, phrases: &Phrases) -> Option<Seen> {
    let sender = one_mailbox(&quoted.from)?;
    let (company, belief) = phrases.company_of(&sender)?;
    let texts = [quoted.text];
    let evidence = fingerprint(&quoted.subject, &texts, phrases).filter(|_| belief == Belief::Wholly);
    let Some(evidence) = evidence else { return Some(Seen::OtherNotice(company.other_mail())) };
    let sent = date(&quoted.date).or(forwarded);
    let about = About { id: None, message_id: None, sent, evidence, results: Vec::new() };
    let seen = named(sender, company, &quoted.subject, &texts, about, phrases);
    Some(match seen {
        Seen::OptedOut(notice) => {
            Seen::OptedOut(Notice { forwarded: Some(Forwarded::Inline), forwarder: Some(by.clone()), ..notice })
        }
        other => other,
    })
}

fn is_of_buyer(from: &str, phrases: &Phrases) -> bool {
    mailboxes(from).filter_map(|text| Address::parse(text).ok()).any(|address| phrases.is_buyer(&address))
}

/// A line such as "On Monday a buyer <…> wrote:", or a From that is a buyer's: what follows is not the forwarder's.
fn quotes_a_buyer(words: &str, phrases: &Phrases) -> bool {
    let mut lines = words.lines().peekable();
    while let Some(line) = lines.next() {
        let ends = |line: &str| line.ends_with([':', '：']);
        let introduces = ends(line) || lines.peek().is_some_and(|next| ends(next)) || phrases.label_of(line).is_some();
        if introduces && line.contains('@') && is_of_buyer(line, phrases) {
            return true;
        }
    }
    false
}

/// Why a mail of somebody else is nothing to learn from.
fn foreign(letter: &Letter, sender: &Address, phrases: &Phrases) -> String {
    let cut = if letter.cut { ", and it is too large to be read to its end" } else { "" };
    match phrases.header_in(|name| letter.head.first(name).is_some()) {
        Some(name) => format!("it has a field {name}, but it is from {}, who is no marketplace{cut}", shown(sender)),
        None => format!("it is from {}, who is no marketplace, and forwards no notice of one{cut}", shown(sender)),
    }
}

fn shown(address: &Address) -> String {
    clean(address.as_str(), MAX_SHOWN)
}

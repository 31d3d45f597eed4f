//! What a mail is: the marketplace's notice that somebody has opted out, another one, a report, or nothing to learn from. The
//! sender decides first, then the header, then the text: a buyer may quote the sentence. Pure; whatever comes, it never panics.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jiff::Timestamp;

use super::letter::{From, Letter, taken_apart};
use super::phrases::{Marketplace, Phrases, fold};
use super::report::{self, Report};
use super::results::{AuthResult, results};
use crate::mail::{Address, Order, PlusTags, clean, orders_in};

/// How deep forwarded mails are looked at.
const DEEPEST: usize = 3;

/// Lines of a forwarded mail's own header.
const HEADER_LINES: usize = 12;

/// A notice is about a buyer, and perhaps a few orders of his.
const MAX_NAMED: usize = 10;

/// What a mail is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The marketplace says that a buyer has opted out.
    OptedOut(Notice),
    /// It is the marketplace's, but says something else: what, in plain words.
    OtherNotice(String),
    /// A report of a mail system.
    Report(Report),
    /// Nothing that anything follows from: why, in plain words.
    Unknown(String),
}

/// A notice that somebody has opted out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The marketplace's own; of the notice itself, not of whoever has forwarded it.
    pub sender: Address,
    /// As in `amazon.it`.
    pub marketplace: String,
    /// The buyer, where he is named.
    pub addresses: Vec<Address>,
    /// The orders that it names.
    pub orders: Vec<Order>,
    /// Message-ID of the notice itself, without angle brackets.
    pub message_id: Option<String>,
    /// When it was written, as it says; of a text that was forwarded, when that was done.
    pub sent: Option<Timestamp>,
    /// By what it is known.
    pub evidence: Evidence,
    /// Somebody has forwarded it.
    pub forwarded: Option<Forwarded>,
    /// What hosts say about its sender.
    pub results: Vec<AuthResult>,
}

/// By what a notice is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The header field that says so, with its value.
    Header(String, String),
    /// What it says, in this language.
    Text(String),
}

/// In a few words.
impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name, value) => write!(f, "{name}: {value}"),
            Self::Text(language) => write!(f, "its text ({language})"),
        }
    }
}

/// How a notice was forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// As it was, in a part or a file.
    Attached,
    /// As a text, with a header of its own in front.
    Inline,
}

/// Tells what a mail is; dots are unstuffed, and lines end in CRLF or LF.
pub fn recognise(mail: &[u8], phrases: &Phrases) -> Seen {
    // The parser is foreign, and the mail may be built against it.
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let Some(message) = taken_apart(mail) else { return unknown("it cannot be taken apart as a mail") };
        look(Letter::of(&message), phrases, DEEPEST)
    }));
    looked.unwrap_or_else(|_| unknown("it cannot be taken apart as a mail"))
}

fn unknown(why: &str) -> Seen {
    Seen::Unknown(why.to_owned())
}

fn look(letter: Letter<'_>, phrases: &Phrases, depth: usize) -> Seen {
    let replied = letter.fields("Auto-Submitted").iter().any(|value| value.to_ascii_lowercase().starts_with("auto-replied"));
    if replied {
        return unknown("an automatic reply");
    }
    let sender = match letter.from() {
        From::Unclear => return unknown("its From field does not name one sender"),
        From::One(sender) => Some(sender),
        From::Nobody => None,
    };
    if let Some(sender) = &sender {
        if let Some(marketplace) = phrases.of_sender(sender) {
            return of_marketplace(letter, marketplace, sender);
        }
        if phrases.is_buyer(sender) {
            return unknown("a message of a buyer, not a notice");
        }
    }
    if let Some(report) = report::read(letter) {
        return Seen::Report(report);
    }
    let mut other = None;
    if depth > 0 {
        let files: Vec<_> = letter.attached_files().filter_map(taken_apart).collect();
        for inner in letter.attached().chain(&files) {
            match look(Letter::of(inner), phrases, depth - 1) {
                Seen::OptedOut(notice) => return Seen::OptedOut(Notice { forwarded: Some(Forwarded::Attached), ..notice }),
                seen @ Seen::OtherNotice(_) => other = Some(seen),
                // A report that somebody forwards is not about mail of his.
                Seen::Report(_) | Seen::Unknown(_) => {}
            }
        }
    }
    match inline(letter, phrases) {
        Some(notice) => Seen::OptedOut(notice),
        None => other.unwrap_or_else(|| unknown("neither a notice of a marketplace nor a report")),
    }
}

fn of_marketplace(letter: Letter<'_>, marketplace: &Marketplace, sender: &Address) -> Seen {
    let host = sender.key(PlusTags::Distinct).domain.to_owned();
    let texts = letter.texts();
    let kinds = letter.fields(&marketplace.header);
    let evidence = match &kinds[..] {
        [] => match language_of(marketplace, letter.subject(), &texts.concat()) {
            Some(language) => Evidence::Text(language),
            None => return Seen::OtherNotice(format!("a mail of {host} that says nothing of an opt-out")),
        },
        [kind] if marketplace.opted_out.contains(kind) => Evidence::Header(marketplace.header.clone(), kind.clone()),
        kinds => return Seen::OtherNotice(format!("another notice of {host}: {}", clean(&kinds.join(", "), 100))),
    };
    let addresses = buyers(marketplace, &letter.htmls(), &texts);
    Seen::OptedOut(Notice {
        sender: sender.clone(),
        marketplace: name_of(&addresses, host),
        addresses,
        orders: orders(letter.subject(), &texts),
        message_id: letter.message_id(),
        sent: letter.sent(),
        evidence,
        forwarded: None,
        results: results(&letter.fields("Authentication-Results"), |domain| marketplace.is_vouched_by(domain)),
    })
}

/// The language in which it says that a mail was not delivered because of an opt-out.
fn language_of(marketplace: &Marketplace, subject: &str, text: &str) -> Option<String> {
    let (subject, text) = (fold(subject), fold(text));
    let says = marketplace.phrases.iter().find(|phrases| {
        let failed = subject.contains(&phrases.failed) || text.contains(&phrases.failed);
        failed && text.contains(&phrases.opted_out)
    });
    says.map(|phrases| phrases.name.clone())
}

/// A notice that a person forwards as a text: lines that begin like a header, From and Subject, then what it says.
fn inline(letter: Letter<'_>, phrases: &Phrases) -> Option<Notice> {
    letter.texts().iter().find_map(|text| {
        let lines: Vec<_> = text.lines().map(unquoted).collect();
        let mut starts = (0..lines.len()).filter(|at| value_of(lines[*at], &phrases.from).is_some());
        starts.find_map(|at| quoted_notice(letter, phrases, &lines[at..]))
    })
}

fn quoted_notice(letter: Letter<'_>, phrases: &Phrases, lines: &[&str]) -> Option<Notice> {
    // A long line may be broken before the address.
    let from = value_of(lines[0], &phrases.from)?;
    let next = lines.get(1).filter(|line| !from.contains('@') && !line.contains(':')).copied().unwrap_or_default();
    let sender = sender_in(&format!("{from} {next}"))?;
    let marketplace = phrases.of_sender(&sender)?;
    let header = &lines[1..lines.len().min(HEADER_LINES)];
    let (at, subject) = header.iter().enumerate().find_map(|(at, line)| Some((at + 1, value_of(line, &phrases.subject)?)))?;
    // Up to the next mail that was forwarded along with it.
    let body = &lines[at + 1..];
    let end = body.iter().position(|line| value_of(line, &phrases.from).is_some_and(|from| from.contains('@')));
    let text = [subject].into_iter().chain(body[..end.unwrap_or(body.len())].iter().copied()).collect::<Vec<_>>().join("\n");
    let language = language_of(marketplace, subject, &text)?;
    let htmls = letter.htmls();
    let texts = [text];
    let addresses = buyers(marketplace, if end.is_none() { &htmls } else { &[] }, &texts);
    Some(Notice {
        marketplace: name_of(&addresses, sender.key(PlusTags::Distinct).domain.to_owned()),
        sender,
        addresses,
        orders: orders("", &texts),
        message_id: letter.message_id(),
        sent: letter.sent(),
        evidence: Evidence::Text(language),
        forwarded: Some(Forwarded::Inline),
        results: Vec::new(),
    })
}

/// Without the marks of quoting, and the stars that some programs put around what is bold.
fn unquoted(line: &str) -> &str {
    line.trim_start_matches(['>', '|', ' ', '\t', '*', '\u{a0}', '\u{3000}'])
}

/// What stands behind one of these names and a colon.
fn value_of<'l>(line: &'l str, names: &[String]) -> Option<&'l str> {
    let (name, value) = line.split_once([':', '：'])?;
    let name = name.trim_matches([' ', '*', '\t', '\u{a0}', '\u{3000}']);
    (name.len() <= 40 && names.contains(&fold(name))).then(|| value.trim_matches([' ', '*', '\t']))
}

/// The one address of a line: what stands in brackets, and beside it nothing that could be another.
fn sender_in(line: &str) -> Option<Address> {
    let parts = line.split(|c: char| c.is_whitespace() || "<>[]()\",;".contains(c));
    let mut found = parts.filter(|part| part.contains('@')).map(|part| part.trim_start_matches("mailto:"));
    let first = found.next()?;
    let all_same = found.all(|other| other.eq_ignore_ascii_case(first));
    Address::parse(first).ok().filter(|_| all_same)
}

/// The marketplace as people call it.
fn name_of(addresses: &[Address], host: String) -> String {
    let domain = addresses.first().map(|address| address.key(PlusTags::Distinct).domain.to_owned());
    domain.and_then(|domain| domain.strip_prefix("marketplace.").map(str::to_owned)).unwrap_or(host)
}

/// Orders in brackets are what a notice is about; without any, all that it names.
fn orders(subject: &str, texts: &[String]) -> Vec<Order> {
    let (mut all, mut bracketed) = (Vec::new(), Vec::new());
    for text in [subject].into_iter().chain(texts.iter().map(String::as_str)) {
        orders_in(text.as_bytes(), &mut all);
        for part in text.split(['[', '［']).skip(1) {
            if let Some(order) = part.split([']', '］']).next().and_then(|inside| Order::parse(inside.trim()))
                && !bracketed.contains(&order)
            {
                bracketed.push(order);
            }
        }
    }
    let mut chosen = if bracketed.is_empty() { all } else { bracketed };
    chosen.truncate(MAX_NAMED);
    chosen
}

/// Buyers whom it links to; without a link, all who stand in its text.
fn buyers(marketplace: &Marketplace, htmls: &[&str], texts: &[String]) -> Vec<Address> {
    let (mut linked, mut written) = (Vec::new(), Vec::new());
    for text in htmls.iter().copied().chain(texts.iter().map(String::as_str)) {
        // As links and HTML write them.
        let text = text.replace("%40", "@").replace("&#64;", "@").replace("&#x40;", "@").replace("%2B", "+").replace("%2b", "+");
        for at in memchr::memchr_iter(b'@', text.as_bytes()) {
            let Some((address, is_link)) = address_around(&text, at) else { continue };
            if !marketplace.has_alias_domain(address.key(PlusTags::Distinct).domain) {
                continue;
            }
            let known = if is_link { &mut linked } else { &mut written };
            if !known.iter().any(|other: &Address| other.key(PlusTags::Distinct) == address.key(PlusTags::Distinct)) {
                known.push(address);
            }
        }
    }
    let mut chosen = if linked.is_empty() { written } else { linked };
    chosen.truncate(MAX_NAMED);
    chosen
}

/// The plain address around this `@`, and whether `mailto:` stands in front.
fn address_around(text: &str, at: usize) -> Option<(Address, bool)> {
    let bytes = text.as_bytes();
    let local = |byte: &u8| byte.is_ascii_alphanumeric() || b".+_-".contains(byte);
    let domain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let start = at - bytes[..at].iter().rev().take(64).take_while(|byte| local(byte)).count();
    let end = at + 1 + bytes[at + 1..].iter().take(255).take_while(|byte| domain(byte)).count();
    let address = Address::parse(text[start..end].trim_end_matches(['.', '-'])).ok()?;
    let is_link = text.get(..start)?.get(start.saturating_sub(7)..).is_some_and(|before| before.eq_ignore_ascii_case("mailto:"));
    Some((address, is_link))
}

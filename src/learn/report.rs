//! Reports of mail hosts: what could not be delivered (RFC 3464), and who complained (RFC 5965). Never decides what follows.

use jiff::Timestamp;

use super::letter::{Head, Letter, PaperKind, one_mailbox, sole_mailbox};
use super::notice::Seen;
use crate::mail::{Address, clean};

/// Recipients of one report; more are not kept.
const MAX_RECIPIENTS: usize = 1000;

/// Bytes of an address that is repeated for people.
const MAX_SHOWN: usize = 320;

/// What may be learned from a delivery report (RFC 3463 3.2, 3.3): nobody reads mail to this address.
const GONE: [(&str, &str); 5] = [
    ("5.1.1", "the mailbox does not exist"),
    ("5.1.2", "the domain does not exist"),
    ("5.1.6", "the mailbox has moved and left no address"),
    ("5.1.10", "the domain takes no mail"),
    ("5.2.1", "the mailbox is disabled"),
];

/// What may be learned from a complaint (RFC 5965 7.3).
const COMPLAINTS: [(&str, &str); 2] =
    [("abuse", "the recipient complained of unwanted mail"), ("fraud", "the recipient complained of fraud")];

/// What a mail host reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of which kind it is.
    pub kind: ReportKind,
    /// Only those who may be learned from it.
    pub recipients: Vec<Reported>,
    /// Of the report, without angle brackets.
    pub message_id: Option<String>,
    /// Date of the report.
    pub sent: Option<Timestamp>,
}

/// The kinds of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// Mail could not be delivered (RFC 3464).
    Delivery,
    /// A recipient has complained (RFC 5965).
    Abuse,
}

/// Somebody whom a report names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// As the report has it.
    pub address: Address,
    /// In plain words.
    pub why: String,
}

/// The report that a mail is. One that is marked as a reply of a machine is none: holiday replies are such, and nobody is gone
/// because of them.
pub(super) fn read(letter: &Letter) -> Option<Seen> {
    let kind = letter.head.first("Content-Type")?.to_ascii_lowercase();
    if !kind.starts_with("multipart/report") {
        return None;
    }
    let paper = letter.papers.iter().find(|paper| paper.kind != PaperKind::Headers)?;
    if letter.head.all("Auto-Submitted").any(|said| said.to_ascii_lowercase().starts_with("auto-replied")) {
        return Some(Seen::Unknown("a report that is marked as an automatic reply".into()));
    }
    let (kind, recipients) = match paper.kind {
        PaperKind::Feedback => (ReportKind::Abuse, complained(&paper.text, letter)),
        _ => (ReportKind::Delivery, gone(&paper.text)),
    };
    let recipients = recipients.into_iter().fold(Vec::new(), |mut known: Vec<Reported>, new| {
        if known.len() < MAX_RECIPIENTS && !known.iter().any(|known| known.address == new.address) {
            known.push(new);
        }
        known
    });
    Some(Seen::Report(Report { kind, recipients, message_id: letter.head.message_id(), sent: letter.head.date() }))
}

/// Those to whom mail has failed for good. The first group of fields is about the mail, each other about one recipient.
fn gone(text: &str) -> Vec<Reported> {
    let mut rest = text.as_bytes();
    let mut found = Vec::new();
    while !rest.is_empty() && found.len() < MAX_RECIPIENTS {
        let (group, behind) = Head::read(rest);
        found.extend(of_group(&group));
        rest = behind;
    }
    found
}

/// Whom the mail was sent to, rather than whom it was passed on to: only the first is in our hands, and mail to it fails again.
fn of_group(group: &Head) -> Option<Reported> {
    let word = |name| group.first(name)?.split([' ', '\t', '(', ';']).next();
    let (status, meaning) = GONE.iter().find(|(status, _)| word("Status") == Some(*status))?;
    if !word("Action")?.eq_ignore_ascii_case("failed") {
        return None;
    }
    let recipient = |name| group.first(name).and_then(recipient);
    let why = format!("{meaning} ({status})");
    match (recipient("Original-Recipient"), recipient("Final-Recipient")) {
        (Some(first), Some(last)) if !first.as_str().eq_ignore_ascii_case(last.as_str()) => {
            Some(Reported { address: first, why: format!("{why}: it is passed on to {}", clean(last.as_str(), MAX_SHOWN)) })
        }
        (Some(address), _) | (None, Some(address)) => Some(Reported { address, why }),
        (None, None) => None,
    }
}

/// `rfc822; somebody@example.com` (RFC 3464 2.3.1), or `utf-8` (RFC 6533 3).
fn recipient(field: &str) -> Option<Address> {
    let (kind, address) = field.split_once(';')?;
    let is_mail = ["rfc822", "utf-8"].iter().any(|known| kind.trim().eq_ignore_ascii_case(known));
    is_mail.then(|| one_mailbox(address))?
}

/// Whom the report names, or else to whom alone the mail went that it is about.
fn complained(text: &str, letter: &Letter) -> Vec<Reported> {
    let (fields, _) = Head::read(text.trim_start().as_bytes());
    let kind = fields.first("Feedback-Type").unwrap_or_default();
    let Some((_, why)) = COMPLAINTS.iter().find(|(known, _)| kind.eq_ignore_ascii_case(known)) else { return Vec::new() };
    let mut addresses: Vec<_> = fields.all("Original-Rcpt-To").filter_map(one_mailbox).collect();
    if addresses.is_empty() {
        addresses.extend(sole_recipient(letter));
    }
    addresses.into_iter().map(|address| Reported { address, why: (*why).to_owned() }).collect()
}

fn sole_recipient(letter: &Letter) -> Option<Address> {
    let headers = letter.papers.iter().find(|paper| paper.kind == PaperKind::Headers);
    let own = headers.map(|paper| Head::read(paper.text.as_bytes()).0);
    let original = letter.attached.first().map(|mail| &mail.head).or(own.as_ref())?;
    let mut to = ["To", "Cc", "Bcc"].into_iter().flat_map(|name| original.all(name));
    let (only, None) = (to.next()?, to.next()) else { return None };
    sole_mailbox(only)
}

//! Reports of mail systems: that somebody cannot be reached for good (RFC 3464), that somebody calls a mail abuse (RFC 5965).
//! Pure; never takes a delay or a trouble of the moment for an opt-out.

use jiff::Timestamp;

use super::letter::{Letter, taken_apart};
use crate::mail::{Address, clean};

/// The mailbox is not there, or no mailbox any more (RFC 3463). Nothing else is final about the buyer: 5.7.x is about us.
const FINAL: [&str; 5] = ["5.1.1", "5.1.2", "5.1.6", "5.1.10", "5.2.1"];

/// What a recipient complains of (RFC 5965 7.3); `not-spam` is the opposite.
const COMPLAINTS: [&str; 2] = ["abuse", "fraud"];

/// More recipients than one mail of ours has.
const MAX_REPORTED: usize = 100;

/// What a mail system reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Of which kind it is.
    pub kind: ReportKind,
    /// Those that may be learned from; nobody where it is about a delay or the like.
    pub recipients: Vec<Reported>,
    /// Message-ID of the report, without angle brackets.
    pub message_id: Option<String>,
    /// When it was written.
    pub sent: Option<Timestamp>,
}

/// The kinds of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// RFC 3464
    Delivery,
    /// RFC 5965
    Abuse,
}

/// Somebody of whom a report says something final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// To whom we had mailed.
    pub address: Address,
    /// Why, in a few words.
    pub why: String,
}

/// Reads a report; `None` where the mail is none.
pub fn read(letter: Letter<'_>) -> Option<Report> {
    let (kind, recipients) = match letter.report_type()?.as_str() {
        "delivery-status" => {
            (ReportKind::Delivery, letter.parts("message/delivery-status").iter().flat_map(|part| failed(part)).collect())
        }
        "feedback-report" => (ReportKind::Abuse, complaint(letter)),
        _ => return None,
    };
    let mut recipients: Vec<Reported> = recipients;
    recipients.truncate(MAX_REPORTED);
    Some(Report { kind, recipients, message_id: letter.message_id(), sent: letter.sent() })
}

/// Those whom a delivery status gives up for good: one group of fields each, behind the group about the message.
fn failed(status: &str) -> Vec<Reported> {
    let groups = groups(status);
    let groups = groups.iter().filter(|group| one(group, "Final-Recipient").is_some());
    let reported = groups.filter_map(|group| {
        let is_final = one(group, "Action")?.eq_ignore_ascii_case("failed");
        let code = one(group, "Status")?.split_whitespace().next()?.to_owned();
        if !is_final || !FINAL.contains(&code.as_str()) {
            return None;
        }
        // The address that we had mailed to is the one that mail will go to again; the final one may be where it was forwarded.
        let address = one(group, "Original-Recipient").and_then(mailbox).or_else(|| mailbox(one(group, "Final-Recipient")?))?;
        let words = one(group, "Diagnostic-Code").unwrap_or_default();
        Some(Reported { address, why: format!("undeliverable for good: {code} {}", clean(words, 150)) })
    });
    reported.collect()
}

/// `rfc822;buyer@example.org` (RFC 3464 2.1.2).
fn mailbox(field: &str) -> Option<Address> {
    let (kind, address) = field.split_once(';')?;
    let is_mailbox = ["rfc822", "utf-8"].iter().any(|known| kind.trim().eq_ignore_ascii_case(known));
    let address = address.trim().trim_start_matches('<').trim_end_matches('>');
    Address::parse(address).ok().filter(|address| is_mailbox && !address.domain().is_empty() && !address.routes_on())
}

/// Whoever complains: named by the report, or the only recipient of the mail that it brings along.
fn complaint(letter: Letter<'_>) -> Vec<Reported> {
    let parts = letter.parts("message/feedback-report");
    let Some(fields) = parts.first().map(|part| groups(part)).and_then(|groups| groups.into_iter().next()) else {
        return Vec::new();
    };
    let Some(kind) = one(&fields, "Feedback-Type").filter(|kind| COMPLAINTS.contains(&kind.to_ascii_lowercase().as_str())) else {
        return Vec::new();
    };
    let why = format!("complained: {}", clean(kind, 20));
    let plain = |text: &str| Address::parse(text.trim().trim_start_matches('<').trim_end_matches('>')).ok();
    let mut named: Vec<_> = all(&fields, "Original-Rcpt-To").filter_map(plain).collect();
    if named.is_empty() {
        named = recipients_of_original(letter);
    }
    let named = named.into_iter().filter(|address| !address.domain().is_empty() && !address.routes_on());
    named.map(|address| Reported { address, why: why.clone() }).collect()
}

fn recipients_of_original(letter: Letter<'_>) -> Vec<Address> {
    let headers = letter.parts("text/rfc822-headers");
    let to = match (letter.attached().next(), headers.first()) {
        (Some(mail), _) => mail.to().cloned().map(mail_parser::Address::into_owned),
        (None, Some(headers)) => {
            taken_apart(headers.as_bytes()).and_then(|mail| mail.to().cloned().map(mail_parser::Address::into_owned))
        }
        (None, None) => None,
    };
    let all: Vec<_> =
        to.iter().flat_map(|to| to.iter()).filter_map(|mailbox| Address::parse(mailbox.address.as_deref()?).ok()).collect();
    // Of several nobody can tell who has complained.
    if all.len() == 1 { all } else { Vec::new() }
}

/// Field names and values of each group, unfolded; an empty line parts two groups.
type Group = Vec<(String, String)>;

fn groups(text: &str) -> Vec<Group> {
    let (mut groups, mut group) = (Vec::new(), Group::new());
    for line in text.lines().chain([""]) {
        if line.trim().is_empty() {
            if !group.is_empty() {
                groups.push(std::mem::take(&mut group));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = group.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            group.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    groups
}

fn all<'g>(group: &'g Group, name: &str) -> impl Iterator<Item = &'g str> {
    group.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// A field that stands there once.
fn one<'g>(group: &'g Group, name: &str) -> Option<&'g str> {
    let mut found = all(group, name);
    found.next().filter(|_| found.next().is_none())
}

//! What the notices of marketplaces look like: who sends them, what their header says, and their words in each language.
//! Never reads a mail, never reads a file.

mod file;

use std::borrow::Cow;
use std::collections::HashMap;

use icu_normalizer::ComposingNormalizerBorrowed as Normalizer;

use crate::mail::{Address, PlusTags, clean};

/// The names and words by which notices are known, as `config/notices.toml` has them.
#[derive(Clone, Debug)]
pub struct Phrases {
    companies: Vec<Company>,
    /// Whose an address or a domain is, in lower case.
    senders: HashMap<String, Sender>,
    /// By the buyers' domain, in comparing form.
    marketplaces: HashMap<String, Place>,
    fingerprints: Vec<Fingerprint>,
    quoting: Quoting,
}

/// Somebody who runs marketplaces.
#[derive(Clone, Debug)]
pub(super) struct Company {
    pub name: String,
    /// The field that says what a mail is; none: only texts say so.
    pub header: Option<String>,
    /// What the field says of an opt-out.
    pub opted_out: Vec<String>,
    /// What its other values mean.
    pub others: HashMap<String, String>,
    /// The field that names a marketplace by its id.
    pub marketplace_header: Option<String>,
    pub marketplaces: Vec<Marketplace>,
    /// A pass for one of these domains vouches for a mail.
    pub vouched_by: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Marketplace {
    pub name: String,
    /// What the company's field calls it.
    pub id: Option<String>,
}

/// How far a sender is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// Whatever it says.
    Wholly,
    /// Only what the header says.
    ByHeader,
}

#[derive(Clone, Copy, Debug)]
struct Sender {
    company: usize,
    belief: Belief,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    company: usize,
    marketplace: usize,
}

/// A notice in one language; both clauses folded.
#[derive(Clone, Debug)]
struct Fingerprint {
    language: String,
    subject: String,
    text: String,
}

/// What stands above a mail that is quoted in another; all folded.
#[derive(Clone, Debug)]
struct Quoting {
    begins: Vec<String>,
    labels: HashMap<String, Label>,
}

/// What a line above a quoted mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    From,
    Subject,
    Date,
    Other,
}

impl Phrases {
    /// Mail to this domain, in comparing form, goes to buyers of a marketplace.
    pub fn is_alias_domain(&self, domain_key: &str) -> bool {
        self.marketplaces.contains_key(domain_key)
    }

    /// Mail to this address goes to a buyer of a marketplace.
    pub fn is_buyer(&self, address: &Address) -> bool {
        self.is_alias_domain(address.key(PlusTags::Distinct).domain)
    }

    /// The marketplace to whose buyers mail to this domain, in comparing form, goes; as in `amazon.it`.
    pub fn marketplace_of(&self, domain_key: &str) -> Option<&str> {
        let place = self.marketplaces.get(domain_key)?;
        Some(&self.companies[place.company].marketplaces[place.marketplace].name)
    }

    /// The company whose own sender this is. Not by its comparing form: letters that look alike, or that another host takes
    /// for others, are no sender's.
    pub(super) fn company_of(&self, sender: &Address) -> Option<(&Company, Belief)> {
        let written = sender.as_str().to_ascii_lowercase();
        let (_, domain) = written.rsplit_once('@')?;
        let sender = self.senders.get(&written).or_else(|| self.senders.get(domain))?;
        Some((&self.companies[sender.company], sender.belief))
    }

    /// The language in which a subject and a text say that somebody has opted out; both folded.
    pub(super) fn language_of(&self, subject: &str, text: &str) -> Option<&str> {
        let found = |known: &&Fingerprint| subject.contains(&known.subject) && text.contains(&known.text);
        self.fingerprints.iter().find(found).map(|known| known.language.as_str())
    }

    /// The first field for notices that a mail has.
    pub(super) fn header_in(&self, has: impl Fn(&str) -> bool) -> Option<&str> {
        self.companies.iter().filter_map(|company| company.header.as_deref()).find(|name| has(name))
    }

    /// Whether a line stands above a mail that is quoted.
    pub(super) fn begins_quote(&self, line: &str) -> bool {
        let bare = line.trim_matches(|c: char| !c.is_alphanumeric());
        // A line of prose is none.
        bare.len() <= MAX_LABEL && self.quoting.begins.contains(&fold(bare))
    }

    /// What a line above a quoted mail is about, and what it says.
    pub(super) fn label_of<'a>(&self, line: &'a str) -> Option<(Label, &'a str)> {
        let (name, value) = line.split_once([':', '：'])?;
        // What was bold stands between asterisks in plain text.
        let frame = |c: char| c == '*' || c.is_whitespace();
        let name = name.trim_matches(frame);
        let known = (name.len() <= MAX_LABEL).then(|| self.quoting.labels.get(&*fold(name)))??;
        Some((*known, value.trim_matches(frame)))
    }
}

impl Company {
    /// What another value of the header means.
    pub fn notice_of(&self, value: &str) -> String {
        match self.others.get(value) {
            Some(meaning) => format!("{}: {meaning} ({value})", self.name),
            None => format!("{}: {}", self.name, clean(value, MAX_LABEL)),
        }
    }

    /// What is said of a mail of the company that is no notice of an opt-out.
    pub fn other_mail(&self) -> String {
        format!("{}: something else than an opt-out", self.name)
    }

    /// The marketplace that the company's field names.
    pub fn marketplace_by_id(&self, id: &str) -> Option<&str> {
        let known =
            self.marketplaces.iter().find(|known| known.id.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(id)));
        known.map(|known| known.name.as_str())
    }
}

/// Bytes of the longest label, and of the longest line that announces a quoted mail.
const MAX_LABEL: usize = 100;

/// The comparing form of a text: without spaces, line ends and what is unseen, in lower case, in NFC, with one form of the
/// apostrophe. So wherever a mail program breaks a line, or a character set is switched, the words are the same.
pub(super) fn fold(text: &str) -> String {
    let composed = match text.is_ascii() {
        true => Cow::Borrowed(text),
        false => Normalizer::new_nfc().normalize(text),
    };
    let mut folded = String::with_capacity(composed.len());
    for c in composed.chars().filter(|c| !is_unseen(*c)) {
        match c {
            '\u{2018}' | '\u{2019}' | '\u{2bc}' | '\u{2032}' | '\u{ff07}' | '`' | '\u{b4}' => folded.push('\''),
            c if c.is_ascii() => folded.push(c.to_ascii_lowercase()),
            c => folded.extend(c.to_lowercase()),
        }
    }
    folded
}

fn is_unseen(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_leaves_the_words_only() {
        for (text, folded) in [
            ("Could NOT\r\n be\u{a0}deli\u{ad}vered", "couldnotbedelivered"),
            ("n\u{2019}a pas pu e\u{302}tre", "n'apaspuêtre"),
            ("未承諾\r\n広告\u{3000}メール", "未承諾広告メール"),
            ("", ""),
        ] {
            assert_eq!(fold(text), folded);
        }
    }

    #[test]
    fn a_sender_is_one_to_the_letter() {
        let phrases = Phrases::compiled();
        let belief =
            |text| phrases.company_of(&Address::parse(text).unwrap()).map(|(company, belief)| (company.name.as_str(), belief));
        for (sender, expected) in [
            ("auto-communication@amazon.com", Some(Belief::Wholly)),
            ("Auto-Communication@AMAZON.co.jp", Some(Belief::Wholly)),
            ("donotreply@amazon.com", Some(Belief::ByHeader)),
            ("auto-communication@amazon.com.evil.example", None),
            ("auto-communication@bounces.amazon.com", None),
            ("auto-communication@marketplace.amazon.com", None),
            ("auto-communication@xamazon.com", None),
            ("auto-communication@amazon.com.", None),
            ("auto-communication@ａmazon.com", None),
            ("auto-communication@аmazon.com", None),
            ("auto\u{200b}-communication@amazon。com", None),
            ("postmaster", None),
        ] {
            assert_eq!(belief(sender), expected.map(|belief| ("Amazon", belief)), "{sender}");
        }
    }

    #[test]
    fn a_buyers_domain_is_one_of_a_marketplace() {
        let phrases = Phrases::compiled();
        for (domain, marketplace) in [
            ("marketplace.amazon.co.uk", Some("amazon.co.uk")),
            ("marketplace.amazon.com", Some("amazon.com")),
            ("amazon.com", None),
            ("marketplace.amazon.com.evil.example", None),
            ("x.marketplace.amazon.com", None),
            ("marketplace.amazon.co.za", None),
        ] {
            assert_eq!(phrases.marketplace_of(domain), marketplace, "{domain}");
        }
        assert!(phrases.is_buyer(&Address::parse("abc+case@Marketplace.Amazon.IT").unwrap()));
    }

    #[test]
    fn lines_above_a_quoted_mail_are_known() {
        let phrases = Phrases::compiled();
        for line in [
            "---------- Forwarded message ---------",
            "-----Messaggio originale-----",
            "Début du message réexpédié\u{a0}:",
            "以下は転送メッセージです：",
            "-------- Weitergeleitete Nachricht --------",
        ] {
            assert!(phrases.begins_quote(line), "{line}");
        }
        assert!(!phrases.begins_quote("The original message was lost") && !phrases.begins_quote("--------"));
        for (line, label) in [
            ("From: a@b", Some((Label::From, "a@b"))),
            ("*De\u{a0}:* Amazon", Some((Label::From, "Amazon"))),
            ("件名：x", Some((Label::Subject, "x"))),
            ("ENVOYÉ : lundi", Some((Label::Date, "lundi"))),
            ("À : x", Some((Label::Other, "x"))),
            ("Nota: x", None),
            ("From", None),
        ] {
            assert_eq!(phrases.label_of(line), label, "{line}");
        }
    }
}

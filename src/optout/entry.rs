//! One opt-out: whom it names, and what stands beside it. Never knows where the list is kept.

use std::fmt;

use jiff::Timestamp;
use md5::Md5;
use sha2::{Digest, Sha256};

use crate::mail::{Address, AddressError, Order, PlusTags, domain_key, glob_key};
use crate::place::shown;

/// Whom an entry names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// One mailbox, by its comparing key.
    Address(Address),
    /// Every mailbox of a domain, not of its subdomains; in comparing form.
    Domain(String),
    /// Every mailbox of every subdomain (`*.example.net`), at any depth; in comparing form.
    Subdomains(String),
    /// A glob over the whole address, `*` any run and `?` one character; lower case.
    Pattern(String),
    /// SHA-256 of the trimmed, lower-cased address.
    Sha256([u8; 32]),
    /// MD5 of the trimmed, lower-cased address.
    Md5([u8; 16]),
    /// Whoever has placed this order at a marketplace.
    Order(Order),
}

/// What an opted-out recipient gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// 250, never forwarded, in the log.
    Drop,
    /// 250, never forwarded, a report to the sender.
    Bounce,
    /// `550 5.7.1` at RCPT.
    #[default]
    Reject,
}

/// What may stand beside the name of an entry; all of it optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// When the buyer opted out, as written. For people; an entry is in force whatever stands here.
    pub since: Option<String>,
    /// In force up to and with this moment. No value: for good.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: Option<String>,
    /// Where we know it from.
    pub source: Option<String>,
    /// Instead of `opt_out.action`.
    pub action: Option<Action>,
    /// Globs over the sender's address, lower case; empty: all senders.
    pub senders: Vec<String>,
    /// For people.
    pub note: Option<String>,
    /// Whether somebody has vouched for what a learned entry was learned from; no value where a person wrote it.
    pub verified: Option<bool>,
    /// What a learned entry was learned from.
    pub evidence: Option<Box<Evidence>>,
}

/// What an entry was learned from; for people, and so that nothing is learned twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// Message-ID of the notice, without angle brackets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The order that the notice names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// By what the notice was known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The way by which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intake: Option<String>,
    /// When it was learned; RFC 3339, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<String>,
}

/// Why an entry cannot be in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Meant as a mailbox, but is none.
    #[error("{text} is not an address: {cause}", text = shown(.0), cause = .1)]
    Address(String, AddressError),
    /// Meant as a domain, but is none.
    #[error("{} is not a domain", shown(.0))]
    Domain(String),
    /// Meant as an order, but is none.
    #[error("{} is not an order: three digits, seven and seven, as in 123-1234567-1234567", shown(.0))]
    Order(String),
    /// Meant as a hash, but is none.
    #[error("{} is not a hash: `sha256:` wants 64 and `md5:` 32 hexadecimal digits", shown(.0))]
    Hash(String),
    /// A glob that could only match everybody, or nobody.
    #[error("{} is not a pattern: it needs an @ and some letters of the address", shown(.0))]
    Pattern(String),
    /// A glob that fits no address.
    #[error("{} fits nobody: what stands behind the @ is no domain", shown(.0))]
    FitsNobody(String),
    /// A glob in the place of an address, where it would stand for nobody.
    #[error("{} is a pattern, not an address", shown(.0))]
    GlobAsAddress(String),
    /// Of any kind, by its looks, but it looks like none.
    #[error("{} is neither an address nor a domain", shown(.0))]
    Unknown(String),
    /// Not one of [`Action`].
    #[error("{} is not an action: reject, drop or bounce", shown(.0))]
    Action(String),
    /// Not a day or a moment.
    #[error("{} is not a date", shown(.0))]
    Date(String),
    /// A glob that no sender could match: the entry would never hold.
    #[error("{} names no sender", shown(.0))]
    Senders(String),
    /// Attributes without a name.
    #[error("the entry names nobody")]
    Nobody,
    /// More than one name.
    #[error("the entry names two")]
    Two,
}

impl EntryError {
    /// What to do about it, where that is not plain.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Address(text, _) if text.contains('<') || text.starts_with("mailto:") => {
                "write the bare address, as in buyer@example.com"
            }
            Self::Address(text, _) if text.matches('@').count() > 1 => "give each address an entry of its own",
            Self::Address(text, _) if text.len() > 1 && text.starts_with(['"', '\'']) && text.ends_with(['"', '\'']) => {
                "take the quotes away"
            }
            Self::Address(text, AddressError::NoDomain) if Subject::domain(text).is_ok() => "is it a domain? name it as one",
            Self::GlobAsAddress(_) => "put it under `patterns`, or name it `pattern`",
            Self::Address(text, _) if text.contains(NEVER_MEANT) => {
                "an office program put its own quotes or signs in: write plain ones"
            }
            Self::Hash(_) => "write the kind in front, as in sha256:… or md5:…; other kinds are not known",
            Self::FitsNobody(_) => "for all subdomains write *@*.example.org, for the domain itself *@example.org",
            Self::Pattern(_) => "as in promo-*@example.com; * is any run of characters, ? is one",
            Self::Action(_) => "write one of them, or nothing to have `opt_out.action`",
            Self::Date(_) => "write 2027-03-31 or 2027-03-31T12:00:00Z",
            Self::Senders(_) => "as in *@shop-a.example; without senders the opt-out holds for all",
            Self::Nobody => "it needs an address, a domain, a pattern, a hash or an order",
            Self::Two => "give each an entry of its own",
            _ => return None,
        })
    }

    /// The key or column of the entry that is wrong; none where it is all of it.
    pub fn key(&self) -> Option<&'static str> {
        match self {
            Self::Address(..) | Self::GlobAsAddress(_) => Some("address"),
            Self::Domain(_) => Some("domain"),
            Self::Hash(_) => Some("hash"),
            Self::Order(_) => Some("order"),
            Self::Pattern(_) | Self::FitsNobody(_) => Some("pattern"),
            Self::Action(_) => Some("action"),
            Self::Date(_) => Some("until"),
            Self::Senders(_) => Some("senders"),
            Self::Unknown(_) | Self::Nobody | Self::Two => None,
        }
    }
}

/// Reads an entry of one kind.
pub type ReadSubject = fn(&str) -> Result<Subject, EntryError>;

impl std::str::FromStr for Action {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        match text.to_ascii_lowercase().as_str() {
            "reject" => Ok(Self::Reject),
            "drop" => Ok(Self::Drop),
            "bounce" => Ok(Self::Bounce),
            _ => Err(EntryError::Action(text.into())),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drop => "drop",
            Self::Bounce => "bounce",
            Self::Reject => "reject",
        })
    }
}

impl Subject {
    /// Both name the same recipients: mailboxes by their comparing key, also where one of the two is a hash of it; other kinds as they
    /// are.
    pub fn names_the_same(&self, other: &Self, tags: PlusTags) -> bool {
        match (self, other) {
            (Self::Address(one), Self::Address(other)) => one.key(tags) == other.key(tags),
            (Self::Address(one), hash) | (hash, Self::Address(one)) => hash.is_of(&one.key(tags).to_string()),
            _ => self == other,
        }
    }

    /// It is a hash of this text.
    fn is_of(&self, text: &str) -> bool {
        match self {
            Self::Sha256(digest) => Sha256::digest(text)[..] == digest[..],
            Self::Md5(digest) => Md5::digest(text)[..] == digest[..],
            _ => false,
        }
    }

    /// The word for the kind of entry in lists, logs and replies.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Address(_) => Kind::Address,
            Self::Domain(_) => Kind::Domain,
            Self::Subdomains(_) => Kind::Subdomains,
            Self::Pattern(_) => Kind::Pattern,
            Self::Sha256(_) => Kind::Sha256,
            Self::Md5(_) => Kind::Md5,
            Self::Order(_) => Kind::Order,
        }
    }

    /// Reads an entry of any kind by its looks, as in a plain list: `a@b`, `example.org`, `*.example.net`,
    /// `promo-*@example.com`, `sha256:…`, `123-1234567-1234567`.
    pub fn guess(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let is_hash =
            text.split_once(':').is_some_and(|(kind, _)| ["sha256", "md5"].iter().any(|k| kind.eq_ignore_ascii_case(k)));
        if is_hash {
            Self::hash(text)
        } else if let Some(order) = Order::parse(text) {
            Ok(Self::Order(order))
        } else if text.starts_with("*.") || text.rfind('@').is_none_or(|at| at == 0) {
            Self::domain(text).map_err(|_| EntryError::Unknown(text.into()))
        } else if memchr::memchr2(b'*', b'?', text.as_bytes()).is_some() && !text.starts_with('"') {
            Self::pattern(text)
        } else {
            Self::address(text)
        }
    }

    /// One mailbox.
    pub fn address(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        if text.contains('*') && !text.starts_with('"') {
            return Err(EntryError::GlobAsAddress(text.into()));
        }
        if text.contains(NEVER_MEANT) {
            return Err(EntryError::Address(text.into(), AddressError::Local));
        }
        Address::parse(text).map(Self::Address).map_err(|e| EntryError::Address(text.into(), e))
    }

    /// A domain, `*.` in front for its subdomains, a leading `@` forgiven.
    pub fn domain(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text.strip_prefix('@').unwrap_or(text), false),
        };
        // What may follow an @ is a domain: one rule for both.
        let known = Address::parse(&format!("x@{name}")).is_ok();
        let name = domain_key(name).into_owned();
        if !known || !name.contains('.') || text.contains(NEVER_MEANT) {
            return Err(EntryError::Domain(text.into()));
        }
        Ok(if below { Self::Subdomains(name) } else { Self::Domain(name) })
    }

    /// A glob over the whole address.
    pub fn pattern(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let error = if text.contains('@') && has_no_domain(text) { EntryError::FitsNobody } else { EntryError::Pattern };
        glob(text).map(Self::Pattern).ok_or_else(|| error(text.into()))
    }

    /// An order of a marketplace, `NNN-NNNNNNN-NNNNNNN`.
    pub fn order(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        Order::parse(text).map(Self::Order).ok_or_else(|| EntryError::Order(text.into()))
    }

    /// `sha256:` or `md5:` and hexadecimal digits of either case.
    pub fn hash(text: &str) -> Result<Self, EntryError> {
        let text = text.trim();
        let found = match text.split_once(':') {
            Some((kind, hex)) if kind.eq_ignore_ascii_case("sha256") => unhex(hex).map(Self::Sha256),
            Some((kind, hex)) if kind.eq_ignore_ascii_case("md5") => unhex(hex).map(Self::Md5),
            _ => None,
        };
        found.ok_or_else(|| EntryError::Hash(text.into()))
    }
}

/// Letters that addresses may hold and nobody means: quotes and signs that office programs put in their place, and what stands for
/// a letter that was lost.
const NEVER_MEANT: [char; 15] = ['\u{fffd}', '“', '”', '„', '‘', '’', '‚', '«', '»', '＠', '，', '；', '＜', '＞', '＊'];

/// A glob over addresses in its comparing form; `None` if it could only match everybody, or nobody.
fn glob(text: &str) -> Option<String> {
    let names_some = text.contains(|c: char| c.is_alphanumeric());
    let never = |c: char| c.is_whitespace() || c.is_control() || NEVER_MEANT.contains(&c) || ",;<>".contains(c);
    let sound = text.len() <= 320 && text.contains('@') && names_some && !text.contains(never);
    sound.then(|| glob_key(text)).filter(|key| !has_no_domain(key) && !key.contains(never))
}

/// As in `*@.example.org`: no mailbox has such a domain, whatever the wildcards stand for.
fn has_no_domain(glob: &str) -> bool {
    let domain = glob.rsplit_once('@').map_or("", |(_, domain)| domain);
    domain.split('.').any(str::is_empty) || domain.contains(|c: char| c.is_ascii_punctuation() && !"-_.:[]*?".contains(c))
}

/// Globs over the sender's address, in comparing form.
pub fn senders<'a>(globs: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, EntryError> {
    globs.into_iter().map(|text| glob(text.trim()).ok_or_else(|| EntryError::Senders(text.into()))).collect()
}

/// The entry in its comparing form, as it stands in logs under `rule.value`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.key(PlusTags::Distinct).fmt(f),
            Self::Domain(name) | Self::Pattern(name) => f.write_str(name),
            Self::Subdomains(name) => write!(f, "*.{name}"),
            Self::Sha256(digest) => write!(f, "sha256:{}", hex(digest)),
            Self::Md5(digest) => write!(f, "md5:{}", hex(digest)),
            Self::Order(order) => order.fmt(f),
        }
    }
}

/// The kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// See [`Subject::Address`].
    Address,
    /// See [`Subject::Domain`].
    Domain,
    /// See [`Subject::Subdomains`].
    Subdomains,
    /// See [`Subject::Pattern`].
    Pattern,
    /// See [`Subject::Sha256`].
    Sha256,
    /// See [`Subject::Md5`].
    Md5,
    /// See [`Subject::Order`].
    Order,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Domain => "domain",
            Self::Subdomains => "subdomains",
            Self::Pattern => "pattern",
            Self::Sha256 => "sha256",
            Self::Md5 => "md5",
            Self::Order => "order",
        })
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    // `from_str_radix` takes a sign.
    (!text.contains(['+', '-'])).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_shows_in_the_looks() {
        for (text, kind, shown) in [
            (" Buyer@Example.org ", Kind::Address, "buyer@example.org"),
            ("Example.ORG.", Kind::Domain, "example.org"),
            ("@example.org", Kind::Domain, "example.org"),
            ("*.Example.net", Kind::Subdomains, "*.example.net"),
            ("Promo-*@example.com", Kind::Pattern, "promo-*@example.com"),
            ("123-1234567-7654321", Kind::Order, "123-1234567-7654321"),
            ("md5:D41D8CD98F00B204E9800998ECF8427E", Kind::Md5, "md5:d41d8cd98f00b204e9800998ecf8427e"),
        ] {
            let subject = Subject::guess(text).unwrap();
            assert_eq!((subject.kind(), subject.to_string().as_str()), (kind, shown));
        }
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for text in ["info@", "a b@c", "", "localhost", "*", "*@*", "**@?", "sha256:abc", "md5:+1", "*.", "a@b\0"] {
            assert!(Subject::guess(text).is_err(), "{text:?}");
        }
    }
}

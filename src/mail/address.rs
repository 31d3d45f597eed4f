//! A mailbox as somebody wrote it, and the key under which its spellings meet. Never changes what is forwarded.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use icu_normalizer::ComposingNormalizerBorrowed as Normalizer;
use icu_normalizer::uts46::Uts46MapperBorrowed as Uts46Mapper;
use idna::AsciiDenyList;
use idna::uts46::{Hyphens, Uts46};

/// The longest mailbox that is taken, in bytes: local part 64, `@`, domain 255 (RFC 5321 4.5.3.1).
///
/// Only the sum is held to: longer local parts exist and are deliverable.
const MAX_BYTES: usize = 320;

/// A mailbox (RFC 5321 4.1.2), kept exactly as written, source route cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    written: Box<str>,
    /// Where the domain begins in `written`; the end of it when there is none (`postmaster`).
    domain_at: usize,
    /// Absent when `written` is already its own key, as nearly all are.
    folded: Option<Box<Folded>>,
}

#[derive(Clone, PartialEq, Eq)]
struct Folded {
    local: String,
    domain: String,
}

/// What two spellings of one mailbox have in common; for comparing only.
///
/// `local` is unquoted, lower-case, NFC and without its `+tag` if tags are ignored;
/// `domain` is the A-label form without a trailing dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// The local part as content, never quoted.
    pub local: &'a str,
    /// The domain, ASCII and lower-case where IDNA knows it.
    pub domain: &'a str,
}

/// Whether `buyer+shop@…` is the mailbox `buyer@…`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlusTags {
    /// The tag is cut before comparing: one opt-out holds for every tag.
    #[default]
    Ignore,
    /// Each tag is a mailbox of its own.
    Distinct,
}

/// Why a text is no mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no text.
    #[error("the address is empty")]
    Empty,
    /// Longer than any mailbox may be.
    #[error("the address is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// No `@`, and not `postmaster`.
    #[error("the address has no domain")]
    NoDomain,
    /// Nothing before the `@`, or a character that needs quotes there.
    #[error("the part before the @ is not a local part")]
    Local,
    /// The part after the `@` cannot be a domain or an address literal.
    #[error("the part after the @ is not a domain")]
    Domain,
}

impl Address {
    /// Reads a mailbox or `postmaster`; a source route (`@x,@y:u@z`, RFC 5321 C) is cut.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = without_route(text);
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(AddressError::TooLong);
        }
        if text.eq_ignore_ascii_case("postmaster") {
            return Ok(Self { written: text.into(), domain_at: text.len(), folded: fold(text, "") });
        }
        let at = local_end(text).ok_or(AddressError::Local)?;
        let (local, rest) = text.split_at(at);
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        if !is_domain(domain) {
            return Err(AddressError::Domain);
        }
        let folded = fold(local, domain);
        // In its comparing form it must be a domain still: a letter of another script may have hidden an empty label.
        if folded.as_ref().is_some_and(|folded| !is_domain(&folded.domain)) {
            return Err(AddressError::Domain);
        }
        Ok(Self { written: text.into(), domain_at: at + 1, folded })
    }

    /// The mailbox as it came, for the wire and for people.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The domain as written; empty for a bare `postmaster`.
    pub fn domain(&self) -> &str {
        &self.written[self.domain_at..]
    }

    /// The local part names another mailbox, to which the host may pass the mail on: `u%d.example@h`, `"u@d.example"@h`,
    /// `d.example!u@h` (RFC 5321 appendix C). Whom it reaches cannot be told.
    pub fn routes_on(&self) -> bool {
        let local = self.key(PlusTags::Distinct).local;
        let (percent, bang) = (local.rsplit_once('%'), local.split_once('!'));
        let is_domain = |text: &str| text.contains(['.', '[']);
        local.contains('@')
            || percent.is_some_and(|(user, domain)| !user.is_empty() && is_domain(domain))
            || bang.is_some_and(|(domain, user)| !user.is_empty() && is_domain(domain))
    }

    /// The comparing key. See [`Key`].
    pub fn key(&self, tags: PlusTags) -> Key<'_> {
        let (local, domain) = match &self.folded {
            Some(folded) => (folded.local.as_str(), folded.domain.as_str()),
            None if self.domain().is_empty() => (self.as_str(), ""),
            None => (&self.written[..self.domain_at - 1], self.domain()),
        };
        Key { local: cut_tag(local, tags), domain }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.written)
    }
}

impl Key<'_> {
    /// The texts that a glob is held against, see [`glob_key`]: the key, and the same with letters in its domain.
    pub fn globbed(&self) -> Vec<String> {
        let mut texts = vec![self.to_string()];
        if let Cow::Owned(domain) = domain_letters(self.domain) {
            texts.push(Key { domain: &domain, ..*self }.to_string());
        }
        texts
    }
}

/// The key written as a mailbox again, quoted where it must be.
impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local.chars().all(is_atom_or_dot) {
            f.write_str(self.local)?;
        } else {
            f.write_str("\"")?;
            for c in self.local.chars() {
                if matches!(c, '"' | '\\') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
            f.write_str("\"")?;
        }
        if self.domain.is_empty() { Ok(()) } else { write!(f, "@{}", self.domain) }
    }
}

/// The comparing form of a domain: A-labels (IDNA), lower case, no trailing dot. What IDNA refuses is lower-cased only.
pub fn domain_key(domain: &str) -> Cow<'_, str> {
    let domain = domain.strip_suffix(DOTS).unwrap_or(domain);
    if domain.is_ascii() {
        if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return Cow::Owned(domain.to_ascii_lowercase());
        }
        return Cow::Borrowed(domain);
    }
    // What one pass makes of a letter of another script may be of meaning itself, if only to a second look.
    let mut key = labels_key(domain);
    for _ in 0..3 {
        key = labels_key(&key);
    }
    Cow::Owned(key)
}

/// Label by label, so that one which IDNA refuses does not hide the others.
fn labels_key(domain: &str) -> String {
    let label = |label: &str| match idna::domain_to_ascii_cow(label.as_bytes(), AsciiDenyList::URL) {
        Ok(ascii) => ascii.into_owned(),
        Err(_) => lower_nfc(label),
    };
    domain.strip_suffix(DOTS).unwrap_or(domain).split(DOTS).map(label).collect::<Vec<_>>().join(".")
}

/// The comparing form of a glob over addresses: `*` and `?` stay, what stands around them becomes what [`Key::globbed`]
/// shows. A domain with a wildcard has letters in the place of A-labels, which hide what the wildcard stands beside; unless
/// it stands in one.
pub fn glob_key(glob: &str) -> String {
    let Some((local, domain)) = glob.rsplit_once('@') else { return lower_nfc(glob) };
    let local = lower_nfc(local);
    let local = match unquoted(&local) {
        Cow::Owned(content) => Key { local: &lower_nfc(&content), domain: "" }.to_string(),
        Cow::Borrowed(_) => local,
    };
    let label = |label: &str| match label.contains(WILD) {
        true => wild_letters(label),
        false => domain_key(label).into_owned(),
    };
    let labels: Vec<_> = domain.strip_suffix(DOTS).unwrap_or(domain).split(DOTS).map(label).collect();
    let in_a_label = labels.iter().any(|label| label.starts_with("xn--") && label.contains(WILD));
    let domain = labels.join(".");
    let letters = domain.contains(WILD) && !in_a_label;
    format!("{local}@{}", if letters { domain_letters(&domain) } else { domain.into() })
}

/// What a glob may hold.
const WILD: [char; 2] = ['*', '?'];

/// Letters as IDNA has them (UTS 46 4, mapped and in NFC), of what need be no label; what it knows none for stays.
fn wild_letters(label: &str) -> String {
    let label = lower_nfc(label);
    let mapped: String = Uts46Mapper::new().map_normalize(label.chars()).collect();
    if mapped.contains(char::REPLACEMENT_CHARACTER) { label } else { mapped }
}

/// A domain in comparing form with letters (U-labels) in the place of A-labels.
pub fn domain_letters(key: &str) -> Cow<'_, str> {
    if !key.contains("xn--") {
        return Cow::Borrowed(key);
    }
    // By the same rules as the way there, or a label would have letters that no recipient's has.
    let label = |label: &str| match Uts46::new().to_unicode(label.as_bytes(), AsciiDenyList::URL, Hyphens::Allow) {
        (letters, Ok(())) if label.starts_with("xn--") => letters.into_owned(),
        _ => label.to_owned(),
    };
    Cow::Owned(key.split('.').map(label).collect::<Vec<_>>().join("."))
}

/// What IDNA takes for a dot (RFC 3490 3.1).
const DOTS: [char; 4] = ['.', '\u{3002}', '\u{ff0e}', '\u{ff61}'];

fn fold(local: &str, domain: &str) -> Option<Box<Folded>> {
    let plain = |b: u8| b.is_ascii() && !b.is_ascii_uppercase() && b != b'"';
    if local.bytes().all(plain) && domain.bytes().all(plain) && !domain.ends_with('.') {
        return None;
    }
    Some(Box::new(Folded { local: lower_nfc(&unquoted(local)), domain: domain_key(domain).into_owned() }))
}

/// Without invisible characters, in lower case, in NFC. Lower-casing goes letter by letter so that it does not depend
/// on a letter's neighbours.
fn lower_nfc(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let nfc = Normalizer::new_nfc();
    let visible = |c: &char| !is_invisible(*c);
    let lower: String = nfc.normalize(text).chars().filter(visible).flat_map(char::to_lowercase).collect();
    if lower.is_empty() { text.to_owned() } else { nfc.normalize(&lower).into_owned() }
}

/// What a copied address may bring along unseen: soft hyphens, joiners, byte order and direction marks, selectors.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{e0000}'..='\u{e0fff}')
}

/// A tag that is the whole local part is no tag.
fn cut_tag(local: &str, tags: PlusTags) -> &str {
    match (tags, local.bytes().skip(1).position(|byte| byte == b'+')) {
        (PlusTags::Ignore, Some(before)) => &local[..=before],
        _ => local,
    }
}

fn without_route(text: &str) -> &str {
    match text.strip_prefix('@').and_then(|route| route.split_once(':')) {
        Some((_, mailbox)) => mailbox,
        None => text,
    }
}

fn unquoted(local: &str) -> Cow<'_, str> {
    let Some(inner) = local.strip_prefix('"').and_then(|l| l.strip_suffix('"')) else {
        return Cow::Borrowed(local);
    };
    let mut content = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        content.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    Cow::Owned(content)
}

/// Where the local part ends. Dots may stand anywhere: `a..b@docomo.ne.jp` and `a.@docomo.ne.jp` are real.
fn local_end(text: &str) -> Option<usize> {
    if text.starts_with('"') {
        let close = quoted_string(text)?.end;
        return (close > 2).then_some(close);
    }
    let end = text.bytes().position(|b| !is_atom_byte(b)).unwrap_or(text.len());
    let stops_well = matches!(text.as_bytes().get(end), Some(b'@') | None);
    let stands_well = text.is_ascii() || text[..end].chars().all(is_atom_or_dot);
    (end > 0 && stops_well && stands_well).then_some(end)
}

/// The span of a leading quoted string (RFC 5321 4.1.2), quotes included.
fn quoted_string(text: &str) -> Option<Range<usize>> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some(0..at + 1),
            '\\' => drop(chars.next().filter(|(_, c)| !c.is_control())?),
            c if c.is_control() => return None,
            _ => {}
        }
    }
    None
}

fn is_atom_or_dot(c: char) -> bool {
    u8::try_from(c).map_or(true, is_atom_byte) && !c.is_control() && !c.is_whitespace()
}

/// By byte, since lists are long; a byte above 127 is a part of a letter that is looked at elsewhere.
fn is_atom_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'A'..=b'Z' | b'.' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'/' | b'=' | b'?' | b'^'..=b'`' | b'{'..=b'~' | 128..)
}

fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[') {
        return literal
            .strip_suffix(']')
            .is_some_and(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'.' | b'-')));
    }
    let host = domain.strip_suffix(DOTS).unwrap_or(domain);
    // A label of invisible letters alone is none; the last of a key would go unnoticed.
    let is_seen = || host.is_ascii() || !domain_key(&format!("{host}.x")).split('.').any(str::is_empty);
    host.len() <= 255 && host.split(DOTS).all(is_label) && is_seen()
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || !b.is_ascii())
        && (label.is_ascii() || !label.contains(|c: char| c.is_control() || c.is_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        Address::parse(text).unwrap().key(PlusTags::Ignore).to_string()
    }

    #[test]
    fn spellings_of_one_mailbox_share_a_key() {
        for (written, expected) in [
            ("Buyer@Example.ORG", "buyer@example.org"),
            ("buyer+case-7@example.org", "buyer@example.org"),
            ("\"buyer\"@example.org.", "buyer@example.org"),
            ("\"b\\uyer\"@example.org", "buyer@example.org"),
            ("@a.example,@b.example:buyer@example.org", "buyer@example.org"),
            ("käufer@bücher.example", "käufer@xn--bcher-kva.example"),
            ("KA\u{308}UFER@BÜCHER.example", "käufer@xn--bcher-kva.example"),
            ("\"a b\"@example.org", "\"a b\"@example.org"),
            ("\"a b+tag\"@example.org", "\"a b\"@example.org"),
            ("+tag@example.org", "+tag@example.org"),
            ("+buyer+tag@example.org", "+buyer@example.org"),
            ("a..b.@docomo.ne.jp", "a..b.@docomo.ne.jp"),
            ("PostMaster", "postmaster"),
            ("x@[IPv6:2001:DB8::1]", "x@[ipv6:2001:db8::1]"),
            ("a@x。example", "a@x.example"),
        ] {
            assert_eq!(key(written), expected, "{written}");
        }
    }

    #[test]
    fn a_key_is_its_own_key() {
        for text in ["K\u{212a}@x.example", "İ@x.example", "\"A+ b\"@x.example", "ΑΣ@x.example", "\"\\\"q\"@x.example"] {
            let once = key(text);
            assert_eq!(key(&once), once, "{text}");
        }
    }

    #[test]
    fn what_is_no_mailbox_is_refused() {
        use AddressError::*;
        for (text, error) in [
            ("", Empty),
            ("info@", Domain),
            ("a b@c", Local),
            ("@c", Local),
            ("someone", NoDomain),
            ("\"\"@c", Local),
            ("\"a@c", Local),
            ("a@b@c", Domain),
            ("a@b..c", Domain),
            ("a@b c", Domain),
            ("a@[]", Domain),
            ("a@b.\u{feff}.c", Domain),
            ("a@b.\u{200b}", Domain),
            ("a@[1.2.3.4", Domain),
            ("a\r@b", Local),
            ("a@b\n", Domain),
            ("a>@b", Local),
            ("\"a\\\n\"@b", Local),
        ] {
            assert_eq!(Address::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(Address::parse(&format!("{}@b.c", "x".repeat(400))), Err(TooLong));
    }

    #[test]
    fn distinct_tags_stay() {
        let address = Address::parse("Buyer+x@example.org").unwrap();
        assert_eq!(address.key(PlusTags::Distinct).to_string(), "buyer+x@example.org");
        assert_eq!(address.as_str(), "Buyer+x@example.org");
    }
}

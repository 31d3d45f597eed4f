//! The buyers and the orders that a notice names. Never judges whether it is a notice.

use percent_encoding::percent_decode_str;

use crate::learn::letter::Text;
use crate::learn::phrases::Phrases;
use crate::mail::{Address, Order, PlusTags, orders_in};

/// Buyers of one notice; more are not kept.
const MAX_BUYERS: usize = 100;

/// Bytes of the longest local part and domain that are looked for in a text.
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// Whom a notice is about: where a link writes to a buyer, that one; else the addresses in its text.
pub fn buyers(texts: &[Text], phrases: &Phrases) -> Vec<Address> {
    let mut found = Vec::new();
    for (_, link) in texts.iter().flat_map(|text| &text.links) {
        linked(link, phrases, &mut found);
    }
    for text in texts {
        links_in(&text.text, |link| linked(link, phrases, &mut found));
    }
    if found.is_empty() {
        for text in texts {
            written(&text.text, phrases, &mut found);
        }
    }
    found
}

/// The orders that it is about: those in brackets, if any stand so; else all that it names.
pub fn orders(subject: &str, texts: &[Text]) -> Vec<Order> {
    let decoded = |link: &(usize, String)| plain_digits(&percent_decode_str(&link.1).decode_utf8_lossy());
    let links: Vec<_> = texts.iter().flat_map(|text| &text.links).map(decoded).collect();
    let written = [subject].into_iter().chain(texts.iter().map(|text| text.text.as_str())).map(plain_digits);
    let (mut bracketed, mut all) = (Vec::new(), Vec::new());
    for text in written.chain(links) {
        orders_in(text.as_bytes(), &mut all);
        for inner in text.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
            bracketed.extend(Order::parse(inner.trim()));
        }
    }
    if bracketed.is_empty() {
        return all;
    }
    all.retain(|order| bracketed.contains(order));
    all
}

/// With the digits, hyphens and brackets of every script as ASCII has them.
fn plain_digits(text: &str) -> String {
    let plain = |c: char| match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{fe58}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{ff10}'..='\u{ff19}' => char::from_digit(u32::from(c) - 0xff10, 10).unwrap_or(c),
        '\u{ff3b}' | '\u{3010}' => '[',
        '\u{ff3d}' | '\u{3011}' => ']',
        c => c,
    };
    text.chars().map(plain).collect()
}

/// Links written out in a text.
fn links_in(text: &str, mut each: impl FnMut(&str)) {
    for at in memchr::memchr_iter(b':', text.as_bytes()) {
        let scheme = at.checked_sub(6).and_then(|start| text.get(start..at));
        if scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("mailto")) {
            let target = &text[at + 1..];
            let ends = |c: char| c.is_whitespace() || "<>\"')]".contains(c);
            each(&target[..target.find(ends).unwrap_or(target.len())]);
        }
    }
}

/// Whom a link writes to (RFC 6068): behind `mailto:`.
fn linked(link: &str, phrases: &Phrases, found: &mut Vec<Address>) {
    let to = link.split('?').next().unwrap_or_default();
    for address in to.split(',') {
        add(&percent_decode_str(address.trim()).decode_utf8_lossy(), phrases, found);
    }
}

/// Every address in a text.
fn written(text: &str, phrases: &Phrases, found: &mut Vec<Address>) {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'@', bytes) {
        let is_local = |byte: &&u8| byte.is_ascii_alphanumeric() || b".+-_".contains(byte);
        let is_domain = |byte: &&u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
        let local = bytes[..at].iter().rev().take(MAX_LOCAL).take_while(is_local).count();
        let domain = bytes[at + 1..].iter().take(MAX_DOMAIN).take_while(is_domain).count();
        let before = at.checked_sub(local + 1).map(|before| bytes[before]);
        // A second @ makes it something else.
        if before != Some(b'@') && bytes.get(at + 1 + domain) != Some(&b'@') {
            add(text[at - local..at + 1 + domain].trim_matches('.'), phrases, found);
        }
    }
}

fn add(text: &str, phrases: &Phrases, found: &mut Vec<Address>) {
    let Ok(address) = Address::parse(text) else { return };
    let known = |other: &Address| other.key(PlusTags::Distinct) == address.key(PlusTags::Distinct);
    if phrases.is_buyer(&address) && found.len() < MAX_BUYERS && !found.iter().any(known) {
        found.push(address);
    }
}

//! Order numbers of marketplaces, and the search for them in mail. Never judges whose an order is.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Message;

/// An order of the marketplace: `NNN-NNNNNNN-NNNNNNN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Order(u64);

/// Bytes of its written form.
const LENGTH: usize = 19;

/// A mail about more orders than this is about none of them.
const MOST: usize = 100;

/// So many bytes of a mail are looked at: whatever it is about stands near its top.
const LOOKED_AT: usize = 256 << 10;

/// The longest encoded word, in bytes; RFC 2047 2 asks for 75.
const WORD: usize = 1000;

impl Order {
    /// Reads the written form, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let text: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
        text.iter()
            .enumerate()
            .try_fold(0, |number, (at, byte)| match (at, byte) {
                (3 | 11, b'-') => Some(number),
                (3 | 11, _) => None,
                (_, b'0'..=b'9') => Some(number * 10 + u64::from(byte - b'0')),
                _ => None,
            })
            .map(Self)
    }

    /// Its seventeen digits as one number.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The written form.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SEVEN: u64 = 10_000_000;
        write!(f, "{:03}-{:07}-{:07}", self.0 / (SEVEN * SEVEN), self.0 / SEVEN % SEVEN, self.0 % SEVEN)
    }
}

/// Adds the orders that stand in a text, each once, in their order; a longer number that looks so in its middle is none.
pub fn orders_in(text: &[u8], found: &mut Vec<Order>) {
    let is_digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
    let mut next = 0;
    for dash in memchr::memchr_iter(b'-', text) {
        let Some(start) = dash.checked_sub(3).filter(|start| *start >= next) else { continue };
        let end = start + LENGTH;
        // A link writes a space as `%20`.
        let in_code = start.checked_sub(3).is_some_and(|at| text[at] == b'%');
        let stands_alone = (in_code || !start.checked_sub(1).is_some_and(is_digit)) && !is_digit(end);
        let written = text.get(start..end).and_then(|written| std::str::from_utf8(written).ok());
        if let Some(order) = written.filter(|_| stands_alone).and_then(Order::parse) {
            next = end;
            if found.len() >= MOST {
                return;
            }
            if !found.contains(&order) {
                found.push(order);
            }
        }
    }
}

/// The orders that a message names, in its subject or its text, however that is encoded.
///
/// It is looked at as a whole, without regard to its parts: every mail to a buyer comes by here, so nothing that somebody
/// writes into one may cost more than a glance.
pub fn orders_of(message: &Message) -> Vec<Order> {
    let mut found = Vec::new();
    let wire = &message.wire()[..message.len().min(LOOKED_AT)];
    orders_in(wire, &mut found);
    if memchr::memmem::find(wire, b"=\r\n").is_some() {
        orders_in(&without_soft_breaks(wire), &mut found);
    }
    if memchr::memmem::find(wire, b"=?").is_some() {
        encoded_words(wire).iter().for_each(|text| orders_in(text, &mut found));
    }
    if says_base64(wire) {
        base64_runs(wire).iter().for_each(|text| orders_in(text, &mut found));
    }
    found
}

/// Some part of it is announced as base64, in letters of any case.
fn says_base64(wire: &[u8]) -> bool {
    let is_word = |at: usize| at.checked_sub(4).is_some_and(|start| wire[start..at].eq_ignore_ascii_case(b"base"));
    memchr::memmem::find_iter(wire, b"64").any(is_word)
}

/// Quoted-printable (RFC 2045 6.7), as far as it hides digits: lines that go on.
fn without_soft_breaks(wire: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(wire.len());
    let mut rest = wire;
    while let Some(at) = memchr::memmem::find(rest, b"=\r\n") {
        text.extend_from_slice(&rest[..at]);
        rest = &rest[at + 3..];
        // A dot that begins a line is stuffed.
        rest = rest.strip_prefix(b".").unwrap_or(rest);
    }
    text.extend_from_slice(rest);
    text
}

/// What stands in words of kind B (RFC 2047 4.1), neighbours joined: a number may go over the border.
fn encoded_words(wire: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    for start in memchr::memmem::find_iter(wire, b"?b?").chain(memchr::memmem::find_iter(wire, b"?B?")) {
        let word = &wire[start + 3..];
        let end = memchr::memmem::find(&word[..word.len().min(WORD)], b"?=");
        if let Some(decoded) = end.and_then(|end| STANDARD.decode(&word[..end]).ok()) {
            text.extend(decoded);
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Lines that are nothing but base64 (RFC 2045 6.8), as far as they stand together; a word of text on a line of its own
/// looks so as well, and means nothing.
fn base64_runs(wire: &[u8]) -> Vec<Vec<u8>> {
    let is_base64 =
        |line: &[u8]| !line.is_empty() && line.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
    let (mut texts, mut run) = (Vec::new(), Vec::new());
    for line in wire.split(|byte| *byte == b'\n').chain([&b""[..]]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if is_base64(line) {
            run.extend_from_slice(line);
        } else if !run.is_empty() {
            // The last line may be cut off where no more is looked at.
            run.truncate(run.len() / 4 * 4);
            texts.extend(STANDARD.decode(&run).ok().filter(|text| text.len() >= LENGTH));
            run.clear();
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        orders_in(text.as_bytes(), &mut found);
        found.iter().map(ToString::to_string).collect()
    }

    fn named(wire: &str) -> Vec<String> {
        let message = Message::from_wire(Bytes::copy_from_slice(wire.as_bytes())).unwrap();
        orders_of(&message).iter().map(ToString::to_string).collect()
    }

    const A: &str = "404-1234567-7654321";
    const B: &str = "001-0000000-0000002";

    #[test]
    fn only_a_whole_number_is_an_order() {
        assert_eq!(found(&format!("[{A}] id={B}, again {A}.")), [A, B]);
        assert_eq!(found(&format!("%3D{A}%20{B}")), [A, B]);
        for none in [
            "1404-1234567-7654321",
            "404-1234567-76543210",
            "404-1234567-765432",
            "404-123456-7654321",
            "404_1234567_7654321",
            "",
            "-",
            "404-",
        ] {
            assert_eq!(found(none), [""; 0], "{none}");
        }
        assert_eq!(found(&format!("{A}-{B}")), [A, B]);
        let many: String = (0..200).map(|number| format!("111-0000000-{number:07} ")).collect();
        assert_eq!(found(&many).len(), MOST);
    }

    #[test]
    fn an_order_is_found_however_it_is_encoded() {
        let html =
            "Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<b>404-12345=\r\n67-7654321</b>\r\n";
        assert_eq!(named(&format!("Subject: x {B}\r\n\r\n..{A}\r\n")), [B, A]);
        assert_eq!(named(&format!("Subject: x\r\n{html}")), [A]);
        // 404-1234567-7654321
        let base64 = "Content-Transfer-Encoding: BASE64\r\n\r\nNDA0LTEyMzQ1NjctNzY1NDMyMQ==\r\n";
        assert_eq!(named(base64), [A]);
        assert_eq!(named(&format!("Subject: =?utf-8?B?NDA0LTEyMzQ1NjctNzY1NDMyMQ==?=\r\n\r\n{B}\r\n")), [B, A]);
        let within = format!(
            "Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n{html}\r\n--x--\r\n"
        );
        assert_eq!(named(&within), [A]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 0..100_000_000_000_000_000_u64) {
            let text = Order(number).to_string();
            prop_assert_eq!(Order::parse(&text), Some(Order(number)));
            prop_assert_eq!(found(&format!("x{}x", text)), [text]);
        }
    }
}

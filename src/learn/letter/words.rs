//! Encoded words (RFC 2047), as mail programs write them. Never fails: what is none stays as it is.

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode_char;

use crate::learn::letter::transfer::letters;

/// Bytes of an encoded word. RFC 2047 2 allows 75; longer ones are met.
const MAX_WORD: usize = 1000;

/// Text of a field with its encoded words decoded (RFC 2047). Neighbours in one character set are decoded as one: mail programs
/// part them within a letter.
pub fn decoded_words(value: &str) -> String {
    // Older Japanese programs write it without encoded words.
    if value.contains("\x1b$") {
        return letters(value.as_bytes(), "iso-2022-jp");
    }
    let mut text = String::with_capacity(value.len());
    let mut pending: Option<Word<'_>> = None;
    let mut rest = value;
    while let Some(at) = rest.find("=?") {
        let Some((word, behind)) = Word::read(&rest[at..]) else {
            flush(&mut pending, &mut text);
            text.push_str(&rest[..at + 2]);
            rest = &rest[at + 2..];
            continue;
        };
        let between = &rest[..at];
        let joined = pending.is_some() && between.trim().is_empty();
        if !joined {
            flush(&mut pending, &mut text);
            text.push_str(between);
        }
        match &mut pending {
            Some(before) if before.goes_on_in(&word) => before.bytes.extend(word.bytes),
            _ => {
                flush(&mut pending, &mut text);
                pending = Some(word);
            }
        }
        rest = behind;
    }
    flush(&mut pending, &mut text);
    text.push_str(rest);
    text
}

fn flush(pending: &mut Option<Word<'_>>, text: &mut String) {
    if let Some(word) = pending.take() {
        text.push_str(&letters(&word.bytes, word.charset));
    }
}

/// One encoded word, or several that are one.
struct Word<'a> {
    charset: &'a str,
    bytes: Vec<u8>,
}

impl<'a> Word<'a> {
    /// Character sets that switch begin anew in each word, so none of theirs is parted.
    fn goes_on_in(&self, next: &Self) -> bool {
        let switches = self.charset.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("iso-2022"));
        !switches && self.charset.eq_ignore_ascii_case(next.charset)
    }

    /// The word at the start of a text, and what follows it.
    fn read(text: &'a str) -> Option<(Self, &'a str)> {
        let end = text.bytes().take(MAX_WORD).enumerate().skip(2);
        let marks: Vec<usize> = end.filter(|(_, byte)| *byte == b'?').map(|(at, _)| at).take(2).collect();
        let [first, second] = marks[..] else { return None };
        let content_at = second + 1;
        let window = &text.as_bytes()[content_at..text.len().min(content_at + MAX_WORD)];
        let length = memchr::memmem::find(window, b"?=")?;
        let content = text.get(content_at..content_at + length)?;
        let charset = text.get(2..first)?;
        let charset = charset.split_once('*').map_or(charset, |(charset, _)| charset);
        let bytes = match text.get(first + 1..second)? {
            "B" | "b" => base64_decode(content.as_bytes())?,
            "Q" | "q" => quoted(content.as_bytes()),
            _ => return None,
        };
        (!charset.is_empty()).then_some((Self { charset, bytes }, text.get(content_at + length + 2..)?))
    }
}

/// The Q encoding (RFC 2047 4.2).
fn quoted(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'_', _) => bytes.push(b' '),
            (b'=', [high, low, tail @ ..]) if let Some(byte) = quoted_printable_decode_char(*high, *low) => {
                bytes.push(byte);
                rest = tail;
            }
            (byte, _) => bytes.push(*byte),
        }
    }
    bytes
}

//! The xtext of RFC 3461 4: what stands in `ENVID` and `ORCPT`. Never writes it anew: what is passed on is what was
//! written, so that nothing is encoded twice.

use std::borrow::Cow;

/// The longest envelope id, decoded (RFC 3461 4.4).
const MAX_ENVELOPE_ID: usize = 100;

/// The longest `ORCPT` as written (RFC 3461 4.2).
const MAX_ORIGINAL: usize = 500;

/// Decodes an `ENVID`; `None` where it is none: empty, too long, not xtext, or not printable ASCII.
pub fn envelope_id(written: &str) -> Option<String> {
    decode(written, |_| false).filter(|id| !id.is_empty() && id.len() <= MAX_ENVELOPE_ID)
}

/// Takes an `ORCPT` apart: the type of the address, and the address decoded; `None` where it is none.
///
/// Only the type `utf-8` may have letters beyond ASCII (RFC 6533 3).
pub fn original_recipient(written: &str) -> Option<(&str, String)> {
    let (kind, address) = written.split_once(';')?;
    let is_atom = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let international = kind.eq_ignore_ascii_case("utf-8");
    let address = decode(address, |c| international && !c.is_ascii() && !c.is_control() && !c.is_whitespace())?;
    (is_atom && !address.is_empty() && written.len() <= MAX_ORIGINAL).then_some((kind, address))
}

/// An address of type `utf-8` in ASCII: letters beyond it as `\x{E4}` (RFC 6533 3), the rest as it is.
pub fn embedded(address: &str) -> Cow<'_, str> {
    if address.is_ascii() {
        return Cow::Borrowed(address);
    }
    let letter = |c: char| if c.is_ascii() { c.to_string() } else { format!("\\x{{{:X}}}", u32::from(c)) };
    Cow::Owned(address.chars().map(letter).collect())
}

/// The result is printable ASCII, and what is `allowed` besides.
fn decode(written: &str, allowed: impl Fn(char) -> bool) -> Option<String> {
    let digit = |c: char| if matches!(c, '0'..='9' | 'A'..='F') { c.to_digit(16) } else { None };
    let printable = |c: &char| matches!(c, ' '..='~');
    let (mut text, mut chars) = (String::with_capacity(written.len()), written.chars());
    while let Some(c) = chars.next() {
        text.push(match c {
            '+' => char::from_u32(digit(chars.next()?)? << 4 | digit(chars.next()?)?).filter(printable)?,
            '!'..='~' if c != '=' => c,
            c if allowed(c) => c,
            _ => return None,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_id_is_decoded_or_refused() {
        for (written, id) in [("QQ314159", "QQ314159"), ("a+2Bb+3Dc+20d", "a+b=c d"), (";", ";")] {
            assert_eq!(envelope_id(written).as_deref(), Some(id));
        }
        for wrong in ["", "a b", "a=b", "+", "+4", "+2b", "+0D+0A", "+7F", "+E4", "\t", "ä", "+G0", "a\u{7f}"] {
            assert_eq!(envelope_id(wrong), None, "{wrong:?}");
        }
        assert!(envelope_id(&"+2B".repeat(100)).is_some());
        assert_eq!(envelope_id(&"x".repeat(101)), None);
    }

    #[test]
    fn letters_beyond_ascii_are_embedded() {
        assert_eq!(embedded("utf-8;käufer+2B\\x{E4}@€.example"), "utf-8;k\\x{E4}ufer+2B\\x{E4}@\\x{20AC}.example");
        assert_eq!(embedded("rfc822;a@b.example"), "rfc822;a@b.example");
    }

    #[test]
    fn an_original_recipient_has_a_type() {
        for (written, kind, address) in [
            ("rfc822;a@b.example", "rfc822", "a@b.example"),
            ("RFC822;a+2Btag@b.example", "RFC822", "a+tag@b.example"),
            ("x400;c;d", "x400", "c;d"),
            ("utf-8;k\\x{E4}ufer@b.example", "utf-8", "k\\x{E4}ufer@b.example"),
            ("utf-8;käufer@b.example", "utf-8", "käufer@b.example"),
        ] {
            assert_eq!(original_recipient(written), Some((kind, address.to_owned())));
        }
        for wrong in [
            "",
            "a@b.example",
            ";a@b.example",
            "rfc822;",
            "rfc 822;a",
            "rfc822;käufer@b.example",
            "utf-8;a\u{80}b",
            "utf-8;a\u{85}b",
            "utf-8;a\u{2028}b",
            "rfc822;a+0Ab",
            "rfc822;a+b@c.example",
        ] {
            assert_eq!(original_recipient(wrong), None, "{wrong:?}");
        }
        assert!(original_recipient(&format!("rfc822;{}", "x".repeat(493))).is_some());
        assert_eq!(original_recipient(&format!("rfc822;{}", "x".repeat(494))), None);
    }
}

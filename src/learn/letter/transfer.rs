//! What stands in a mail in another form: transfer encodings (RFC 2045 6) and character sets. Never fails: what is not as
//! announced stays as it is.

use std::borrow::Cow;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;

/// How the bytes of a part are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Plain,
    QuotedPrintable,
    Base64,
}

/// What was encoded, at most `cap` bytes of it.
pub fn decode(encoding: Encoding, body: &[u8], cap: usize) -> Cow<'_, [u8]> {
    // No encoding takes more than three bytes for one, but for line ends where there need be none.
    let start = &body[..body.len().min(cap.saturating_mul(4))];
    let decoded = match encoding {
        Encoding::Plain => None,
        Encoding::QuotedPrintable => quoted_printable_decode(start).or_else(|| forgiving(start)),
        Encoding::Base64 => base64_decode(start),
    };
    match decoded {
        Some(mut bytes) => {
            bytes.truncate(cap);
            Cow::Owned(bytes)
        }
        None => Cow::Borrowed(&body[..body.len().min(cap)]),
    }
}

/// Quoted-printable that somebody has broken: an `=` that begins nothing stands for itself.
fn forgiving(body: &[u8]) -> Option<Vec<u8>> {
    let mut mended = Vec::with_capacity(body.len());
    for (at, byte) in body.iter().enumerate() {
        mended.push(*byte);
        let begins = match &body[at + 1..] {
            [high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => true,
            behind => behind.is_empty() || behind.starts_with(b"\n") || behind.starts_with(b"\r\n"),
        };
        if *byte == b'=' && !begins {
            mended.extend(b"3D");
        }
    }
    quoted_printable_decode(&mended)
}

/// The letters behind the bytes, by the name of their character set.
pub fn letters(bytes: &[u8], charset: &str) -> String {
    match charset_decoder(charset.as_bytes()) {
        Some(decode) => decode(bytes),
        None => String::from_utf8_lossy(bytes).into_owned(),
    }
}

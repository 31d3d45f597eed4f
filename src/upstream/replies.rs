//! What a host says, cut into replies and cleaned, so that odd bytes cannot break the dialogue. Never reads a socket, never
//! knows what a reply is about.

use std::io;

use bytes::{Bytes, BytesMut};

/// A reply line may be 512 bytes (RFC 5321 4.5.3.1.5); what is longer is cut.
const MAX_REPLY_LINE: usize = 900;
/// A reply of more bytes than this is nonsense.
const MAX_REPLY: usize = 64 << 10;

/// Bytes of a host on their way to be replies.
#[derive(Debug, Default)]
pub struct Replies {
    /// As they came.
    raw: BytesMut,
    /// The lines of the reply before them, clean.
    clean: BytesMut,
}

impl Replies {
    /// These bytes came.
    pub fn put(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
    }

    /// The next reply with all of its lines, if it is whole: `250-text` and `250 text` in printable ASCII, each with CRLF and
    /// a code that the dialogue can go on with. An error where it does not end.
    pub fn cut(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(end) = memchr::memchr(b'\n', &self.raw) {
            let line = self.raw.split_to(end + 1);
            if clean_line(&line, &mut self.clean) {
                return Ok(Some(self.clean.split().freeze()));
            }
        }
        if self.raw.len() > MAX_REPLY || self.clean.len() > MAX_REPLY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the host's reply does not end"));
        }
        Ok(None)
    }

    /// Nothing came that was not asked for.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty() && self.clean.is_empty()
    }
}

/// `250-text` or `250 text` in printable ASCII with CRLF, whatever came; true for the last line of a reply.
fn clean_line(line: &[u8], out: &mut BytesMut) -> bool {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = &line[..line.len().min(MAX_REPLY_LINE)];
    let (code, rest) = line.split_at(line.len().min(3));
    let more = rest.first() == Some(&b'-');
    // No code: then the line is whole, or what stands where a code should would be torn out of it.
    let is_reply = code.len() < 3 || matches!(code, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']);
    let (code, text) = if is_reply { (code, rest.get(1..)) } else { (&b"???"[..], Some(line)) };
    let printable = |byte: &u8| if *byte == b' ' || byte.is_ascii_graphic() { *byte } else { b'?' };
    match code {
        // lettre knows codes up to x5z (RFC 5321 4.2.1); what another one means its first digit says.
        [class @ b'2'..=b'5', b'6'..=b'9', b'0'..=b'9'] => out.extend([*class, b'5', b'0']),
        code => out.extend(code.iter().map(printable)),
    }
    out.extend_from_slice(if more { b"-" } else { b" " });
    match text {
        // lettre wants a word behind 250, and falls over where there is none; some hosts say none.
        None => out.extend_from_slice(b"-"),
        Some(text) if text.iter().all(|byte| *byte == b' ') => out.extend_from_slice(b"-"),
        Some(text) => out.extend(text.iter().map(printable)),
    }
    out.extend_from_slice(b"\r\n");
    !more
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(line: &[u8]) -> (String, bool) {
        let mut out = BytesMut::new();
        let last = clean_line(line, &mut out);
        (String::from_utf8(out.to_vec()).unwrap(), last)
    }

    #[test]
    fn reply_lines_come_out_clean() {
        for (line, expected, last) in [
            (&b"250 ok\r\n"[..], "250 ok\r\n", true),
            (b"250\r\n", "250 -\r\n", true),
            (b"250-  \r\n", "250--\r\n", false),
            (b"571 5.7.1 no\r\n", "550 5.7.1 no\r\n", true),
            (b"460-later\r\n", "450-later\r\n", false),
            (b"250-a\n", "250-a\r\n", false),
            (b"550 \xff\x1b[31m\0\r\n", "550 ??[31m?\r\n", true),
            (b"25\r\n", "25 -\r\n", true),
            (b"\n", " -\r\n", true),
            (b"hello\r\n", "??? hello\r\n", true),
            (b"999-hello\r\n", "???-999-hello\r\n", false),
        ] {
            assert_eq!(cleaned(line), (expected.to_owned(), last), "{line:?}");
        }
        assert!(cleaned(&[b'2'; 5000]).0.len() < 1000);
    }

    #[test]
    fn what_does_not_end_is_no_reply() {
        for piece in [&b"250-x\r\n"[..], b"250 x"] {
            let mut replies = Replies::default();
            let ended = (0..MAX_REPLY).find(|_| {
                replies.put(piece);
                replies.cut().is_err()
            });
            assert!(ended.is_some_and(|pieces| pieces.abs_diff(MAX_REPLY / piece.len()) <= 1), "{ended:?}");
        }
    }
}

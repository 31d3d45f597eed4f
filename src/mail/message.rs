//! A message as it came over the wire: dot-stuffed, CRLF only, without the final dot. Kept in that form, so that
//! what goes on is what came in, byte for byte, with no copy. Never changed, never decoded here.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;

/// The content of one message: nothing, or whole lines that end in CRLF, with dots stuffed (RFC 5321 4.5.2).
///
/// Invariant: no bare CR, no bare LF, no NUL, and no line that is a lone dot. [`crate::smtp`] sees to it at the door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub(super) Bytes);

/// The header section (RFC 5322 2.1) of a message, dots unstuffed.
pub struct HeaderSection<'a>(Cow<'a, [u8]>);

impl Message {
    /// Takes the content as received between the reply to DATA and the final dot.
    ///
    /// `None` where the form is not the one described above.
    pub fn from_wire(wire: Bytes) -> Option<Self> {
        let whole_lines = wire.is_empty() || wire.ends_with(b"\r\n");
        (whole_lines && line_ends_are_canonical(&wire)).then_some(Self(wire))
    }

    /// The same bytes; `room` goes when the last of them goes.
    pub fn kept_with<T: Send + Sync + 'static>(self, room: T) -> Self {
        Self(Bytes::from_owner(Kept { bytes: self.0, _room: room }))
    }

    /// A line of it is a lone dot, so a host would take the rest for commands. No such message comes in at the door; disks
    /// and people can make one.
    pub fn ends_early(&self) -> bool {
        self.0.starts_with(b".\r\n") || memmem::find(&self.0, b"\r\n.\r\n").is_some()
    }

    /// The bytes for the next hop, dots stuffed; the final dot is not among them.
    pub fn wire(&self) -> &Bytes {
        &self.0
    }

    /// The bytes of the message itself, dots unstuffed, in order.
    pub fn content(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        let mut first = true;
        std::iter::from_fn(move || {
            if std::mem::take(&mut first) {
                rest = rest.strip_prefix(b".").unwrap_or(rest);
            }
            if rest.is_empty() {
                return None;
            }
            let end = memmem::find(rest, b"\n.").map_or(rest.len(), |at| at + 1);
            let (chunk, tail) = rest.split_at(end);
            rest = tail.strip_prefix(b".").unwrap_or(tail);
            Some(chunk)
        })
    }

    /// Size in bytes on the wire.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There is no content at all: the dot came straight after 354.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Some byte is above 127, so the next hop must offer 8BITMIME.
    pub fn is_eight_bit(&self) -> bool {
        !self.0.is_ascii()
    }

    /// The header section, or `None` if it is longer than `cap` bytes.
    pub fn headers(&self, cap: usize) -> Option<HeaderSection<'_>> {
        let raw = self.raw_headers();
        if raw.len() > cap {
            return None;
        }
        let stuffed = raw.starts_with(b".") || memmem::find(raw, b"\n.").is_some();
        let section = if stuffed {
            Cow::Owned(Self(self.0.slice(..raw.len())).content().flatten().copied().collect())
        } else {
            Cow::Borrowed(raw)
        };
        Some(HeaderSection(section))
    }

    /// Size of the header section in bytes on the wire, with the empty line behind it.
    pub fn header_len(&self) -> usize {
        self.raw_headers().len()
    }

    /// How many `Received:` fields the message has (RFC 5321 6.3: a loop shows as too many).
    pub fn received_count(&self) -> usize {
        let is_received = |line: &[u8]| line.get(..9).is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"));
        let headers = self.raw_headers();
        usize::from(is_received(headers))
            + memchr::memchr_iter(b'\n', headers).filter(|&at| is_received(&headers[at + 1..])).count()
    }

    /// What stands in the first Message-ID field, without angle brackets, if it stands on one line; found without reading the
    /// header as such.
    pub fn message_id(&self) -> Option<&[u8]> {
        const NAME: &[u8] = b"Message-ID:";
        let headers = self.raw_headers();
        let starts = [0].into_iter().chain(memchr::memchr_iter(b'\n', headers).map(|at| at + 1));
        let mut lines = starts.filter_map(|at| headers.get(at..at + NAME.len()).map(|name| (at, name)));
        let (at, _) = lines.find(|(_, name)| name.eq_ignore_ascii_case(NAME))?;
        let line = &headers[at + NAME.len()..];
        let line = line[..memchr::memchr(b'\r', line)?].trim_ascii();
        let id = line.strip_prefix(b"<").and_then(|id| id.strip_suffix(b">")).unwrap_or(line);
        (!id.is_empty()).then_some(id)
    }

    fn raw_headers(&self) -> &[u8] {
        let end =
            if self.0.starts_with(b"\r\n") { 2 } else { memmem::find(&self.0, b"\r\n\r\n").map_or(self.0.len(), |at| at + 4) };
        &self.0[..end]
    }
}

/// Bytes, and something that is to live as long.
struct Kept<T> {
    bytes: Bytes,
    _room: T,
}

impl<T> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HeaderSection<'_> {
    /// Unstuffed bytes up to and with the empty line.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Every CR is followed by LF, every LF follows CR, and there is no NUL.
///
/// Counted instead of searched: three sums over the bytes are one pass at memory speed, whatever the length of lines.
fn line_ends_are_canonical(bytes: &[u8]) -> bool {
    bytes
        .chunks(1 << 12)
        .scan(0_u8, |before, chunk| {
            let fits = chunk_is_canonical(*before, chunk);
            *before = chunk.last().copied().unwrap_or(0);
            Some(fits)
        })
        .all(|fits| fits)
        && bytes.last() != Some(&b'\r')
}

fn chunk_is_canonical(before: u8, chunk: &[u8]) -> bool {
    let Some(&first) = chunk.first() else { return true };
    // A mismatch between neighbours: CR without LF behind it, or LF without CR before it.
    let broken = |left: u8, right: u8| (left == b'\r') != (right == b'\n');
    let inside = chunk.iter().zip(&chunk[1..]).fold(false, |bad, (&left, &right)| bad | broken(left, right));
    let nul = chunk.iter().fold(false, |bad, &byte| bad | (byte == 0));
    !(inside | nul | broken(before, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(wire: &'static [u8]) -> Message {
        Message::from_wire(Bytes::from_static(wire)).unwrap()
    }

    fn content(wire: &'static [u8]) -> Vec<u8> {
        message(wire).content().flatten().copied().collect()
    }

    #[test]
    fn only_canonical_line_ends_make_a_message() {
        for bad in [&b"a\n"[..], b"a\r", b"a", b"a\rb\r\n", b"a\nb\r\n", b"a\0\r\n", b"\n\r\n", b"a\r\r\n", b"\r\n\n\r\n"] {
            assert!(Message::from_wire(Bytes::from_static(bad)).is_none(), "{bad:?}");
        }
        for good in [&b""[..], b"\r\n", b"a\r\n", b"\r\n\r\n", b"a\r\n\r\nb\xff\r\n"] {
            assert!(Message::from_wire(Bytes::from_static(good)).is_some(), "{good:?}");
        }
    }

    #[test]
    fn a_break_at_a_chunk_border_is_found() {
        for border in [4095, 4096, 4097] {
            for (left, right, fits) in [(b'\r', b'\n', true), (b'x', b'\n', false), (b'\r', b'x', false)] {
                let mut wire = vec![b'x'; border - 1];
                wire.extend([left, right, b'\r', b'\n']);
                assert_eq!(line_ends_are_canonical(&wire), fits, "{border} {left} {right}");
            }
        }
    }

    #[test]
    fn dots_are_unstuffed_at_line_starts_only() {
        assert_eq!(content(b"..a\r\n"), b".a\r\n");
        assert_eq!(content(b"a.\r\n..\r\n.b.\r\n...\r\n"), b"a.\r\n.\r\nb.\r\n..\r\n");
        assert_eq!(content(b""), b"");
    }

    #[test]
    fn headers_end_at_the_empty_line() {
        let mail = message(b"A: 1\r\n..x: 2\r\n\r\nbody\r\n\r\nmore\r\n");
        assert_eq!(mail.headers(100).unwrap().bytes(), b"A: 1\r\n.x: 2\r\n\r\n");
        assert!(mail.headers(10).is_none());
        assert_eq!(message(b"\r\nbody\r\n").headers(9).unwrap().bytes(), b"\r\n");
        assert_eq!(message(b"A: 1\r\n").headers(9).unwrap().bytes(), b"A: 1\r\n");
    }

    #[test]
    fn the_id_is_found_at_the_start_of_a_line_of_the_header() {
        for (wire, id) in [
            (&b"Message-ID: <1@x>\r\n\r\n"[..], Some(&b"1@x"[..])),
            (b"X: Message-ID: <0@x>\r\nmessage-id:2@x \r\n", Some(b"2@x")),
            (b"Message-ID:\r\n <1@x>\r\n\r\n", None),
            (b"X: y\r\n\r\nMessage-ID: <1@x>\r\n", None),
            (b"", None),
        ] {
            assert_eq!(message(wire).message_id(), id);
        }
    }

    #[test]
    fn received_fields_are_counted_in_the_header_only() {
        let mail = message(b"received: a\r\nX: y\r\nRECEIVED: b\r\n\r\nReceived: no\r\n");
        assert_eq!(mail.received_count(), 2);
    }
}

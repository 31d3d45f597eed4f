//! Broken line ends, mended: whatever bytes came before the final dot become one canonical message. Never makes two of one,
//! never touches a message that needs no mending.

use std::fmt;

use bytes::Bytes;
use memchr::memchr3;

use super::{Message, Pages, WORTHWHILE};

/// What was wrong with the bytes of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mending {
    /// LF without a CR before it; each became a line end.
    pub bare_lf: usize,
    /// CR without an LF behind it, each became a line end; or one too many before an LF.
    pub bare_cr: usize,
    /// NUL; each was taken out.
    pub nul: usize,
}

/// Why a message was not mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMended {
    /// It would be larger than it may be.
    TooLarge,
    /// The system has no memory for it now.
    NoRoom,
}

/// For the log, as in `3 bare LF, 1 bare CR, 0 NUL`.
impl fmt::Display for Mending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bare LF, {} bare CR, {} NUL", self.bare_lf, self.bare_cr, self.nul)
    }
}

impl Message {
    /// Takes any bytes as received between the reply to DATA and the final dot, and mends what is not canonical.
    ///
    /// NUL is taken out; LF, CR, and any number of CR before an LF are one line end; a last line without an end gets one. A
    /// dot is taken for the tool's stuffing (RFC 5321 4.5.2) only where it stands first or behind CR LF, for behind anything
    /// else the tool need not have known that a line begins there. Then each line that begins with a dot is stuffed, so what
    /// only looked like the end of a message is a line of this one.
    ///
    /// Canonical bytes are not copied. Others may take a while, 10 ms a MiB.
    pub fn mended(wire: Bytes, limit: usize) -> Result<(Self, Mending), NotMended> {
        if let Some(message) = Self::from_wire(wire.clone()).filter(|message| !message.ends_early()) {
            return if message.len() <= limit { Ok((message, Mending::default())) } else { Err(NotMended::TooLarge) };
        }
        // Measured first, for it may grow to twice its size: what is too large is never made.
        let mut length = 0;
        let mending = mend(&wire, |bytes| length += bytes.len());
        if length > limit {
            return Err(NotMended::TooLarge);
        }
        if length >= WORTHWHILE {
            let mut canonical = Pages::with_room(length).map_err(|_| NotMended::NoRoom)?;
            mend(&wire, |bytes| canonical.extend(bytes));
            return Ok((Self(canonical.freeze()), mending));
        }
        let mut canonical = Vec::with_capacity(length);
        mend(&wire, |bytes| canonical.extend_from_slice(bytes));
        Ok((Self(canonical.into()), mending))
    }
}

/// Writes the canonical form bit by bit.
fn mend(wire: &[u8], write: impl FnMut(&[u8])) -> Mending {
    let mut page = Page { write, line_begins: true, crs: 0, mending: Mending::default() };
    let mut at = 0;
    while at < wire.len() {
        let is_stuffing = wire[at] == b'.' && (at == 0 || wire[..at].ends_with(b"\r\n"));
        at += usize::from(is_stuffing);
        match wire.get(at) {
            Some(b'\r') => page.crs += 1,
            Some(b'\n') => page.lf(),
            Some(0) => page.mending.nul += 1,
            Some(_) => {
                let end = memchr3(b'\r', b'\n', 0, &wire[at..]).map_or(wire.len(), |length| at + length);
                page.text(&wire[at..end]);
                at = end;
                continue;
            }
            None => {}
        }
        at += 1;
    }
    page.end()
}

struct Page<W> {
    write: W,
    /// Nothing of the line is written yet.
    line_begins: bool,
    /// So many CR came last, whose meaning the next byte decides.
    crs: usize,
    mending: Mending,
}

impl<W: FnMut(&[u8])> Page<W> {
    fn text(&mut self, text: &[u8]) {
        self.bare_crs();
        if std::mem::take(&mut self.line_begins) && text.starts_with(b".") {
            (self.write)(b".");
        }
        (self.write)(text);
    }

    fn lf(&mut self) {
        match std::mem::take(&mut self.crs) {
            0 => self.mending.bare_lf += 1,
            crs => self.mending.bare_cr += crs - 1,
        }
        self.line_end();
    }

    /// No LF came behind them.
    fn bare_crs(&mut self) {
        self.mending.bare_cr += self.crs;
        for _ in 0..std::mem::take(&mut self.crs) {
            self.line_end();
        }
    }

    fn line_end(&mut self) {
        (self.write)(b"\r\n");
        self.line_begins = true;
    }

    fn end(mut self) -> Mending {
        self.bare_crs();
        if !self.line_begins {
            self.line_end();
        }
        self.mending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mended(wire: &[u8]) -> (Message, Mending) {
        Message::mended(Bytes::copy_from_slice(wire), usize::MAX).unwrap()
    }

    #[test]
    fn each_kind_of_broken_line_end_becomes_one_line_end() {
        for (wire, canonical, [bare_lf, bare_cr, nul]) in [
            (&b"a\nb\r\n"[..], &b"a\r\nb\r\n"[..], [1, 0, 0]),
            (b"a\rb\r\n", b"a\r\nb\r\n", [0, 1, 0]),
            (b"a\r\r\nb\r\n", b"a\r\nb\r\n", [0, 1, 0]),
            (b"a\r\r\r\n", b"a\r\n", [0, 2, 0]),
            (b"a\r\rb\r\n", b"a\r\n\r\nb\r\n", [0, 2, 0]),
            (b"a\n\rb\r\n", b"a\r\n\r\nb\r\n", [1, 1, 0]),
            (b"a\n\n\r\n", b"a\r\n\r\n\r\n", [2, 0, 0]),
            (b"a\0b\0\r\n", b"ab\r\n", [0, 0, 2]),
            (b"a\r\0\nb\r\n", b"a\r\nb\r\n", [0, 0, 1]),
            (b"a\r\0\r\n", b"a\r\n", [0, 1, 1]),
            (b"a", b"a\r\n", [0, 0, 0]),
            (b"a\r", b"a\r\n", [0, 1, 0]),
            (b"\0", b"", [0, 0, 1]),
            (b"", b"", [0, 0, 0]),
        ] {
            let wants = (canonical, Mending { bare_lf, bare_cr, nul });
            let (message, mending) = mended(wire);
            assert_eq!((&message.wire()[..], mending), wants, "{}", wire.escape_ascii());
        }
    }

    #[test]
    fn what_looks_like_the_end_of_a_message_is_a_stuffed_line_of_it() {
        for (wire, canonical) in [
            (&b"a\n.\nb\r\n"[..], &b"a\r\n..\r\nb\r\n"[..]),
            (b"a\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\rb\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\r\n\0.\r\nb\r\n", b"a\r\n..\r\nb\r\n"),
            (b"a\n..\nb\r\n", b"a\r\n...\r\nb\r\n"),
            // Behind CR LF the dot is stuffing, so here it is no line's text.
            (b"a\r\n.\nb\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.\rb\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\r\n.\r\r\nb\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n.\0\r\nb\r\n", b"a\r\n\r\nb\r\n"),
            (b"a\r\n..\nb\r\n", b"a\r\n..\r\nb\r\n"),
            (b".\nb\r\n", b"\r\nb\r\n"),
            (b"..\nb\r\n", b"..\r\nb\r\n"),
            // Cannot come from the door, and is no end here either.
            (b"a\r\n.\r\nb\r\n", b"a\r\n\r\nb\r\n"),
            (b".\r\n", b"\r\n"),
        ] {
            let found = mended(wire).0;
            assert_eq!(&found.wire()[..], canonical, "{} became {}", wire.escape_ascii(), found.wire().escape_ascii());
        }
    }

    #[test]
    fn what_would_grow_beyond_the_limit_is_not_made() {
        for (wire, length) in [(&b"\n\n\n"[..], 6), (b"\n.\n.", 10), (b"abcd\r\n", 6), (b"\0\0\0\0\0\0a\n", 3)] {
            let mended = |limit| Message::mended(Bytes::from_static(wire), limit);
            assert_eq!(mended(length - 1).unwrap_err(), NotMended::TooLarge);
            assert_eq!(mended(length).unwrap().0.len(), length);
        }
    }

    /// Mostly what matters: line ends in pieces, dots, NUL, and words behind them.
    fn wires() -> impl Strategy<Value = Vec<u8>> {
        let hard =
            prop::sample::select(vec![&b"\r"[..], b"\n", b"\r\n", b"\0", b".", b"..", b"a", b"\r\n.\r\n", b"MAIL FROM:<x@y>"]);
        let piece = prop_oneof![9 => hard.prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 0..9)];
        prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    /// What a receiver by the book takes from the wire until it is empty: the content of each message, dots unstuffed.
    fn received(mut wire: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = vec![Vec::new()];
        while let Some(end) = wire.windows(2).position(|two| two == b"\r\n") {
            let (line, rest) = wire.split_at(end + 2);
            wire = rest;
            match line {
                b".\r\n" => messages.push(Vec::new()),
                line => messages.last_mut().unwrap().extend_from_slice(line.strip_prefix(b".").unwrap_or(line)),
            }
        }
        assert!(wire.is_empty(), "left over: {}", wire.escape_ascii());
        messages
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn any_bytes_become_one_canonical_message(wire in wires()) {
            let (message, mending) = mended(&wire);
            let sent = [message.wire(), &b".\r\n"[..]].concat();
            prop_assert_eq!(received(&sent).len(), 2, "{}", sent.escape_ascii());
            prop_assert!(Message::from_wire(message.wire().clone()).is_some());
            // Once is enough, and nothing is copied then.
            let (again, nothing) = Message::mended(message.wire().clone(), usize::MAX).unwrap();
            prop_assert!(again.wire().as_ptr() == message.wire().as_ptr() && nothing == Mending::default());
            prop_assert_eq!(&again, &message);
            // No byte but line ends and NUL is lost or made, dots of the stuffing aside.
            let text = |bytes: &[u8]| bytes.iter().copied().filter(|byte| !b"\r\n\0.".contains(byte)).collect::<Vec<_>>();
            prop_assert_eq!(text(&wire), text(message.wire()));
            let count = |byte| wire.iter().filter(|found| **found == byte).count();
            prop_assert_eq!(mending.nul, count(0));
            prop_assert!(mending.bare_lf <= count(b'\n') && mending.bare_cr <= count(b'\r'));
        }

        #[test]
        fn a_receiver_by_the_book_reads_the_lines_that_were_meant(lines in prop::collection::vec("[.a]{0,3}", 0..9), ends in prop::collection::vec(0..3_usize, 9)) {
            // The tool stuffs behind CR LF only.
            let (mut wire, mut after_crlf) = (Vec::new(), true);
            for (line, end) in lines.iter().zip(ends) {
                if after_crlf && line.starts_with('.') {
                    wire.push(b'.');
                }
                let end = [&b"\r\n"[..], b"\n", b"\r\r\n"][end];
                wire.extend_from_slice(line.as_bytes());
                wire.extend_from_slice(end);
                after_crlf = wire.ends_with(b"\r\n");
            }
            let meant: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
            let message = mended(&wire).0;
            prop_assert_eq!(&received(message.wire())[0], meant.as_bytes());
        }
    }
}

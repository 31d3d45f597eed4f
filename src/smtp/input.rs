//! Bytes from a client, cut into command lines and messages, with memory that stays within bounds whatever comes.
//! Never reads a socket itself, never looks at what a line means.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};

use crate::mail::Pages;

/// The longest command line, CRLF included. RFC 5321 asks for 512 and more where extensions add to it.
pub const MAX_LINE: usize = 4096;
/// A line that is longer than this ends the session.
pub const MAX_SKIPPED: usize = 64 << 10;

/// What came in and was not used yet.
#[derive(Debug, Default)]
pub struct Input {
    buffer: BytesMut,
    /// A large message that is coming in; `buffer` is empty then.
    pages: Option<Pages>,
    /// Bytes at the start that hold no line end (commands) or no end of data (message).
    searched: usize,
    /// How much of an overlong line has been thrown away.
    skipped: usize,
    /// Bytes of a message were thrown away, and so is what still comes of it; the last four stay in `buffer`.
    drained: bool,
}

/// A message of more bytes gives its memory back when it goes, not when the next one comes.
const LARGE: usize = 32 << 10;

/// Room behind a message of the largest size for what comes with its end.
const BEHIND: usize = 64 << 10;

/// Where the next bytes go.
#[derive(Debug)]
pub enum Space<'a> {
    /// They are appended.
    Grows(&'a mut BytesMut),
    /// They are put there, and [`Input::filled`] is told how many came.
    Stays(&'a mut [u8]),
}

/// What may be the beginning of the end of data.
const KEPT: usize = END.len() - 1;

/// The end of data (RFC 5321 4.1.1.4), and nothing else.
const END: &[u8] = b"\r\n.\r\n";

/// The next command line, if it is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Whole, without its CRLF.
    Whole(Bytes),
    /// It ended in a bare LF; without it.
    Bare(Bytes),
    /// It was longer than allowed and is gone.
    TooLong,
    /// It is longer than `MAX_SKIPPED` bytes and still has no end.
    Endless,
    /// More bytes are needed.
    Partial,
}

/// The message after 354, if it is there.
#[derive(Debug, PartialEq, Eq)]
pub enum Data {
    /// All bytes before the final dot, as they came.
    Whole(Bytes),
    /// It was larger than allowed, or was drained, and is gone.
    TooLarge,
    /// More bytes are needed.
    Partial,
}

impl Input {
    /// Where the next bytes from the socket go, with room for `room` bytes.
    pub fn space(&mut self, room: usize) -> Space<'_> {
        match &mut self.pages {
            Some(pages) => Space::Stays(pages.space(room)),
            None => {
                self.buffer.reserve(room);
                Space::Grows(&mut self.buffer)
            }
        }
    }

    /// So many bytes came.
    pub fn filled(&mut self, count: usize) {
        if let Some(pages) = &mut self.pages {
            pages.filled(count);
        }
    }

    /// Moves a message that is coming in, and is at most `limit` bytes long, into pages of its own.
    pub fn spread(&mut self, limit: usize) -> io::Result<()> {
        if self.pages.is_none() {
            let mut pages = Pages::with_room(limit.max(self.buffer.len()).saturating_add(END.len() + BEHIND))?;
            pages.extend(&self.buffer);
            self.buffer = BytesMut::new();
            self.pages = Some(pages);
        }
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        self.pages.as_ref().map_or(&self.buffer, Pages::bytes)
    }

    /// Something came in that was not asked for yet.
    pub fn is_waiting(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// How much that is, in bytes.
    pub fn waiting(&self) -> usize {
        self.bytes().len()
    }

    /// Throws the message away that is coming in, and what still comes of it.
    pub fn drain(&mut self) {
        self.drained = true;
        // With a copy, for what is only cut off keeps its memory.
        let bytes = self.bytes();
        self.buffer = BytesMut::from(&bytes[bytes.len().saturating_sub(KEPT)..]);
        self.pages = None;
        self.searched = self.buffer.len();
    }

    /// The message that is coming in is thrown away.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Cuts off the next line, of at most `max` bytes with its CRLF.
    pub fn line(&mut self, max: usize) -> Line {
        let Some(end) = memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at) else {
            self.searched = self.buffer.len();
            if self.searched + self.skipped > MAX_SKIPPED {
                return Line::Endless;
            }
            if self.searched > max {
                self.skipped += self.searched;
                self.buffer.clear();
                self.searched = 0;
            }
            return Line::Partial;
        };
        self.searched = 0;
        let mut line = self.buffer.split_to(end + 1);
        if std::mem::take(&mut self.skipped) > 0 || line.len() > max {
            return Line::TooLong;
        }
        if !line.ends_with(b"\r\n") {
            line.truncate(end);
            return Line::Bare(line.freeze());
        }
        line.truncate(end - 1);
        Line::Whole(line.freeze())
    }

    /// Cuts off the message up to `CRLF . CRLF`, and nothing else ends it.
    ///
    /// A message of more than `limit` bytes is read to its end and thrown away, with flat memory.
    pub fn data(&mut self, limit: usize) -> Data {
        // The CRLF of the line `DATA` counts: a dot straight after 354 ends an empty message.
        if self.searched < 3 && !self.drained && self.bytes().starts_with(b".\r\n") {
            drop(self.cut(0));
            self.buffer.advance(3);
            self.searched = 0;
            return Data::Whole(Bytes::new());
        }
        let from = self.searched.saturating_sub(KEPT);
        if let Some(at) = memmem::find(&self.bytes()[from..], END) {
            let message = self.cut(from + at + 2);
            self.buffer.advance(3);
            self.searched = 0;
            let too_large = std::mem::take(&mut self.drained) || message.len() > limit;
            return if too_large { Data::TooLarge } else { Data::Whole(message) };
        }
        self.searched = self.waiting();
        if self.drained {
            self.buffer.advance(self.searched.saturating_sub(KEPT));
            self.searched = self.buffer.len();
        } else if self.searched > limit + END.len() {
            self.drain();
        }
        Data::Partial
    }

    /// The first `len` bytes; the others stay.
    fn cut(&mut self, len: usize) -> Bytes {
        if let Some(mut pages) = self.pages.take() {
            self.buffer.extend_from_slice(&pages.bytes()[len..]);
            pages.truncate(len);
            return pages.freeze();
        }
        let message = self.buffer.split_to(len);
        if len > LARGE {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        message.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(input: &mut Input, bytes: &[u8]) {
        match input.space(bytes.len()) {
            Space::Grows(buffer) => buffer.extend_from_slice(bytes),
            Space::Stays(room) => {
                room[..bytes.len()].copy_from_slice(bytes);
                input.filled(bytes.len());
            }
        }
    }

    /// Feeds the bytes in all ways of cutting them in two, and byte by byte, without and with pages.
    fn data_however_cut(bytes: &[u8], limit: usize) -> Vec<(Data, Vec<u8>)> {
        let feed = |pieces: Vec<&[u8]>, spread: bool| {
            let mut input = Input::default();
            let mut found = Data::Partial;
            for piece in pieces {
                if spread && !input.is_drained() && found == Data::Partial {
                    input.spread(limit).unwrap();
                }
                put(&mut input, piece);
                if found == Data::Partial {
                    found = input.data(limit);
                }
            }
            (found, input.buffer.to_vec())
        };
        let cuts = (0..=bytes.len()).flat_map(|at| [(at, false), (at, true)]);
        let mut results: Vec<_> = cuts.map(|(at, spread)| feed(vec![&bytes[..at], &bytes[at..]], spread)).collect();
        results.push(feed(bytes.chunks(1).collect(), false));
        results.push(feed(bytes.chunks(1).collect(), true));
        results
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        for fake in [
            "\n.\n",
            "\n.\r\n",
            "\r\n.\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\r",
            "\r\r\n.\r\r\n",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\n.\r\r\n",
            ".\r\r\n",
        ] {
            let inside = format!("a{fake}MAIL FROM:<x@y>\r\n");
            for (found, rest) in data_however_cut(format!("{inside}.\r\nQUIT\r\n").as_bytes(), 1000) {
                assert_eq!((found, rest.as_slice()), (Data::Whole(inside.clone().into()), &b"QUIT\r\n"[..]), "{fake:?}");
            }
        }
    }

    #[test]
    fn an_empty_message_ends_at_once() {
        for (found, rest) in data_however_cut(b".\r\nX", 10) {
            assert_eq!((found, rest.as_slice()), (Data::Whole(Bytes::new()), &b"X"[..]));
        }
        for (found, _) in data_however_cut(b"\r\n.\r\n", 10) {
            assert_eq!(found, Data::Whole("\r\n".into()));
        }
    }

    #[test]
    fn after_an_empty_message_that_came_in_pieces_comes_a_command() {
        let mut input = Input::default();
        for piece in [&b"."[..], b"\r"] {
            put(&mut input, piece);
            assert_eq!(input.data(10), Data::Partial);
        }
        put(&mut input, b"\n");
        assert_eq!(input.data(10), Data::Whole(Bytes::new()));
        assert_eq!(input.line(MAX_LINE), Line::Partial);
        put(&mut input, b"NOOP\r\n");
        assert_eq!(input.line(MAX_LINE), Line::Whole("NOOP".into()));
    }

    #[test]
    fn a_large_message_is_drained_to_its_end() {
        for (found, rest) in data_however_cut(b"0123456789\r\n0123\r\n.\r\nX", 10) {
            assert_eq!((found, rest.as_slice()), (Data::TooLarge, &b"X"[..]));
        }
        for (found, _) in data_however_cut(b"01234567\r\n.\r\n", 10) {
            assert_eq!(found, Data::Whole("01234567\r\n".into()));
        }
        let mut input = Input::default();
        for _ in 0..100 {
            put(&mut input, &[b'x'; 100]);
            assert_eq!(input.data(50), Data::Partial);
            assert!(input.buffer.len() <= 4);
        }
    }

    #[test]
    fn what_is_drained_gives_its_memory_back_and_ends_where_it_ends() {
        let mut input = Input::default();
        put(&mut input, &[b'x'; 1 << 20]);
        put(&mut input, b"\r\n.");
        assert_eq!(input.data(2 << 20), Data::Partial);
        input.drain();
        assert!(input.buffer.capacity() < 100);
        put(&mut input, b"\r\nQUIT\r\n");
        assert_eq!(input.data(2 << 20), Data::TooLarge);
        assert_eq!(input.line(MAX_LINE), Line::Whole("QUIT".into()));
        assert!(!input.is_drained());
    }

    #[test]
    fn a_large_message_takes_its_memory_along() {
        let mut input = Input::default();
        put(&mut input, &[b'x'; 1 << 20]);
        put(&mut input, b"\r\n.\r\nQ");
        assert!(matches!(input.data(2 << 20), Data::Whole(_)));
        assert!(input.buffer.capacity() < 100);
        assert_eq!(&input.buffer[..], b"Q");
    }

    #[test]
    fn lines_are_cut_and_overlong_ones_skipped() {
        let mut input = Input::default();
        put(&mut input, b"NOOP\r\nRSET\nQU");
        assert_eq!(input.line(MAX_LINE), Line::Whole("NOOP".into()));
        assert_eq!(input.line(MAX_LINE), Line::Bare("RSET".into()));
        assert_eq!(input.line(MAX_LINE), Line::Partial);
        put(&mut input, b"IT\r\n");
        assert_eq!(input.line(MAX_LINE), Line::Whole("QUIT".into()));
        for _ in 0..3 {
            put(&mut input, &[b'x'; 3000]);
            assert_eq!(input.line(MAX_LINE), Line::Partial);
        }
        put(&mut input, b"\r\nNOOP\r\n");
        assert_eq!(input.line(MAX_LINE), Line::TooLong);
        assert_eq!(input.line(MAX_LINE), Line::Whole("NOOP".into()));
        let endless = (0..30).any(|_| {
            put(&mut input, &[b'x'; 3000]);
            assert!(input.buffer.len() < 8000);
            input.line(MAX_LINE) == Line::Endless
        });
        assert!(endless);
    }
}

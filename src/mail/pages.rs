//! Bytes in memory pages of their own, for large messages: the system gives each page when it is first written to and has
//! all of them back at once when they go, so that what is in memory is what was counted. Never grows.

use std::io;

use bytes::Bytes;
use memmap2::MmapMut;

/// So many bytes are worth pages of their own.
pub const WORTHWHILE: usize = 256 << 10;

/// Room, filled from the beginning.
#[derive(Debug)]
pub struct Pages {
    room: MmapMut,
    len: usize,
}

impl Pages {
    /// Room for so many bytes. An error where the system has no more to give.
    pub fn with_room(bytes: usize) -> io::Result<Self> {
        Ok(Self { room: MmapMut::map_anon(bytes)?, len: 0 })
    }

    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Where the next bytes go, at most so many; then [`filled`](Self::filled) is to be told how many came.
    pub fn space(&mut self, most: usize) -> &mut [u8] {
        let end = self.room.len().min(self.len + most);
        &mut self.room[self.len..end]
    }

    /// So many bytes have come into the space.
    pub fn filled(&mut self, count: usize) {
        self.len = self.room.len().min(self.len + count);
    }

    /// Adds bytes as far as there is room.
    pub fn extend(&mut self, bytes: &[u8]) {
        let space = self.space(bytes.len());
        let count = space.len();
        space.copy_from_slice(&bytes[..count]);
        self.filled(count);
    }

    /// Forgets what stands behind the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The same, to be shared.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_what_is_there() {
        let mut pages = Pages::with_room(10).unwrap();
        pages.extend(b"abcd");
        pages.space(100)[..2].copy_from_slice(b"ef");
        pages.filled(2);
        assert_eq!(pages.bytes(), b"abcdef");
        pages.extend(b"ghijklm");
        assert_eq!(pages.bytes(), b"abcdefghij");
        assert!(pages.space(1).is_empty());
        pages.truncate(3);
        assert_eq!(pages.freeze(), "abc");
    }
}

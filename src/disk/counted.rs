//! What is read, counted, so that somebody else can see how far it is. Never changes what it reads.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adds to `passed` the bytes that went through.
#[derive(Debug)]
pub struct Counted<'a, R> {
    /// Where they come from.
    pub source: R,
    /// How many have passed.
    pub passed: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.passed.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

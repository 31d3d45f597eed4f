//! One piece of mail under way: envelope, our trace field, content. Never changes, once it is made.

use std::sync::OnceLock;

use bytes::Bytes;

use super::order::orders_of;
use super::{Envelope, Heading, Message, Order};

/// A message as it goes on: `trace` in front of `message`.
#[derive(Debug)]
pub struct Mail {
    /// Who sends it to whom.
    pub envelope: Envelope,
    /// Our own `Received:` field.
    pub trace: Bytes,
    /// As it came.
    pub message: Message,
    /// Read when a rule or the log first asks for it.
    heading: OnceLock<Option<Heading>>,
    /// Looked for when it first matters.
    orders: OnceLock<Vec<Order>>,
}

impl Mail {
    /// `trace` is a whole field with its CRLF, or nothing for mail of our own.
    pub fn new(envelope: Envelope, trace: Bytes, message: Message) -> Self {
        Self { envelope, trace, message, heading: OnceLock::new(), orders: OnceLock::new() }
    }

    /// What stands in the header; `None` if that is longer than `cap` bytes at the first asking.
    pub fn heading(&self, cap: usize) -> Option<&Heading> {
        self.heading.get_or_init(|| self.message.headers(cap).map(|section| Heading::read(&section))).as_ref()
    }

    /// The orders that it names; looked for at the first asking.
    pub fn orders(&self) -> &[Order] {
        self.orders.get_or_init(|| orders_of(&self.message))
    }

    /// Bytes on the wire, the final dot not among them.
    pub fn len(&self) -> usize {
        self.trace.len() + self.message.len()
    }

    /// There is nothing at all, not even a trace field.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

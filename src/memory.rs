//! Room in memory for messages, over all sessions and attempts (`listen.max_memory`). Never waits without an end for a
//! client, never looks into a message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::mail::Message;

/// What each message may have without asking: mail of the usual size never waits for large mail.
pub const FREE: usize = 32 << 10;

/// Room is given in pieces of this many bytes.
const PIECE: usize = 1 << 10;

/// A growing message takes so much at a time.
const STEP: usize = 256 << 10;

/// Whoever waits longer lets go of what it has: two that wait for one another would wait for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// All the room there is; a handle.
#[derive(Clone, Debug)]
pub struct Memory {
    free: Arc<Semaphore>,
    /// Pieces in all.
    all: usize,
    /// Room that is kept for one held message.
    beyond: Arc<Semaphore>,
}

/// The room that one message has. It comes back when this goes.
#[derive(Debug, Default)]
pub struct Share(Option<OwnedSemaphorePermit>);

/// There is no room for it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Memory {
    /// Room for so many bytes, `kept` of them for a held message that others keep waiting.
    pub fn new(bytes: u64, kept: u64) -> Self {
        let pieces = usize::try_from(bytes.saturating_sub(kept)).unwrap_or(usize::MAX) / PIECE;
        let all = pieces.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(all)), all, beyond: Arc::new(Semaphore::new(1)) }
    }

    /// Bytes that nobody has.
    pub fn left(&self) -> usize {
        self.free.available_permits() * PIECE
    }

    /// Sees to it that a message of `bytes` has its room, and a step more. Whoever gets none should let go of its share.
    pub async fn grow(&self, share: &mut Share, bytes: usize) -> Result<(), NoRoom> {
        if share.covers(bytes) {
            return Ok(());
        }
        let missing = bytes - (FREE + share.bytes());
        match timeout(PATIENCE, self.take(missing.next_multiple_of(STEP))).await {
            Ok(Share(Some(more))) => share.merge(more),
            _ => return Err(NoRoom),
        }
        Ok(())
    }

    /// Room for a message of `bytes` that is in nobody's way while it waits. One that is larger than all there is has all of
    /// it: it was taken when there was more. Clients that send slowly must not hold up mail that was accepted, nor must mail
    /// that waits for them hold up other clients: after a while one message goes without.
    pub async fn share(&self, bytes: usize) -> Share {
        if bytes <= FREE {
            return Share::default();
        }
        loop {
            if let Ok(share) = timeout(PATIENCE, self.take(bytes.min(self.all * PIECE))).await {
                return share;
            }
            if let Ok(beyond) = timeout(PATIENCE, self.beyond.clone().acquire_owned()).await {
                return Share(beyond.ok());
            }
        }
    }

    async fn take(&self, bytes: usize) -> Share {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        // It is never closed.
        Share(self.free.clone().acquire_many_owned(pieces).await.ok())
    }
}

impl Share {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |permit| permit.num_permits() * PIECE)
    }

    /// It is enough for a message of so many bytes.
    pub fn covers(&self, bytes: usize) -> bool {
        bytes <= FREE + self.bytes()
    }

    /// Gives back what a message of so many bytes does not need.
    pub fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.saturating_sub(FREE).div_ceil(PIECE);
        if let Some(permit) = &mut self.0 {
            drop(permit.split(permit.num_permits().saturating_sub(needed)));
        }
    }

    /// The message, whose bytes have this room until the last of them goes.
    pub fn kept_by(self, message: Message) -> Message {
        // Mail of the usual size has none, and is left as it is.
        if self.0.is_some() { message.kept_with(self) } else { message }
    }

    fn merge(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.0 {
            Some(permit) => permit.merge(more),
            None => self.0 = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn small_mail_never_waits_and_large_mail_waits_for_a_while() {
        let memory = Memory::new(1 << 20, 0);
        let mut large = Share::default();
        memory.grow(&mut large, FREE + (1 << 20)).await.unwrap();
        assert_eq!(large.bytes(), 1 << 20);
        let mut small = Share::default();
        memory.grow(&mut small, FREE).await.unwrap();
        assert_eq!(memory.grow(&mut small, FREE + 1).await, Err(NoRoom));
        drop(large);
        memory.grow(&mut small, FREE + 1).await.unwrap();
        assert_eq!(small.bytes(), STEP);
        // The step is used up before the next one is taken.
        memory.grow(&mut small, FREE + STEP).await.unwrap();
        assert_eq!(small.bytes(), STEP);
        memory.grow(&mut small, FREE + STEP + 1).await.unwrap();
        assert_eq!(small.bytes(), 2 * STEP);
        small.shrink_to(FREE + PIECE + 1);
        assert_eq!((small.bytes(), memory.left()), (2 * PIECE, (1 << 20) - 2 * PIECE));
    }

    #[tokio::test(start_paused = true)]
    async fn held_mail_waits_for_a_while_and_then_one_at_a_time_goes_without_room() {
        let memory = Memory::new(1 << 20, 0);
        let most = memory.share((1 << 20) - 2 * STEP).await;
        assert!(timeout(PATIENCE / 2, memory.share(1 << 20)).await.is_err());
        let beyond = timeout(2 * PATIENCE, memory.share(1 << 20)).await.unwrap();
        assert!(timeout(Duration::from_secs(3600), memory.share(1 << 20)).await.is_err());
        // Nobody else waits for what waits.
        let other = memory.clone();
        let waiting = tokio::spawn(async move { other.share(1 << 20).await });
        let mut client = Share::default();
        tokio::time::sleep(PATIENCE / 10).await;
        memory.grow(&mut client, FREE + 1).await.unwrap();
        drop(beyond);
        waiting.await.unwrap();
        drop((most, client));
        assert_eq!(memory.share(FREE + 1).await.bytes(), FREE + PIECE);
        // It has lain on the disk since there was more room than now.
        assert_eq!(memory.share(1 << 30).await.bytes(), 1 << 20);
    }
}

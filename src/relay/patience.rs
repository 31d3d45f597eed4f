//! The seat of a tool that waits for the host, but not for ever. Never knows what an attempt does.
//!
//! An attempt may have to go on when its tool has gone, so it stands in a box of its own; boxes and alarms are used again, for
//! they would cost more than anything else on the way of a message that is delivered at once.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::ReusableBoxFuture;

/// Seats that nobody sits on.
pub struct Seats<T>(Mutex<Vec<Seat<T>>>);

/// An attempt, and the alarm that ends the patience with it.
pub struct Seat<T> {
    attempt: ReusableBoxFuture<'static, T>,
    alarm: Pin<Box<Sleep>>,
}

impl<T> Seats<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A seat for this attempt.
    pub fn take(&self, attempt: impl Future<Output = T> + Send + 'static) -> Seat<T> {
        match self.spare().pop() {
            Some(mut seat) => {
                seat.attempt.set(attempt);
                seat
            }
            None => Seat { attempt: ReusableBoxFuture::new(attempt), alarm: Box::pin(sleep_until(Instant::now())) },
        }
    }

    /// Its attempt is over.
    pub fn give_back(&self, seat: Seat<T>) {
        self.spare().push(seat);
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Seat<T>>> {
        // Nothing panics with the lock held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Seat<T> {
    /// What the attempt comes to within `limit`; `None` where it takes longer, and then it goes on with
    /// [`rest`](Self::rest).
    pub async fn within(&mut self, limit: Duration) -> Option<T> {
        let end = Instant::now() + limit;
        let Self { attempt, alarm } = self;
        poll_fn(|context| {
            if let Poll::Ready(over) = attempt.poll(context) {
                return Poll::Ready(Some(over));
            }
            loop {
                // Set for a message before, mostly: it rings too early for this one, and is put on only then.
                ready!(alarm.as_mut().poll(context));
                if Instant::now() >= end {
                    return Poll::Ready(None);
                }
                alarm.as_mut().reset(end);
            }
        })
        .await
    }

    /// What the attempt comes to.
    pub async fn rest(self) -> T {
        self.attempt.await
    }
}

impl<T> fmt::Debug for Seats<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn patience_is_the_same_for_every_message_however_late_in_the_alarm_it_comes() {
        let seats = Seats::new();
        for round in 0..3 {
            let begun = Instant::now();
            let mut seat = seats.take(ready(round));
            assert_eq!(seat.within(LIMIT).await, Some(round));
            seats.give_back(seat);
            let mut seat = seats.take(pending());
            assert_eq!(seat.within(LIMIT).await, None);
            assert_eq!(begun.elapsed(), LIMIT, "round {round}");
            seats.give_back(seat);
            assert_eq!(seats.spare().len(), 1, "one seat for all of them");
            tokio::time::advance(Duration::from_secs(7)).await;
            let begun = Instant::now();
            let mut seat = seats.take(async move {
                tokio::time::sleep(LIMIT * 3 / 2).await;
                round
            });
            assert_eq!((seat.within(LIMIT).await, begun.elapsed()), (None, LIMIT));
            assert_eq!((seat.rest().await, begun.elapsed()), (round, LIMIT * 3 / 2));
        }
    }
}

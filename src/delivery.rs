//! The runner: held mail that is due goes out again, and wishes of people are heard. Never looks into a message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::relay::Relay;
use crate::spool::{Backlog, Forgotten, Next, Request, Wanted};

/// How often it is looked for wishes, and for room.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs until the relay stops; attempts that are under way then are among `relay.attempts`. Whoever `asked` whether it does is
/// answered by the loop itself: one that hangs, spins or has ended does not answer.
pub async fn run(relay: Arc<Relay>, backlog: Backlog, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
    let found = spawn_blocking({
        let spool = relay.spool.clone();
        move || spool.schedule(&backlog)
    });
    relay.attempts.spawn(async move {
        if let Ok(count @ 1..) = found.await {
            tracing::info!(held = count, "mail from before waits in the spool");
        }
    });
    loop {
        let until = match relay.spool.next() {
            Next::Attempt(id) => {
                relay.attempts.spawn(relay.clone().retry(id));
                continue;
            }
            Next::Notice(id) => {
                relay.attempts.spawn(relay.clone().tell_late(id));
                continue;
            }
            Next::Wait(until) => until,
        };
        // Without a moment somebody else says when.
        let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            () = relay.stop.cancelled() => return,
            () = relay.spool.changed() => {}
            // Who has lost patience meanwhile does not hear it.
            Some(answer) = asked.recv() => drop(answer.send(())),
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

/// Hears what people want of held mail, and looks for room on the disk, until the relay stops.
pub async fn hear(relay: Arc<Relay>) {
    loop {
        tokio::select! {
            () = relay.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        relay.spool.look_for_room().await;
        let shared = relay.clone();
        // A look that failed is followed by the next one.
        let _ = spawn_blocking(move || look(&shared)).await;
    }
}

fn look(relay: &Relay) {
    for request in relay.spool.requests().unwrap_or_default() {
        let Request { which, wanted } = request;
        let is_done = match (wanted, which) {
            (Wanted::Retry, which) => {
                let count = relay.spool.hurry(which);
                tracing::info!(count, "held mail is tried now, for somebody asked for it");
                true
            }
            (Wanted::Drop, Some(id)) => {
                let forgotten = relay.spool.forget(id);
                match &forgotten {
                    Ok(Forgotten::Now) => tracing::warn!(%id, "held mail was dropped, for somebody asked for it"),
                    Ok(Forgotten::Before) => tracing::warn!(%id, "somebody asked to drop mail that is held no more"),
                    Ok(Forgotten::NotYet) => {}
                    Err(error) => tracing::error!(%id, "held mail cannot be dropped: {error}"),
                }
                !matches!(forgotten, Ok(Forgotten::NotYet))
            }
            (Wanted::Drop, None) => true,
        };
        // What is under way now is dropped when it comes back. What failed is not tried for ever: whoever asked sees that.
        if is_done {
            let _ = relay.spool.is_done(&request);
        }
    }
}

//! Files that change while the relay runs: the opt-out lists, the users, the certificate. Never knows what is in them.

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::question::Asked;
use crate::disk::{Followed, LOOK_EVERY, look};

/// Has files read again when they have changed, until `stop`; whoever asks has it done whether they changed or not, and hears
/// when it is done.
pub async fn follow<R>(mut files: Followed, mut asked: Asked, stop: CancellationToken, renew: impl Fn() -> R)
where
    R: Future<Output = ()>,
{
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(who) = asked.recv() => {
                files.ask();
                waiting.push(who);
            }
            () = sleep(LOOK_EVERY) => {}
        }
        let paths = files.paths();
        let seen = spawn_blocking(move || look(&paths)).await.unwrap_or_default();
        if files.is_due(seen) {
            renew().await;
            waiting.clear();
        }
    }
}

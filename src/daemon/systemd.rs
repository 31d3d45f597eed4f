//! What systemd is told: ready, reloading, alive, stopping, and how it goes (`sd_notify`(3)). Never hears anything from it; where
//! no systemd wants to know, nobody is told.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::question::Asker;
use crate::mail::some;
use crate::smtp::Door;

/// How often it is told how it goes, where no watchdog waits for a sign of life.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// systemd hears at once, or is in trouble itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// The door is open, and what was to be read again was read.
pub async fn ready(door: &Door) {
    tell(vec![NotifyState::Ready], state(door)).await;
}

/// The lists are read again; [`ready`] follows.
pub async fn reloading() {
    // From version 253 on systemd wants the time with it.
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    tell(vec![NotifyState::Reloading, now], "reading the opt-outs again".to_owned()).await;
}

/// What is under way is finished, which takes no longer than this: systemd waits for it, whatever the unit says.
pub async fn stopping(within: Duration) {
    let within = u32::try_from(within.saturating_add(PATIENCE).as_micros()).unwrap_or(u32::MAX);
    let news = vec![NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within)];
    tell(news, "stopping: what is under way is finished first".to_owned()).await;
}

/// Tells until the relay stops that it is alive, as long as its delivery loop is; otherwise systemd starts it anew.
pub async fn watch(door: Arc<Door>, delivery: Asker) {
    if !is_there() {
        return;
    }
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|half| !half.is_zero());
    let every = watchdog.unwrap_or(TELL_EVERY);
    loop {
        tokio::select! {
            biased;
            () = door.stop.cancelled() => return,
            is_alive = is_alive(&delivery, every) => match (is_alive, watchdog) {
                (true, Some(_)) => tell(vec![NotifyState::Watchdog], state(&door)).await,
                (true, None) => tell(Vec::new(), state(&door)).await,
                (false, _) => tracing::error!("held mail is not looked after: the delivery loop does not answer"),
            },
        }
    }
}

/// After this time: whether the loop answers within the same time.
async fn is_alive(delivery: &Asker, every: Duration) -> bool {
    sleep(every).await;
    timeout(every, delivery.ask()).await.unwrap_or(false)
}

fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn state(door: &Door) -> String {
    let (opt_outs, held, sessions) = (door.relay.lists.current().len(), door.relay.spool.len(), door.tasks.len());
    format!(
        "{} in force, {} held, {}",
        some(opt_outs as u64, "opt-out"),
        some(held as u64, "message"),
        some(sessions as u64, "session")
    )
}

async fn tell(news: Vec<NotifyState<'static>>, status: String) {
    if !is_there() {
        return;
    }
    let told = spawn_blocking(move || {
        let mut news: Vec<NotifyState<'_>> = news;
        news.push(NotifyState::Status(&status));
        sd_notify::notify(&news)
    });
    let error = match timeout(PATIENCE, told).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) | Err(_) => "it does not listen".to_owned(),
    };
    tracing::warn!("systemd cannot be told how the relay is: {error}");
}

#[cfg(test)]
mod tests {
    use super::super::question::question;
    use super::*;

    const EVERY: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_answer_is_not_alive() {
        let (delivery, mut asked) = question();
        assert!(!is_alive(&delivery, EVERY).await);
        // An answer that comes too late is none to the next question.
        assert!(asked.try_recv().unwrap().send(()).is_err());
        assert!(!is_alive(&delivery, EVERY).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_answers_is_alive_until_it_ends() {
        let (delivery, mut asked) = question();
        let running = tokio::spawn(async move {
            for _ in 0..2 {
                asked.recv().await.unwrap().send(()).unwrap();
            }
        });
        assert!(is_alive(&delivery, EVERY).await);
        assert!(is_alive(&delivery, EVERY).await);
        running.await.unwrap();
        assert!(!is_alive(&delivery, EVERY).await);
    }
}

//! Looks whether the password was changed while the host refuses the one in use. Never prints it, never looks while all is
//! well.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::config::Config;
use crate::relay::Relay;

/// How often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Runs until the relay stops; a new password is tried at once.
pub async fn watch(relay: Arc<Relay>, config: Arc<Config>) {
    loop {
        tokio::select! {
            () = relay.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !relay.upstream.refuses_login() {
            continue;
        }
        let config = config.clone();
        // A file that is just being written is read again the next time.
        let found = spawn_blocking(move || config.password().ok().flatten()).await.ok().flatten();
        if found.is_some_and(|password| relay.upstream.renew_password(password)) {
            tracing::info!("the password towards the mail host has changed: the login is tried again");
            relay.spool.ask_again();
        }
    }
}

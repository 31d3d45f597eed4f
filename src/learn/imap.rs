//! Notices in a mailbox, by IMAP (RFC 9051, RFC 3501): searched by their senders, learned from, marked or moved. Never deletes a
//! mail, never marks one from which nothing was learned.

mod place;
mod visit;

pub use place::Place;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

pub use visit::Trouble;
use visit::Visit;

/// After trouble: first, and at most. A server that refuses the login is asked more rarely, or it locks the account.
const AGAIN: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(15 * 60)];
const AGAIN_AFTER_LOGIN: [Duration; 2] = [Duration::from_secs(5 * 60), Duration::from_secs(4 * 3600)];

/// A mailbox, and how it is reached. Never printed as a whole: it fetches a password.
pub struct Mailbox {
    /// Name or address.
    pub host: String,
    /// 993 mostly.
    pub port: u16,
    /// What keeps the connection from listeners.
    pub security: Security,
    /// As whom we log in.
    pub user: String,
    /// The password of this moment; fetched at each login, for it may change.
    pub password: Arc<dyn Fn() -> Option<String> + Send + Sync>,
    /// The folder, `INBOX` mostly.
    pub folder: String,
    /// Parts of sender addresses; mails of others are not looked at.
    pub senders: Vec<String>,
    /// A folder to which notices are moved when they were learned from; none: they are marked as seen.
    pub move_to: Option<String>,
    /// How often it is looked where the server does not tell by itself.
    pub poll: Duration,
    /// The file that says how far the mailbox was looked through.
    pub state: PathBuf,
}

/// What keeps a connection from listeners.
#[derive(Clone)]
pub enum Security {
    /// Nothing: this machine only.
    None,
    /// STARTTLS, demanded.
    StartTls(TlsConnector),
    /// TLS from the first byte.
    Tls(TlsConnector),
}

/// What came of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Something was learned, now or before: it is marked or moved.
    Learned,
    /// Nothing was: it stays as it is.
    Looked,
}

/// It could not be learned from for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNow;

/// Learns from what is and comes into the mailbox, until `stop`; reconnects whatever happens.
pub async fn watch<L, F>(mailbox: Mailbox, learn: L, stop: CancellationToken)
where
    L: Fn(Bytes) -> F,
    F: Future<Output = Result<Taken, NotNow>>,
{
    let mut failed = 0;
    loop {
        let visited = tokio::select! {
            () = stop.cancelled() => return,
            visited = visit(&mailbox, &learn, &mut failed) => visited,
        };
        let Trouble { cause, hint, login } = visited;
        let [first, most] = if login { AGAIN_AFTER_LOGIN } else { AGAIN };
        let wait = first.saturating_mul(1 << failed.min(16)).min(most);
        failed += 1;
        // Told rarely: at the first time, and at each doubling of the wait.
        if wait < most || failed < 3 {
            let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
            tracing::warn!(
                host = mailbox.host, user = mailbox.user, next = ?wait,
                "no notices from the mailbox for now: {cause}{hint}"
            );
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
    }
}

/// Logs in, opens the folder and takes leave; no mail is looked at.
pub async fn look_in(mailbox: &Mailbox) -> Result<(), Trouble> {
    Visit::begin(mailbox).await?.leave().await;
    Ok(())
}

/// One connection to its end, which is always some trouble.
async fn visit<L, F>(mailbox: &Mailbox, learn: &L, failed: &mut u32) -> Trouble
where
    L: Fn(Bytes) -> F,
    F: Future<Output = Result<Taken, NotNow>>,
{
    let stayed = async {
        let mut visit = Visit::begin(mailbox).await?;
        loop {
            visit.look_through(learn).await?;
            // All is well again.
            if std::mem::take(failed) > 0 {
                tracing::info!(host = mailbox.host, user = mailbox.user, "the mailbox is there again");
            }
            visit = visit.wait().await?;
        }
    };
    let stayed: Result<std::convert::Infallible, Trouble> = stayed.await;
    match stayed {
        Ok(never) => match never {},
        Err(trouble) => trouble,
    }
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({} at {}:{})", self.user, self.host, self.port)
    }
}

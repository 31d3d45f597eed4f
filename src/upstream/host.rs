//! The SMTP host behind us, and the connections to it that are kept. Never holds more of them than allowed, never
//! gives out one that is known to be dead, never lets many say a password that the host may not take.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, stopped};
use super::login::Login;
use super::secret::Secret;
use super::transaction::transact;
use super::{Load, Pool, Sent, To};
use crate::mail::{Stage, Status};

/// How the host is reached, from `[upstream]`.
pub struct Settings {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// TLS, and when.
    pub security: Security,
    /// User and password, where the host wants them.
    pub secret: Option<Secret>,
    /// What we call ourselves at EHLO.
    pub hostname: String,
    /// Connections at once.
    pub max_connections: usize,
    /// A connection that was not used for so long is ended.
    pub idle: Duration,
    /// To look up the name, and to connect to each address.
    pub connect_timeout: Duration,
    /// For each reply, and for each piece of a message to leave (RFC 5321 4.5.3.2).
    pub timeout: Duration,
    /// For the reply to the final dot, when it was sent.
    pub data_timeout: Duration,
}

/// TLS from the first byte, after STARTTLS, or none.
pub enum Security {
    /// In the clear.
    None,
    /// STARTTLS is demanded.
    StartTls(TlsConnector),
    /// `smtps://`
    Tls(TlsConnector),
}

/// The host and its kept connections.
pub struct Host {
    settings: Settings,
    name: String,
    places: Semaphore,
    /// The relay ends now: nobody waits for anything any more.
    cut: CancellationToken,
    kept: Mutex<Vec<Kept>>,
    login: Login,
}

struct Kept {
    connection: Connection,
    since: Instant,
}

/// A connection for one transaction; it goes back to the others if it is still in step.
#[derive(Debug)]
pub struct Lane<'h> {
    host: &'h Host,
    connection: Option<Connection>,
    used_before: bool,
    _place: SemaphorePermit<'h>,
}

impl Host {
    /// Nothing is connected before there is mail.
    pub fn new(mut settings: Settings) -> Self {
        let host = match settings.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => settings.host.clone(),
        };
        let name = format!("{host}:{}", settings.port);
        let places = Semaphore::new(settings.max_connections);
        let login = Login::new(settings.secret.take());
        Self { settings, name, places, cut: CancellationToken::new(), kept: Mutex::default(), login }
    }

    /// `host:port`
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Waits for a place and takes the kept connection that was used last, or makes a new one.
    pub async fn open(&self, fresh: bool) -> Result<Lane<'_>, Status> {
        if self.cut.is_cancelled() {
            return Err(stopped(Stage::Connect));
        }
        tokio::select! {
            biased;
            // First, for it is there at once mostly.
            lane = self.lane(fresh) => lane,
            () = self.cut.cancelled() => Err(stopped(Stage::Connect)),
        }
    }

    async fn lane(&self, fresh: bool) -> Result<Lane<'_>, Status> {
        let begun = Instant::now();
        let place = tokio::time::timeout(self.settings.data_timeout, self.places.acquire()).await;
        let Ok(Ok(place)) = place else {
            return Err(Status::new(Stage::Connect, 451, "4.4.5 all connections to the mail host are busy"));
        };
        if fresh {
            // One kept connection was found dead at work: the others are as old.
            self.kept().clear();
        }
        while let Some(Kept { connection, .. }) = self.take_kept() {
            if connection.is_quiet() {
                return Ok(Lane { host: self, connection: Some(connection), used_before: true, _place: place });
            }
        }
        let connection = self.connect(begun).await?;
        Ok(Lane { host: self, connection: Some(connection), used_before: false, _place: place })
    }

    /// Whoever had `begun` to wait before another failed to get in has failed with him.
    async fn connect(&self, begun: Instant) -> Result<Connection, Status> {
        // A token of its own: all who wait on one share its lock.
        let open = |secret| Box::pin(Connection::open(&self.settings, secret, self.cut.child_token()));
        self.login.open(begun, open).await
    }

    /// The host did not take the login when it was last asked.
    pub fn refuses_login(&self) -> bool {
        self.login.refused()
    }

    /// Connections, as they are now.
    pub fn pool(&self) -> Pool {
        let idle = self.kept().len();
        let max = self.settings.max_connections;
        Pool { busy: max.saturating_sub(self.places.available_permits()), idle, max }
    }

    /// From here on logs in with this password; false where it is the same as before.
    pub fn renew(&self, password: String) -> bool {
        self.login.renew(password)
    }

    /// Ends what was not used for long.
    pub async fn tidy(&self) {
        let idle = self.settings.idle;
        let old = self.kept().extract_if(.., |kept| kept.since.elapsed() > idle).collect();
        quit(old).await;
    }

    /// Nobody waits for a place, a connection or a reply any more.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Ends all that are kept.
    pub async fn close(&self) {
        let all = std::mem::take(&mut *self.kept());
        quit(all).await;
    }

    fn take_kept(&self) -> Option<Kept> {
        self.kept().pop()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All at once: a host that says nothing is waited for once, not for each.
async fn quit(connections: Vec<Kept>) {
    let quits: JoinSet<_> = connections.into_iter().map(|kept| kept.connection.quit()).collect();
    quits.join_all().await;
}

impl Lane<'_> {
    /// The host takes what the sender wants to hear of the mail (RFC 3461).
    pub(super) fn offers_dsn(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.offer.dsn)
    }

    /// Sends one message in one transaction. Whoever stops waiting for it ends the connection, never gives it back.
    pub async fn send(mut self, to: &[To<'_>], load: &Load<'_>, still: &(dyn Fn() -> bool + Sync)) -> Sent {
        let Some(mut connection) = self.connection.take() else { return Sent::Stale };
        let (sent, usable) = transact(&mut connection, &self.host.settings, to, load, still, self.used_before).await;
        if usable && connection.in_step() {
            self.connection = Some(connection);
        }
        sent
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.host.kept().push(Kept { connection, since: Instant::now() });
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("name", &self.name).finish_non_exhaustive()
    }
}

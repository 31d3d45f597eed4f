//! The way out: the real SMTP host, or a folder. Takes nothing but permits. Never judges, never retries, never tells
//! the tool anything: every trouble is an [`Outcome`], one for each recipient, in order.

mod connection;
mod folder;
mod handshake;
mod host;
mod login;
mod offer;
mod replies;
mod road;
mod secret;
mod tls;
mod transaction;
mod wire;

pub use folder::Folder;
pub use host::{Host, Security, Settings};
pub use offer::Offer;
pub use replies::Replies;
pub use secret::Secret;
pub use tls::{TlsError, Trust, connector};

use crate::mail::{Mail, Outcome, Status, Wish};
use crate::optout::Cleared;
use host::Lane;

/// Where mail goes.
#[derive(Debug)]
pub enum Upstream {
    /// A folder of `.eml` files.
    Folder(Folder),
    /// An SMTP host.
    Host(Box<Host>),
}

/// A place to send one message now.
#[derive(Debug)]
pub enum Van<'u> {
    /// The folder is always there.
    Folder(&'u Folder),
    /// A connection to the host.
    Host(Lane<'u>),
}

/// What came of sending.
#[derive(Debug)]
pub enum Sent {
    /// One outcome for each recipient, in order.
    Done(Vec<Outcome>),
    /// The lists have changed since the permits were given, and nothing was taken. Judge again.
    Recalled,
    /// A kept connection turned out to be closed before anything was taken. Open a fresh one and send again.
    Stale,
}

/// Connections to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// At work, or being made.
    pub busy: usize,
    /// Kept for the next message.
    pub idle: usize,
    /// At work at once, at most.
    pub max: usize,
}

/// What is sent, and what the host must be able to do for it.
#[derive(Clone, Debug)]
pub struct Load<'m> {
    mail: &'m Mail,
    eight_bit: bool,
    utf8_header: bool,
}

/// One recipient of a transaction: the permit, and what goes along with RCPT.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    /// From the judge, of this moment.
    pub permit: Cleared<'a>,
    /// What the sender wants to hear of it.
    pub wish: &'a Wish,
}

impl<'m> Load<'m> {
    /// Looks at the message once, however often it is sent.
    pub fn new(mail: &'m Mail) -> Self {
        let (message, smtputf8) = (&mail.message, mail.envelope.smtputf8);
        let eight_bit = message.is_eight_bit();
        let utf8_header = smtputf8 && eight_bit && message.headers(usize::MAX).is_some_and(|section| !section.bytes().is_ascii());
        Self { mail, eight_bit, utf8_header }
    }
}

impl Upstream {
    /// For people and logs; never with a password.
    pub fn name(&self) -> &str {
        match self {
            Self::Folder(folder) => folder.name(),
            Self::Host(host) => host.name(),
        }
    }

    /// Waits for a place, `fresh` for one on a new connection. The status says why there is none.
    pub async fn open(&self, fresh: bool) -> Result<Van<'_>, Status> {
        match self {
            Self::Folder(folder) => Ok(Van::Folder(folder)),
            Self::Host(host) => host.open(fresh).await.map(Van::Host),
        }
    }

    /// Ends connections that were not used for long. Called now and then.
    pub async fn tidy(&self) {
        if let Self::Host(host) = self {
            host.tidy().await;
        }
    }

    /// Waits for nothing any more, be it a place, a connection or a reply: whoever does hears that there is none, and can
    /// say so before the end.
    pub fn cut(&self) {
        if let Self::Host(host) = self {
            host.cut();
        }
    }

    /// The host did not take the login when it was last asked.
    pub fn refuses_login(&self) -> bool {
        matches!(self, Self::Host(host) if host.refuses_login())
    }

    /// Connections, as they are now; none where mail goes into a folder.
    pub fn pool(&self) -> Pool {
        match self {
            Self::Folder(_) => Pool::default(),
            Self::Host(host) => host.pool(),
        }
    }

    /// From here on logs in with this password; false where it is the same as before.
    pub fn renew_password(&self, password: String) -> bool {
        matches!(self, Self::Host(host) if host.renew(password))
    }

    /// Ends all kept connections.
    pub async fn close(&self) {
        if let Self::Host(host) = self {
            host.close().await;
        }
    }
}

impl Van<'_> {
    /// The host was told what the sender wants to hear (RFC 3461 5.2.1): a report of success is its part, not ours.
    pub fn reports_success(&self) -> bool {
        match self {
            Self::Folder(_) => false,
            Self::Host(lane) => lane.offers_dsn(),
        }
    }

    /// Sends one message to all who are cleared, if the permits are `still` good at the moment at which the message itself
    /// would go: a host may take its time before that.
    pub async fn send(self, to: &[To<'_>], load: &Load<'_>, still: &(dyn Fn() -> bool + Sync)) -> Sent {
        match self {
            Self::Folder(_) if !still() => Sent::Recalled,
            Self::Folder(folder) => Sent::Done(folder.put(to, load).await),
            Self::Host(lane) => lane.send(to, load, still).await,
        }
    }
}

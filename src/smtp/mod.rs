//! The door for tools: accepts connections and speaks SMTP with them. Never judges, never delivers.

mod auth;
mod command;
mod connection;
mod crowd;
mod input;
mod parameters;
mod reply;
mod seldom;
mod session;
mod stream;

pub use auth::{Auth, Credentials, Exchange, Mechanism};
pub use command::{Command, Mail, says_data};
pub use crowd::Crowd;
pub use input::{Data, Input, Line, Space};
pub use reply::Reply;
pub use seldom::Seldom;
pub use session::{Access, Limits, Session, Step, Timeouts};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificate::Certificate;
use crate::config::file::LineEndings;
use crate::mail::{Envelope, Message, NotMended, clean};
use crate::memory::{Memory, NoRoom, Share};
use crate::metrics::NoSession;
use crate::relay::Relay;
use crate::users::Users;
use crowd::{Full, Seat};

/// How long to leave the system alone when it has no connection to give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Whoever waits for a place looks so often, should it have been given to somebody else.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often it is looked for silent clients.
const KEEP_ORDER: Duration = Duration::from_secs(1);

/// What every connection needs; shared by all of them.
#[derive(Debug)]
pub struct Door {
    /// The line behind the door.
    pub relay: Arc<Relay>,
    /// Our name in greetings.
    pub hostname: Arc<str>,
    /// Who may relay without a password.
    pub clients: Vec<IpNet>,
    /// Who may relay with one.
    pub users: Option<Arc<Users>>,
    /// Who we are, for TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// Other machines must encrypt.
    pub require_tls: bool,
    /// Bounds of a session.
    pub limits: Limits,
    /// How long we wait for a client.
    pub timeouts: Timeouts,
    /// What becomes of a message whose lines do not end in CR LF.
    pub line_endings: LineEndings,
    /// Sessions at once; further clients wait in the system's queue.
    pub crowd: Arc<Crowd>,
    /// Room for messages.
    pub memory: Memory,
    /// Sessions under way.
    pub tasks: TaskTracker,
    /// The relay is shutting down.
    pub stop: CancellationToken,
    /// What is told now and then only.
    pub told: Told,
}

/// What anybody can make happen.
#[derive(Debug, Default)]
pub struct Told {
    strangers: Seldom,
    handshakes: Seldom,
    cuts: Seldom,
    full: Seldom,
    memory: Seldom,
    accept: Seldom,
}

/// Which way a client comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// In the clear at first; STARTTLS may follow.
    Plain,
    /// Encrypted from the first byte (RFC 8314 3.3).
    Encrypted,
}

impl Door {
    fn access(&self, ip: IpAddr) -> Access {
        let local = ip.is_loopback();
        Access {
            trusted: self.clients.iter().any(|net| net.contains(&ip)),
            tls: self.certificate.is_some(),
            tls_first: self.require_tls && !local,
            login: self.users.is_some(),
            local,
        }
    }

    /// What came between 354 and the final dot as a message that keeps its room, or the reply where it is none.
    async fn message(&self, wire: Bytes, room: Share, limit: usize, envelope: Option<&Envelope>) -> Result<Message, Reply> {
        match (Message::from_wire(wire.clone()), self.line_endings) {
            (Some(message), _) => Ok(room.kept_by(message)),
            (None, LineEndings::Reject) => Err(Reply::BARE_LINE_ENDS),
            (None, LineEndings::Fix) => self.mend(wire, room, limit, envelope).await,
        }
    }

    /// The reply, and a line in the log.
    fn no_memory(&self, client: IpAddr) -> Reply {
        let left = self.memory.left();
        self.told.memory.tell(|times| {
            tracing::warn!(
                %client, times, left,
                "a large message was not taken: too many bytes are in memory at once\nhint: raise `listen.max_memory`, if the machine has more"
            );
        });
        Reply::NO_MEMORY
    }

    async fn mend(&self, wire: Bytes, mut room: Share, limit: usize, envelope: Option<&Envelope>) -> Result<Message, Reply> {
        let client = envelope.map_or(IpAddr::from([0; 4]), |envelope| envelope.client.ip);
        // There are two of them for a moment, and the second one may be longer.
        let both = wire.len() + limit.min(wire.len().saturating_mul(2));
        self.memory.grow(&mut room, both).await.map_err(|NoRoom| self.no_memory(client))?;
        // Bytes that were made to be slow must not keep other sessions waiting.
        let mended = tokio::task::spawn_blocking(move || Message::mended(wire, limit)).await;
        let (message, mending) = mended.map_err(|_| Reply::CANNOT_MEND)?.map_err(|not| match not {
            NotMended::TooLarge => Reply::TOO_LARGE,
            NotMended::NoRoom => self.no_memory(client),
        })?;
        // The other one is gone.
        room.shrink_to(message.len());
        if let Some(Envelope { id, client, sender, .. }) = envelope {
            let (ip, helo, sender) = (client.ip, &*client.helo, clean(sender.as_str(), 320));
            tracing::info!(%id, client = %ip, helo, sender, "mended line ends: {mending}");
        }
        Ok(room.kept_by(message))
    }
}

/// Accepts on one listener until the door is shut. Without a free place one connection waits, so a flood waits outside.
pub async fn serve(door: Arc<Door>, listener: TcpListener, entrance: Entrance) {
    let _open = door.relay.metrics.listener();
    loop {
        let admitted = tokio::select! {
            () = door.stop.cancelled() => return,
            admitted = admit(&door, &listener, entrance) => admitted,
        };
        let Some((stream, ip, seat)) = admitted else { continue };
        let shared = door.clone();
        door.tasks.spawn(async move { connection::run(&shared, stream, ip, entrance, seat).await });
    }
}

/// Keeps silent clients from taking up the room, until the door is shut.
pub async fn keep_order(door: Arc<Door>) {
    loop {
        tokio::select! {
            () = door.stop.cancelled() => return door.crowd.call_all(),
            () = tokio::time::sleep(KEEP_ORDER) => {}
        }
        let cut = door.crowd.thin_out();
        if cut > 0 {
            let (sessions, places) = (door.crowd.taken(), door.crowd.places());
            tracing::warn!(cut, sessions, places, "many clients at once: whoever is silent for 10 s is hung up on");
        }
    }
}

/// The next client, when it has a place.
async fn admit(door: &Door, listener: &TcpListener, entrance: Entrance) -> Option<(TcpStream, IpAddr, Seat)> {
    let (stream, ip) = match listener.accept().await {
        // An IPv4 client on a socket for both families has one name in the log.
        Ok((stream, peer)) => (stream, peer.ip().to_canonical()),
        Err(error) => {
            // Out of file descriptors, mostly: it passes when other sessions end, and must not spin meanwhile.
            door.told.accept.tell(|times| {
                tracing::error!(
                    times,
                    "accept a connection: {error}\nhint: raise the limit of open files, or lower `listen.max_sessions`"
                );
            });
            tokio::time::sleep(ACCEPT_AGAIN).await;
            return None;
        }
    };
    loop {
        match door.crowd.enter(ip) {
            Ok(seat) => return Some((stream, ip, seat)),
            Err(Full::Everywhere) => drop(timeout(LOOK_AGAIN, door.crowd.freed()).await),
            Err(Full::Client) => {
                door.relay.metrics.no_session(NoSession::TooMany);
                door.told.full.tell(|times| {
                    tracing::warn!(client = %ip, times, "refused: it has as many sessions as one client may have");
                });
                // Where encryption comes first there is no way to say it.
                if entrance == Entrance::Plain {
                    refuse(&stream);
                }
                return None;
            }
        }
    }
}

/// Says why, if that is possible at once.
fn refuse(stream: &TcpStream) {
    let mut wire = Vec::new();
    Reply::TOO_MANY_SESSIONS.write_to(&mut wire);
    let _ = stream.try_write(&wire);
}

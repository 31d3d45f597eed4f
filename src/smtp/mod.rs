//! The door for tools: accepts connections and speaks SMTP with them. Never judges, never delivers.

mod command;
mod connection;
mod input;
mod parameters;
mod reply;
mod session;

pub use command::{Command, Mail};
pub use input::{Data, Input, Line};
pub use reply::Reply;
pub use session::{Limits, Session, Step, Timeouts};

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::file::LineEndings;
use crate::mail::{Envelope, Message, clean};
use crate::relay::Relay;

/// How long to leave the system alone when it has no connection to give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// How often to say so while it lasts.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What every connection needs; shared by all of them.
#[derive(Debug)]
pub struct Door {
    /// The line behind the door.
    pub relay: Arc<Relay>,
    /// Our name in greetings.
    pub hostname: Arc<str>,
    /// Who may relay without a password.
    pub clients: Vec<IpNet>,
    /// Bounds of a session.
    pub limits: Limits,
    /// How long we wait for a client.
    pub timeouts: Timeouts,
    /// What becomes of a message whose lines do not end in CR LF.
    pub line_endings: LineEndings,
    /// Sessions at once; further clients wait in the system's queue.
    pub sessions: Arc<Semaphore>,
    /// Sessions under way.
    pub tasks: TaskTracker,
    /// The relay is shutting down.
    pub stop: CancellationToken,
}

impl Door {
    fn admits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.clients.iter().any(|net| net.contains(&ip))
    }

    /// What came between 354 and the final dot as a message, or the reply where it is none.
    async fn message(&self, wire: Bytes, limit: usize, envelope: Option<&Envelope>) -> Result<Message, Reply> {
        match (Message::from_wire(wire.clone()), self.line_endings) {
            (Some(message), _) => return Ok(message),
            (None, LineEndings::Reject) => return Err(Reply::BARE_LINE_ENDS),
            (None, LineEndings::Fix) => {}
        }
        // Bytes that were made to be slow must not keep other sessions waiting.
        let mended = tokio::task::spawn_blocking(move || Message::mended(wire, limit)).await;
        let (message, mending) = mended.map_err(|_| Reply::CANNOT_MEND)?.ok_or(Reply::TOO_LARGE)?;
        if let Some(Envelope { id, client, sender, .. }) = envelope {
            let (ip, helo, sender) = (client.ip, &*client.helo, clean(sender.as_str(), 320));
            tracing::info!(%id, client = %ip, helo, sender, "mended line ends: {mending}");
        }
        Ok(message)
    }
}

/// Accepts on one listener until the door is shut. Without a free place one connection waits, so a flood waits outside.
pub async fn serve(door: Arc<Door>, listener: TcpListener) {
    let mut told = None;
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => return,
            accepted = accept(&door, &listener, &mut told) => accepted,
        };
        let Some((stream, peer, place)) = accepted else { continue };
        let shared = door.clone();
        door.tasks.spawn(async move {
            connection::run(&shared, stream, peer.ip()).await;
            drop(place);
        });
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// After a failure that was not `told` lately it says so, and waits before the next try.
async fn accept(door: &Door, listener: &TcpListener, told: &mut Option<Instant>) -> Option<Accepted> {
    match listener.accept().await {
        // It waits here for a place, and the next ones outside: an idle listener keeps none.
        Ok((stream, peer)) => Some((stream, peer, door.sessions.clone().acquire_owned().await.ok()?)),
        Err(error) => {
            // Out of file descriptors, mostly: it passes when other sessions end, and must not spin meanwhile.
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                tracing::error!(
                    "accept a connection: {error}\nhint: raise the limit of open files, or lower `listen.max_sessions`"
                );
                *told = Some(Instant::now());
            }
            tokio::time::sleep(ACCEPT_AGAIN).await;
            None
        }
    }
}

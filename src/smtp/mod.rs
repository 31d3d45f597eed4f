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

use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::relay::Relay;

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
}

/// Accepts on one listener until the door is shut. Without a free place one connection waits, so a flood waits outside.
pub async fn serve(door: Arc<Door>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = door.stop.cancelled() => return,
            accepted = accept(&door, &listener) => accepted,
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

async fn accept(door: &Door, listener: &TcpListener) -> Option<Accepted> {
    match listener.accept().await {
        // It waits here for a place, and the next ones outside: an idle listener keeps none.
        Ok((stream, peer)) => Some((stream, peer, door.sessions.clone().acquire_owned().await.ok()?)),
        Err(error) => {
            // Out of file descriptors, mostly: it passes when other sessions end, and must not spin meanwhile.
            tracing::error!("accept a connection: {error}\nhint: raise the limit of open files, or lower `listen.max_sessions`");
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        }
    }
}

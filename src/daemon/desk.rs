//! The admin page, opened with the rest and served beside it. Never knows what a page shows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::sockets::{bind, is_absent_family};
use crate::admin::{Desk, Entrance, Problems, pages, serve};
use crate::config::{AdminDoor, Config};
use crate::ledger::{Actions, Rotation};
use crate::place::Fault;
use crate::smtp::Door;
use crate::users::Users;

/// It listens, and nobody is served yet.
#[derive(Debug)]
pub struct OpenDesk {
    desk: Desk,
    entrances: Vec<Entrance>,
    writer: JoinHandle<()>,
}

/// Opens its users, its log and its listeners; `None` where nobody could log in. Encrypted where other machines come in and there is a
/// certificate.
pub async fn open(config: &Arc<Config>, rotation: Rotation, door: &Arc<Door>) -> Result<Option<OpenDesk>, StartError> {
    let Some(page) = config.admin.clone().filter(|page| !page.listen.is_empty()) else { return Ok(None) };
    let (users, logs) = (page.users.clone(), config.logs());
    let failed = StartError::Users(Fault::of_file(&users, "the users could not be read: the reader failed"));
    let opened = tokio::task::spawn_blocking(move || Users::open(&users)).await.map_err(|_| failed)?;
    let users = Arc::new(opened.map_err(StartError::Users)?);
    let entrances = listen(&page, door)?;
    let (actions, writer) = Actions::open(&logs, rotation, &door.relay.metrics).map_err(|e| StartError::Folder(logs, e))?;
    let desk = Desk::new(door.relay.clone(), config.clone(), users, actions, Problems::default(), &page);
    Ok(Some(OpenDesk { desk, entrances, writer }))
}

fn listen(page: &AdminDoor, door: &Door) -> Result<Vec<Entrance>, StartError> {
    let mut entrances = Vec::new();
    for (at, &address) in page.listen.iter().enumerate() {
        let certificate = door.certificate.clone().filter(|_| !address.ip().to_canonical().is_loopback());
        match bind(address) {
            Ok(listener) => entrances.push(Entrance { listener, certificate }),
            // One family of addresses is enough, as long as there is one.
            Err(error) if is_absent_family(&error, address) && (at + 1 < page.listen.len() || !entrances.is_empty()) => {
                tracing::warn!("the admin page is not on {address}: this machine has no such addresses ({error})");
            }
            Err(error) => return Err(StartError::ListenAdmin(address, error)),
        }
    }
    Ok(entrances)
}

/// What to do about an address that cannot be listened on.
pub fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has it; change `admin.listen`",
        _ => "change `admin.listen` to addresses that this machine has",
    }
}

impl OpenDesk {
    /// Where it listens; the real ports, where 0 was asked for.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.entrances.iter().filter_map(|entrance| entrance.listener.local_addr().ok()).collect()
    }

    /// What the relay says goes by there.
    pub fn show(&mut self, problems: Problems) {
        self.desk.problems = problems;
    }

    /// Who may log in.
    pub fn users(&self) -> Arc<Users> {
        self.desk.users.clone()
    }

    /// The log of what people do there.
    pub fn actions(&self) -> Actions {
        self.desk.actions.clone()
    }

    /// Serves until `stop`; the writer of its log ends after that.
    pub fn serve(self, loops: &TaskTracker, stop: &CancellationToken) -> JoinHandle<()> {
        let desk = Arc::new(self.desk);
        loops.spawn(desk.clone().keep_index(stop.clone()));
        for entrance in self.entrances {
            loops.spawn(serve(entrance, pages(desk.clone()), stop.clone()));
        }
        self.writer
    }
}

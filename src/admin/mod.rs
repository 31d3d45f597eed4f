//! The admin page: what a shop owner sees and does in a browser. Never decides about mail, never changes a file that a command could
//! not change.

mod api;
mod changes;
mod chart;
mod door;
mod gate;
mod machines;
mod pages;
mod problems;
mod sessions;
pub(crate) mod verdict;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::HeaderMap;
use axum::middleware::from_fn_with_state;
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

pub(crate) use api::held;
pub use door::{Entrance, serve};
pub use problems::{Problem, Problems};

use crate::config::{AdminDoor, Config};
use crate::ledger::{Act, Action, Actions, Index, NotWritten};
use crate::relay::Relay;
use crate::users::Users;
use gate::Who;
use sessions::Sessions;

/// Bytes of a form.
const FORM: usize = 64 << 10;

/// The logs are looked at so often, so that a page finds little that is new.
const READ_EVERY: Duration = Duration::from_secs(10);

/// What the pages work with.
#[derive(Debug)]
pub struct Desk {
    /// The line.
    pub relay: Arc<Relay>,
    /// What it runs by.
    pub config: Arc<Config>,
    /// Who may log in here.
    pub users: Arc<Users>,
    /// What people have done here.
    pub actions: Actions,
    /// What the relay said last.
    pub problems: Problems,
    /// Nothing can be changed here.
    read_only: bool,
    /// Since when it runs.
    started: Timestamp,
    hosts: Vec<String>,
    sessions: Sessions,
    index: Arc<RwLock<Index>>,
    /// The logs were read once.
    is_read: AtomicBool,
}

impl Desk {
    /// With the pages behind `door`.
    pub fn new(
        relay: Arc<Relay>,
        config: Arc<Config>,
        users: Arc<Users>,
        actions: Actions,
        problems: Problems,
        door: &AdminDoor,
    ) -> Self {
        let (index, is_read) = (Arc::new(RwLock::new(Index::new(config.logs()))), AtomicBool::new(false));
        let (hosts, sessions) = (door.hosts.clone(), Sessions::new(door.session));
        let (read_only, started) = (door.read_only, Timestamp::now());
        Self { relay, config, users, actions, problems, read_only, started, hosts, sessions, index, is_read }
    }

    /// Keeps the index of the logs in step with them, until `stop`.
    pub async fn keep_index(self: Arc<Self>, stop: CancellationToken) {
        loop {
            if self.refresh().await {
                self.is_read.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(READ_EVERY) => {}
            }
        }
    }

    async fn refresh(&self) -> bool {
        let index = self.index.clone();
        let refreshed = spawn_blocking(move || index.write().unwrap_or_else(PoisonError::into_inner).refresh()).await;
        match refreshed {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!("the logs cannot be read for the admin page: {error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Asks the index, as it is after the last line; `None` while the logs are read for the first time.
    pub async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Index) -> T + Send + 'static) -> Option<T> {
        if !self.is_read.load(Ordering::Relaxed) || !self.refresh().await {
            return None;
        }
        let index = self.index.clone();
        spawn_blocking(move || question(&index.read().unwrap_or_else(PoisonError::into_inner))).await.ok()
    }

    /// Writes down what somebody is about to do; what cannot be written down is not done.
    pub async fn note(&self, who: &Who, event: Act, about: About<'_>) -> Result<(), NotWritten> {
        let text = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        let About { address, id, reason } = about;
        let (name, client) = (who.name.to_string(), who.ip.to_string());
        tracing::info!(who = name, client, address, id, reason, "admin page: {}", words(event));
        let time = Timestamp::now().to_string();
        let action = Action { time, event, who: name, client, address: text(address), id: text(id), reason: text(reason) };
        self.actions.record(&action).await
    }

    /// By a name of our own: no other site's name leads here, whatever its DNS says. An address needs no DNS.
    fn is_called(&self, headers: &HeaderMap) -> bool {
        name_in(headers).is_some_and(|name| is_bare(&name) || self.hosts.contains(&name))
    }
}

/// The one name by which we are called, in lower case, without a port.
fn name_in(headers: &HeaderMap) -> Option<String> {
    let mut hosts = headers.get_all("host").iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else { return None };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    Some(name.to_ascii_lowercase())
}

/// An address or `localhost`: no name of ours, by which others could call us through a proxy.
fn is_bare(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name == "localhost"
}

/// With what somebody does something; what does not matter is empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// With whose opt-out, or for whom.
    pub address: &'a str,
    /// With which message or entry.
    pub id: &'a str,
    /// Why.
    pub reason: &'a str,
}

fn words(event: Act) -> &'static str {
    match event {
        Act::LoggedIn => "logged in",
        Act::OptOutAdded => "adds an opt-out",
        Act::OptOutRemoved => "removes an opt-out",
        Act::HeldRetried => "has held mail tried now",
        Act::HeldDropped => "drops a held mail",
        Act::LearnedAccepted => "accepts an entry from the quarantine",
        Act::LearnedRejected => "rejects an entry from the quarantine",
        Act::TestSent => "sends a test mail",
        Act::Failed => "that failed",
    }
}

/// All pages, behind the gate.
pub fn pages(desk: Arc<Desk>) -> Router {
    let all = pages::all().merge(machines::all()).merge(api::all());
    all.layer(from_fn_with_state(desk.clone(), gate::gate)).layer(DefaultBodyLimit::max(FORM)).with_state(desk)
}

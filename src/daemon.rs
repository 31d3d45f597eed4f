//! The composition root: opens everything, runs it, drains it. Never knows how any of it works, never prints.

mod descriptors;

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::file::{Answer, Tls};
use crate::config::{Config, HostRoute, Route};
use crate::delivery;
use crate::ledger::{Ledger, Rotation};
use crate::optout::{self, Lists};
use crate::place::Fault;
use crate::relay::{Relay, Seats};
use crate::smtp::{self, Door};
use crate::spool::{self, Backlog, Spool};
use crate::upstream::{Folder, Host, Secret, Security, Settings, Upstream, connector};

/// How often kept connections are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// For logging what was cut short at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Connections that may wait in the system's queue for a place.
const BACKLOG: i32 = 1024;

/// Everything opened, nobody served yet.
#[derive(Debug)]
pub struct Daemon {
    door: Arc<Door>,
    backlog: Backlog,
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    shutdown_grace: Duration,
    writer: JoinHandle<()>,
    control: Control,
}

/// Asks a running daemon for something, from anywhere.
#[derive(Clone, Debug)]
pub struct Control {
    stop: CancellationToken,
    /// The shutdown may take no longer.
    cut: CancellationToken,
    reload_lists: Arc<Notify>,
    reopen_log: Arc<Notify>,
}

/// Why the relay does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration, or what it names.
    #[error("{0}")]
    Config(Fault),
    /// An opt-out list: without it nobody can be judged.
    #[error("{0}")]
    List(Fault),
    /// Held mail.
    #[error("{0}")]
    Spool(spool::OpenError),
    /// A folder of ours.
    #[error("open `{0}`: {1}\nhint: let the relay's user write there, or name another folder")]
    Folder(PathBuf, io::Error),
    /// An address to listen on.
    #[error("listen on {0}: {1}\nhint: {hint}", hint = listen_hint(.1))]
    Listen(SocketAddr, io::Error),
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program, perhaps another relay, has it; end that one or change `listen.smtp`",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; change `listen.smtp`",
        _ => "change `listen.smtp` to addresses that this machine has",
    }
}

impl Daemon {
    /// Opens lists, spool, suppression log, upstream and listeners, in this order: no mail is taken before it can be judged
    /// and held.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let lists = open_lists(&config).await?;
        let file = &config.file;
        let (spool, backlog) = open_spool(&config).await?;
        let upstream = match &config.route {
            Route::Folder(path) => Upstream::Folder(Folder::open(path).map_err(|e| StartError::Folder(path.clone(), e))?),
            Route::Host(route) => Upstream::Host(Box::new(Host::new(settings(&config, route).map_err(StartError::Config)?))),
        };
        let rotation = Rotation { size: file.log.rotate_size.0, age: file.log.rotate_age, keep: file.log.keep };
        let logs = file.state_dir.join("log");
        let (ledger, writer) = Ledger::open(&logs, rotation).map_err(|e| StartError::Folder(logs, e))?;
        let (listeners, addresses) = listen(&file.listen.smtp)?;
        let hostname: Arc<str> = config.hostname.as_str().into();
        let relay = Relay {
            hostname: hostname.clone(),
            lists: Arc::new(lists),
            policy: config.policy.clone(),
            judge_headers: config.judge_headers(),
            ledger,
            upstream,
            spool,
            patience: (file.delivery.answer == Answer::Delivered).then_some(file.delivery.patience),
            late: Arc::new(Semaphore::new(file.upstream.max_connections.min(Semaphore::MAX_PERMITS))),
            seats: Seats::new(),
            attempts: TaskTracker::new(),
            stop: CancellationToken::new(),
            ids_given: AtomicU64::new(0),
            chance: RandomState::new(),
        };
        let relay = Arc::new(relay);
        let door = Door {
            relay: relay.clone(),
            hostname,
            clients: file.listen.clients.clone(),
            limits: config.limits(),
            timeouts: config.timeouts(),
            line_endings: file.listen.line_endings,
            sessions: Arc::new(Semaphore::new(descriptors::sessions(file.listen.max_sessions, file.upstream.max_connections))),
            tasks: TaskTracker::new(),
            stop: relay.stop.clone(),
        };
        let cut = CancellationToken::new();
        let control = Control { stop: door.stop.clone(), cut, reload_lists: Arc::default(), reopen_log: Arc::default() };
        let (door, shutdown_grace) = (Arc::new(door), file.shutdown_grace);
        Ok(Self { door, backlog, listeners, addresses, shutdown_grace, writer, control })
    }

    /// Where it listens; the real ports, where 0 was asked for.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The line behind the door.
    pub fn relay(&self) -> &Arc<Relay> {
        &self.door.relay
    }

    /// The handle by which it is asked to stop or to reload.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves until [`Control::stop`], then finishes what is under way; false where the grace was too short for it.
    pub async fn run(self) -> bool {
        let Self { door, backlog, listeners, shutdown_grace, writer, control, .. } = self;
        let loops = TaskTracker::new();
        for listener in listeners {
            loops.spawn(smtp::serve(door.clone(), listener));
        }
        loops.spawn(delivery::run(door.relay.clone(), backlog));
        loops.spawn(delivery::hear(door.relay.clone()));
        loops.spawn(optout::watch(door.relay.lists.clone(), control.reload_lists, door.stop.clone()));
        loops.spawn(reopen(door.relay.ledger.clone(), control.reopen_log, door.stop.clone()));
        loops.spawn(tidy(door.relay.clone(), door.stop.clone()));
        door.stop.cancelled().await;
        let deadline = Instant::now() + shutdown_grace;
        loops.close();
        door.tasks.close();
        door.relay.attempts.close();
        let drained = async {
            loops.wait().await;
            door.tasks.wait().await;
            door.relay.attempts.wait().await;
            door.relay.upstream.close().await;
        };
        let in_time = tokio::select! {
            drained = timeout_at(deadline, drained) => drained.is_ok(),
            () = control.cut.cancelled() => false,
        };
        if !in_time {
            // What is under way is held, and what was sent and not answered is logged, before the end.
            door.relay.upstream.cut();
            let ended = async { tokio::join!(door.tasks.wait(), door.relay.attempts.wait()) };
            let _ = timeout_at(Instant::now() + LAST_WORDS, ended).await;
        }
        // The last Ledger goes with the last session; the writer then writes what it has and ends.
        drop(door);
        timeout_at(Instant::now() + LAST_WORDS, writer).await.is_ok() && in_time
    }
}

impl Control {
    /// Begins the shutdown; [`Daemon::run`] returns when it is done.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Ends a shutdown that is under way without waiting for the rest.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Reads the lists again and opens the suppression log by name again (SIGHUP).
    pub fn reload(&self) {
        self.reload_lists.notify_one();
        self.reopen_log.notify_one();
    }
}

async fn open_lists(config: &Config) -> Result<Lists, StartError> {
    let (paths, tags, max_shrink) = (config.lists.clone(), config.file.opt_out.plus_tags, config.file.opt_out.max_shrink);
    match tokio::task::spawn_blocking(move || Lists::open(paths, tags, max_shrink)).await {
        Ok(opened) => opened.map_err(StartError::List),
        Err(_) => Err(StartError::List(Fault::of_file(&config.path, "the opt-out lists could not be read: the reader failed"))),
    }
}

async fn open_spool(config: &Config) -> Result<(Arc<Spool>, Backlog), StartError> {
    let (path, rhythm, min_free) = (config.spool(), config.rhythm(), config.file.delivery.min_free.0);
    let opened = tokio::task::spawn_blocking(move || Spool::open(&path, rhythm, min_free)).await;
    let failed = || spool::OpenError::Folder(config.spool(), io::Error::other("the reader failed"));
    opened.unwrap_or_else(|_| Err(failed())).map_err(StartError::Spool)
}

/// How the host of a route is reached; the password is fetched here, and nowhere else.
fn settings(config: &Config, route: &HostRoute) -> Result<Settings, Fault> {
    let HostRoute { implicit_tls, user, host, port } = route;
    let upstream = &config.file.upstream;
    let tls = || connector(upstream.ca.as_deref()).map_err(|e| Fault::of_file(&config.path, e));
    let security = match (implicit_tls, upstream.tls) {
        (true, _) => Security::Tls(tls()?),
        (false, Tls::Never) => Security::None,
        (false, Tls::Auto) if route.is_loopback() => Security::None,
        (false, Tls::Auto) => Security::StartTls(tls()?),
    };
    let password = config.password()?;
    Ok(Settings {
        host: host.clone(),
        port: *port,
        security,
        secret: user.clone().zip(password).map(|(user, password)| Secret { user, password }),
        hostname: config.hostname.clone(),
        max_connections: upstream.max_connections,
        idle: upstream.idle_timeout,
        connect_timeout: upstream.connect_timeout,
        timeout: upstream.timeout,
        data_timeout: upstream.data_timeout,
    })
}

fn listen(wanted: &[SocketAddr]) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), StartError> {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for (at, &address) in wanted.iter().enumerate() {
        match bind(address) {
            Ok(listener) => {
                addresses.push(listener.local_addr().unwrap_or(address));
                listeners.push(listener);
            }
            // One family of addresses is enough, as long as there is one.
            Err(error) if is_absent_family(&error, address) && (at + 1 < wanted.len() || !listeners.is_empty()) => {
                tracing::warn!("not listening on {address}: this machine has no such addresses ({error})");
            }
            Err(error) => return Err(StartError::Listen(address, error)),
        }
    }
    Ok((listeners, addresses))
}

/// EAFNOSUPPORT (which has no `ErrorKind`), or `::1` on a machine where IPv6 is switched off.
fn is_absent_family(error: &io::Error, address: SocketAddr) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || (error.kind() == io::ErrorKind::AddrNotAvailable && address.ip().is_loopback())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can stand side by side.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn reopen(ledger: Ledger, asked: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = asked.notified() => ledger.reopen().await,
        }
    }
}

async fn tidy(relay: Arc<Relay>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => relay.upstream.tidy().await,
        }
    }
}

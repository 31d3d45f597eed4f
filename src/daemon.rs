//! The composition root: opens everything, runs it, drains it. Never knows how any of it works, never prints.

mod descriptors;
mod desk;
mod follow;
mod mailbox;
mod password;
mod question;
mod sockets;
mod systemd;

pub(crate) use mailbox::open as mailbox;
pub use sockets::{Handed, Misfit};
pub(crate) use sockets::{bind, is_absent_family};

use desk::OpenDesk;
use follow::follow;
use question::{Asker, question};

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::Problems;
use crate::certificate::Certificate;
use crate::config::file::Answer;
use crate::config::{Config, Encryption, HostRoute, Learning, Route};
use crate::delivery;
use crate::learn::imap::Mailbox;
use crate::learn::{self, Book, BookError, Learner, Phrases, Quarantine, Scribe};
use crate::ledger::{self, Actions, Ledger, Rotation};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::optout::{Lists, Part};
use crate::orders::{self, Caps, Orders};
use crate::place::Fault;
use crate::relay::{Relay, Seats};
use crate::smtp::{self, Crowd, Door, Entrance, Told};
use crate::spool::{self, Backlog, Spool};
use crate::upstream::{Folder, Host, Secret, Security, Settings, Trust, Upstream, connector};
use crate::users::Users;

/// How often kept connections are looked at.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// For logging what was cut short at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Files that are still written to after so long are read when that is over, and nobody waits for it.
const REREAD_WITHIN: Duration = Duration::from_secs(60);

/// Everything opened, nobody served yet.
#[derive(Debug)]
pub struct Daemon {
    config: Arc<Config>,
    door: Arc<Door>,
    backlog: Backlog,
    listeners: Vec<(TcpListener, Entrance)>,
    mailbox: Option<Mailbox>,
    desk: Option<OpenDesk>,
    addresses: Vec<SocketAddr>,
    shutdown_grace: Duration,
    /// They end when nobody has anything to write any more.
    writers: Vec<JoinHandle<()>>,
    control: Control,
}

/// Asks a running daemon for something, from anywhere.
#[derive(Clone, Debug)]
pub struct Control {
    stop: CancellationToken,
    /// The shutdown may take no longer.
    cut: CancellationToken,
    reload: Arc<Notify>,
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
    /// Who may log in.
    #[error("{0}")]
    Users(Fault),
    /// Held mail.
    #[error("{0}")]
    Spool(spool::OpenError),
    /// Whose orders are whose.
    #[error("{0}")]
    Orders(orders::OpenError),
    /// A folder of ours.
    #[error("open `{0}`: {1}\nhint: let the relay's user write there, or name another folder")]
    Folder(PathBuf, io::Error),
    /// An address to listen on.
    #[error("listen on {0}: {1}\nhint: {hint}", hint = listen_hint(.1))]
    Listen(SocketAddr, io::Error),
    /// An address of the admin page.
    #[error("listen on {0} for the admin page: {1}\nhint: {hint}", hint = desk::listen_hint(.1))]
    ListenAdmin(SocketAddr, io::Error),
    /// A socket from systemd.
    #[error("{0}")]
    Misfit(#[from] Misfit),
    /// The same, when it was put to use.
    #[error("use a socket that systemd has handed over: {0}")]
    Adopt(io::Error),
}

/// What to do about an address that cannot be listened on.
pub(crate) fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program, perhaps another relay, has it; end that one or change `listen.smtp`",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privileges; change `listen.smtp`",
        _ => "change `listen.smtp` to addresses that this machine has",
    }
}

impl Daemon {
    /// Opens lists, users, spool, suppression log, upstream and listeners, in this order: no mail is taken before it can be judged
    /// and held.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_on(Handed::default(), config).await
    }

    /// The same on listeners that are open already, in place of those that the configuration names.
    pub async fn start_on(handed: Handed, config: Config) -> Result<Self, StartError> {
        let lists = open_lists(&config).await?;
        let (book, lists) = open_book(&config, lists).await?;
        let users = open_users(&config).await?;
        let file = &config.file;
        let (spool, backlog) = open_spool(&config).await?;
        let upstream = match &config.route {
            Route::Folder(path) => Upstream::Folder(Folder::open(path).map_err(|e| StartError::Folder(path.clone(), e))?),
            Route::Host(route) => Upstream::Host(Box::new(Host::new(settings(&config, route).map_err(StartError::Config)?))),
        };
        let rotation = Rotation { size: file.log.rotate_size.0, age: file.log.rotate_age, keep: file.log.keep };
        let logs = config.logs();
        let metrics = Arc::<Metrics>::default();
        let opened = Ledger::open(&logs, rotation, file.log.sent, metrics.clone());
        let (ledger, mut writers) = opened.map_err(|e| StartError::Folder(logs, e))?;
        // A crash may have come between an entry and its line.
        let logs = config.logs();
        let told = tokio::task::spawn_blocking(move || ledger::ends_of(&logs, "learned")).await.unwrap_or_default();
        let untold = learn::untold(&book, &told);
        if ledger.learned(&untold).await.is_err() {
            tracing::error!("{} lines are missing in learned.jsonl", untold.len());
        }
        let (orders, indexer) = open_orders(&config).await?.unzip();
        let scribe = Scribe {
            book,
            quarantine: Quarantine::new(config.quarantine()),
            lists: Some(lists.clone()),
            spool: Some(spool.clone()),
            max_per_day: file.learn.max_per_day,
            tags: file.opt_out.plus_tags,
        };
        let (phrases, Learning { letterbox, wishes, .. }) = (open_phrases(&config).await?, config.learning.clone());
        let (learner, learning) = Learner::new(phrases, letterbox, wishes, orders, ledger.clone(), scribe);
        let certificate = open_certificate(&config).await?;
        let listeners = sockets::listen(handed, &file.listen)?;
        let addresses = sockets::addresses(&listeners);
        let hostname: Arc<str> = config.hostname.as_str().into();
        let memory = Memory::new(file.listen.max_memory.0, file.listen.max_message_size.0);
        let relay = Relay {
            hostname: hostname.clone(),
            lists,
            policy: config.policy.clone(),
            learner,
            judge_headers: config.judge_headers(),
            ledger,
            metrics,
            upstream,
            spool,
            memory: memory.clone(),
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
            users,
            certificate,
            require_tls: file.listen.require_tls,
            limits: config.limits(),
            timeouts: config.timeouts(),
            line_endings: file.listen.line_endings,
            crowd: Crowd::new(
                descriptors::sessions(file.listen.max_sessions, file.upstream.max_connections),
                file.listen.max_sessions_per_client,
            ),
            memory,
            tasks: TaskTracker::new(),
            stop: relay.stop.clone(),
            told: Told::default(),
        };
        let cut = CancellationToken::new();
        let control = Control { stop: door.stop.clone(), cut, reload: Arc::default(), reopen_log: Arc::default() };
        let (door, shutdown_grace) = (Arc::new(door), file.shutdown_grace);
        let config = Arc::new(config);
        let mailbox = mailbox::open(&config).map_err(StartError::Config)?;
        let desk = desk::open(&config, rotation, &door).await?;
        writers.extend([Some(learning), indexer].into_iter().flatten());
        Ok(Self { config, door, backlog, listeners, mailbox, desk, addresses, shutdown_grace, writers, control })
    }

    /// Where the admin page listens; nowhere where there is none.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.desk.as_ref().map(OpenDesk::addresses).unwrap_or_default()
    }

    /// What it says goes by there, and the admin page shows the last of it.
    pub fn with_problems(mut self, problems: Problems) -> Self {
        if let Some(desk) = &mut self.desk {
            desk.show(problems);
        }
        self
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
        let Self { config, door, backlog, listeners, mailbox, desk, shutdown_grace, mut writers, control, .. } = self;
        let (loops, mut reread) = (TaskTracker::new(), Vec::new());
        let mut asked = || {
            let (asker, asked) = question();
            reread.push(asker);
            asked
        };
        for (listener, entrance) in listeners {
            loops.spawn(smtp::serve(door.clone(), listener, entrance));
        }
        loops.spawn(smtp::keep_order(door.clone()));
        if let Some(certificate) = &door.certificate {
            let renew = renewing(certificate.clone(), Certificate::renew);
            loops.spawn(follow(certificate.followed(), asked(), door.stop.clone(), renew));
        }
        let (pulse, felt) = question();
        loops.spawn(delivery::run(door.relay.clone(), backlog, felt));
        loops.spawn(delivery::hear(door.relay.clone()));
        let lists = &door.relay.lists;
        for part in [Part::Written, Part::Learned] {
            let renew = renewing(lists.clone(), move |lists| lists.renew(part));
            loops.spawn(follow(lists.followed(part), asked(), door.stop.clone(), renew));
        }
        let known = door.relay.learner.clone().bind_known(lists.clone(), door.stop.clone());
        loops.spawn(known);
        if let Some(mailbox) = mailbox {
            loops.spawn(mailbox::watch(mailbox, door.relay.learner.clone(), door.stop.clone()));
        }
        if let Some(folder) = config.folder.clone() {
            loops.spawn(learn::folder::watch(door.relay.learner.clone(), folder, door.stop.clone()));
        }
        if let Some(users) = &door.users {
            loops.spawn(follow(users.followed(), asked(), door.stop.clone(), renewing(users.clone(), Users::renew)));
        }
        let actions = desk.as_ref().map(OpenDesk::actions);
        loops.spawn(reopen(door.relay.ledger.clone(), actions, control.reopen_log, door.stop.clone()));
        loops.spawn(password::watch(door.relay.clone(), config));
        if let Some(desk) = desk {
            let users = desk.users();
            loops.spawn(follow(users.followed(), asked(), door.stop.clone(), renewing(users, Users::renew)));
            writers.push(desk.serve(&loops, &door.stop));
        }
        loops.spawn(tidy(door.relay.clone(), door.stop.clone()));
        systemd::ready(&door).await;
        loops.spawn(reload(door.clone(), reread, control.reload));
        loops.spawn(systemd::watch(door.clone(), pulse));
        door.stop.cancelled().await;
        let deadline = Instant::now() + shutdown_grace;
        systemd::stopping(shutdown_grace.saturating_add(2 * LAST_WORDS)).await;
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
        // The last Ledger goes with the last session; its writer, as the others, then writes what it has and ends.
        drop(door);
        let written = async {
            for writer in writers {
                let _ = writer.await;
            }
        };
        timeout_at(Instant::now() + LAST_WORDS, written).await.is_ok() && in_time
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

    /// Reads the lists, the users and the certificate again and opens the suppression log by name again (SIGHUP).
    pub fn reload(&self) {
        self.reload.notify_one();
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

/// What was learned, and the lists with it. It is begun where it is not there, so the others are read before.
async fn open_book(config: &Config, lists: Lists) -> Result<(Book, Arc<Lists>), StartError> {
    let (path, tags) = (config.learned(), config.file.opt_out.plus_tags);
    let failed = Fault::of_file(&path, "could not be read: the reader failed");
    let open = move || {
        let book = Book::open(&path, tags).map_err(|error| match error {
            BookError::Disk(error) => StartError::Folder(path.clone(), error),
            BookError::List(fault) => StartError::List(fault),
        })?;
        let lists = lists.with_learned(path).map_err(StartError::List)?;
        Ok((book, Arc::new(lists)))
    };
    tokio::task::spawn_blocking(open).await.unwrap_or(Err(StartError::List(failed)))
}

async fn open_phrases(config: &Config) -> Result<Arc<Phrases>, StartError> {
    let Some(path) = config.notices.clone() else { return Ok(Arc::new(Phrases::compiled())) };
    let text = tokio::fs::read_to_string(&path).await.map_err(|e| StartError::Config(Fault::unreadable(&path, &e)))?;
    Phrases::parse(&path, &text).map(Arc::new).map_err(StartError::Config)
}

async fn open_orders(config: &Config) -> Result<Option<(Orders, JoinHandle<()>)>, StartError> {
    let caps = Caps { entries: config.file.learn.max_orders, age: config.file.learn.max_order_age };
    if caps.entries == 0 {
        return Ok(None);
    }
    let path = config.orders();
    let failed = Fault::of_file(&path, "could not be opened: the reader failed");
    match tokio::task::spawn_blocking(move || Orders::open(&path, caps)).await {
        Ok(opened) => opened.map(Some).map_err(StartError::Orders),
        Err(_) => Err(StartError::Config(failed)),
    }
}

async fn open_users(config: &Config) -> Result<Option<Arc<Users>>, StartError> {
    let Some(path) = config.users.clone() else { return Ok(None) };
    match tokio::task::spawn_blocking(move || Users::open(&path)).await {
        Ok(opened) => opened.map(|users| Some(Arc::new(users))).map_err(StartError::Users),
        Err(_) => Err(StartError::Users(Fault::of_file(&config.path, "the users could not be read: the reader failed"))),
    }
}

async fn open_spool(config: &Config) -> Result<(Arc<Spool>, Backlog), StartError> {
    let (path, rhythm, min_free) = (config.spool(), config.rhythm(), config.file.delivery.min_free.0);
    let opened = tokio::task::spawn_blocking(move || Spool::open(&path, rhythm, min_free)).await;
    let failed = || spool::OpenError::Folder(config.spool(), io::Error::other("the reader failed"));
    opened.unwrap_or_else(|_| Err(failed())).map_err(StartError::Spool)
}

async fn open_certificate(config: &Config) -> Result<Option<Arc<Certificate>>, StartError> {
    let Some((chain, key)) = config.certificate.clone() else { return Ok(None) };
    let failed = Fault::of_file(&chain, "the certificate could not be read: the reader failed");
    let open = move || Certificate::open(&chain, &key).inspect(Certificate::warn);
    let opened = tokio::task::spawn_blocking(open).await;
    opened.unwrap_or(Err(failed)).map(|certificate| Some(Arc::new(certificate))).map_err(StartError::Config)
}

/// How the host of a route is reached. The password is fetched here, and again where the host refuses it.
pub(crate) fn settings(config: &Config, route: &HostRoute) -> Result<Settings, Fault> {
    let HostRoute { user, host, port, .. } = route;
    let upstream = &config.file.upstream;
    let trust = match &upstream.ca {
        _ if !upstream.tls_verify => Trust::Anybody,
        Some(path) => Trust::Ca(path),
        None => Trust::System,
    };
    let tls = || connector(trust).map_err(|e| Fault::of_file(&config.path, e));
    let security = match route.encryption(upstream.tls) {
        Encryption::None => Security::None,
        Encryption::StartTls => Security::StartTls(tls()?),
        Encryption::Tls => Security::Tls(tls()?),
    };
    let password = config.password()?;
    Ok(Settings {
        host: host.clone(),
        port: *port,
        security,
        secret: user.clone().zip(password).map(|(user, password)| Secret::new(user, password)),
        hostname: config.hostname.clone(),
        max_connections: upstream.max_connections,
        idle: upstream.idle_timeout,
        connect_timeout: upstream.connect_timeout,
        timeout: upstream.timeout,
        data_timeout: upstream.data_timeout,
    })
}

async fn reopen(ledger: Ledger, actions: Option<Actions>, asked: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = asked.notified() => {
                ledger.reopen().await;
                if let Some(actions) = &actions {
                    actions.reopen().await;
                }
            }
        }
    }
}

/// Has all loops that follow files read them again, and tells systemd when it is done.
async fn reload(door: Arc<Door>, loops: Vec<Asker>, asked: Arc<Notify>) {
    let reread = async || {
        // All at once: one that still waits for a file keeps nobody else waiting.
        let answers: JoinSet<bool> = loops.iter().cloned().map(|follower| async move { follower.ask().await }).collect();
        let _ = timeout(REREAD_WITHIN, answers.join_all()).await;
    };
    loop {
        tokio::select! {
            () = door.stop.cancelled() => return,
            () = asked.notified() => systemd::reloading().await,
        }
        tokio::select! {
            () = door.stop.cancelled() => return,
            () = reread() => systemd::ready(&door).await,
        }
    }
}

/// Does it to the same thing each time.
fn renewing<T, R: Future<Output = ()>>(what: Arc<T>, renew: impl Fn(Arc<T>) -> R) -> impl Fn() -> R {
    move || renew(what.clone())
}

async fn tidy(relay: Arc<Relay>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TIDY_EVERY) => relay.upstream.tidy().await,
        }
    }
}

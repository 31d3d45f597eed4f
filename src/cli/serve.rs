//! `serve`: runs the relay until SIGTERM or SIGINT; SIGHUP reloads. Never returns while mail is under way.

use std::net::SocketAddr;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::syslog::{self, Syslog};
use super::{Done, Exit, Failure, TRUSTS_ANYBODY, paint, talk};
use crate::admin::Problems;
use crate::config::Config;
use crate::config::file::{Format, Level, Log};
use crate::daemon::{Control, Daemon, Handed, StartError};
use crate::optout::Mode;
use crate::spool::OpenError;

pub fn run(config: Config) -> Done {
    // First of all: there may be no second thread yet.
    let handed = Handed::take().map_err(|e| Failure::of_start(&e.into()))?;
    let config = config.listening_on(handed.addresses()).map_err(|fault| Failure::of_config(&fault))?;
    super::circle::refuse(&config)?;
    // What waits to be written is written when this goes.
    let problems = Problems::default();
    let _log = start_log(&config.file.log, &config.hostname, &problems);
    keep_memory_private();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Unavailable, format_args!("start the runtime: {e}")))?;
    let exit = runtime.block_on(serve(handed, config, problems));
    // A session that outlived the grace is cut here; its tool has no answer and keeps the message.
    runtime.shutdown_background();
    exit
}

async fn serve(handed: Handed, config: Config, problems: Problems) -> Done {
    let from = config.path.display().to_string();
    let (mode, format, trusts_anybody) = (config.policy.mode, config.file.log.format, config.trusts_anybody());
    // Taken before anything is announced, so that no signal finds the door without a doorkeeper.
    let signals = Signals::new().map_err(|e| Failure::new(Exit::Unavailable, format_args!("wait for signals: {e}")))?;
    let daemon = Daemon::start_on(handed, config).await.map_err(|e| Failure::of_start(&e))?.with_problems(problems);
    announce(&daemon, &from, mode, format, trusts_anybody);
    let control = daemon.control();
    let signals = tokio::spawn(signals.obey(control));
    let in_time = daemon.run().await;
    signals.abort();
    if in_time {
        tracing::info!("stopped");
    } else {
        tracing::warn!(
            "stopped before all was finished: held mail goes on at the next start, and a tool that has no answer keeps its mail"
        );
    }
    Ok(Exit::Ok)
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The first wish to end finishes what is under way; the second does not wait for it.
    async fn obey(mut self, control: Control) {
        let mut ending = false;
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    control.reload();
                    continue;
                }
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            if std::mem::replace(&mut ending, true) {
                return control.cut();
            }
            tracing::info!("stopping: what is under way is finished first");
            control.stop();
        }
    }
}

/// What a person wants to know who has just started it; programs read the log.
fn announce(daemon: &Daemon, from: &str, mode: Mode, format: Format, trusts_anybody: bool) {
    let relay = daemon.relay();
    let list = relay.lists.current();
    let (upstream, entries, fingerprint) = (relay.upstream.name(), list.len(), list.fingerprint());
    let places = daemon.addresses().iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" and ");
    tracing::info!(listen = places, upstream, opt_outs = entries, list = fingerprint, "started");
    if trusts_anybody {
        tracing::warn!("{TRUSTS_ANYBODY}");
    }
    if mode == Mode::Observe {
        tracing::warn!("opt_out.mode is observe: recipients who opted out ARE mailed, and only logged");
    }
    let Some(first) = daemon.addresses().first().filter(|_| format == Format::Text) else { return };
    let files: Vec<_> = list.files().iter().map(|file| file.path.display().to_string()).collect();
    talk(&format!("optout-relay {} reads {from}", env!("CARGO_PKG_VERSION")));
    talk(&format!("  listens on    {places}"));
    talk(&format!("  mail goes to  {upstream}"));
    talk(&format!("  opt-outs      {entries} in force, from {}", files.join(", ")));
    for address in daemon.admin_addresses() {
        talk(&format!("  admin page    http://{address}/"));
    }
    talk(&format!("  try it        {}", try_it(*first)));
}

/// The one line that sends a mail through the relay.
fn try_it(address: SocketAddr) -> String {
    format!(
        "printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -sS smtp://{address} --mail-from shop@example.com --mail-rcpt buyer@example.org -T -"
    )
}

/// Neither a core nor another process of the same user shows the password, or mail. A limit of 0 alone does not keep a
/// core from a program that collects them, and a process that is not dumpable is closed to debuggers as well.
fn keep_memory_private() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let private = set_dumpable_behavior(DumpableBehavior::NotDumpable).and(setrlimit(Resource::Core, none));
    if let Err(error) = private {
        tracing::warn!("after a crash the memory of the relay, password and all, may be written to disk: {error}");
    }
}

impl Failure {
    fn of_start(error: &StartError) -> Self {
        match error {
            StartError::Config(fault) => Self::of_config(fault),
            StartError::Misfit(_) => Self::new(Exit::Config, error),
            StartError::List(fault) | StartError::Users(fault) => Self::of_list(fault),
            StartError::Spool(OpenError::InUse(_)) => Self::new(Exit::Later, error),
            StartError::Spool(_) | StartError::Orders(_) | StartError::Folder(..) => Self::new(Exit::Io, error),
            StartError::Listen(..) | StartError::ListenAdmin(..) | StartError::Adopt(_) => Self::new(Exit::Unavailable, error),
        }
    }
}

/// Lines go through a thread of their own: a reader that does not read must not hold mail up. What does not fit into
/// its queue is lost, which the suppression log never is.
fn start_log(log: &Log, hostname: &str, problems: &Problems) -> WorkerGuard {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(writer);
    let heard = tracing_subscriber::registry().with(problems.layer().with_filter(LevelFilter::WARN));
    match log.format {
        Format::Text => heard.with(lines.with_ansi(paint::colours_talk()).with_filter(level)).init(),
        Format::Json => heard.with(lines.json().flatten_event(true).with_filter(level)).init(),
        Format::Postfix => heard.with(lines.event_format(Syslog::new(hostname)).with_filter(syslog::told(level))).init(),
    }
    guard
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn memory_is_private_both_ways() {
        keep_memory_private();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core), Rlimit { current: Some(0), maximum: Some(0) });
    }
}

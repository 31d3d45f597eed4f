//! `serve`: runs the relay until SIGTERM or SIGINT; SIGHUP reloads. Never returns while mail is under way.

use std::io::IsTerminal;
use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

use super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::config::file::{Format, Level, Log};
use crate::daemon::{Control, Daemon, StartError};
use crate::optout::Mode;

pub fn run(config: Config) -> Done {
    start_log(&config.file.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Unavailable, format_args!("start the runtime: {e}")))?;
    let exit = runtime.block_on(serve(config));
    // A session that outlived the grace is cut here; its tool has no answer and keeps the message.
    runtime.shutdown_background();
    exit
}

async fn serve(config: Config) -> Done {
    let from = config.path.display().to_string();
    let (mode, format) = (config.policy.mode, config.file.log.format);
    // Taken before anything is announced, so that no signal finds the door without a doorkeeper.
    let signals = Signals::new().map_err(|e| Failure::new(Exit::Unavailable, format_args!("wait for signals: {e}")))?;
    let daemon = Daemon::start(config).await.map_err(|e| Failure::of_start(&e))?;
    log_start(&daemon, mode);
    // Whoever reads JSON reads nothing else; all of it stands in the log too.
    if format == Format::Text {
        announce(&daemon, &from, mode);
    }
    let control = daemon.control();
    let signals = tokio::spawn(signals.obey(control));
    let in_time = daemon.run().await;
    signals.abort();
    if in_time {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped with sessions under way; their tools have no answer and keep the mail");
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

    async fn obey(mut self, control: Control) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => control.reload(),
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        tracing::info!("stopping: what is under way is finished first");
        control.stop();
    }
}

fn log_start(daemon: &Daemon, mode: Mode) {
    let relay = daemon.relay();
    let list = relay.lists.current();
    for address in daemon.addresses() {
        let (upstream, opt_outs) = (relay.upstream.name(), list.len());
        tracing::info!(%address, upstream, opt_outs, list = list.fingerprint(), "listening");
    }
    if mode == Mode::Observe {
        tracing::warn!("opt_out.mode is observe: opted-out recipients ARE mailed, and only logged");
    }
}

/// What a person wants to know who has just started it.
fn announce(daemon: &Daemon, from: &str, mode: Mode) {
    let relay = daemon.relay();
    let list = relay.lists.current();
    talk(&format!("optout-relay {} reads {from}", env!("CARGO_PKG_VERSION")));
    let places: Vec<_> = daemon.addresses().iter().map(SocketAddr::to_string).collect();
    talk(&format!("  listens on       {}", places.join(" and ")));
    talk(&format!("  mail goes to     {}", relay.upstream.name()));
    let files: Vec<_> = list.files().iter().map(|file| file.path.display().to_string()).collect();
    talk(&format!("  opt-outs         {} in force, from {}", list.len(), files.join(", ")));
    if mode == Mode::Observe {
        talk("  MODE             observe: opted-out recipients ARE mailed, and only logged");
    }
    if let Some(address) = daemon.addresses().first() {
        talk(&format!(
            "  try it           printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -sS smtp://{address} --mail-from shop@example.com --mail-rcpt buyer@example.org -T -"
        ));
    }
}

impl Failure {
    fn of_start(error: &StartError) -> Self {
        match error {
            StartError::Config(fault) => Self::of_config(fault),
            StartError::List(fault) => Self::of_list(fault),
            StartError::Folder(..) => Self::new(Exit::Io, error),
            StartError::Listen(..) => Self::new(Exit::Unavailable, error),
        }
    }
}

fn start_log(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    match log.format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        Format::Json => lines.json().flatten_event(true).init(),
    }
}

//! Listeners: those that systemd has opened and handed over, and otherwise our own. Never accepts a connection.

use std::io;
use std::net::{self, SocketAddr};

use listenfd::ListenFd;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;

use super::StartError;
use crate::config::file::Listen;
use crate::smtp::Entrance;

/// Connections that may wait in the system's queue for a place. Whoever finds it full comes again after a second.
const BACKLOG: i32 = 4096;

/// The number of the first socket that is handed over (`sd_listen_fds`(3)).
const FIRST: usize = 3;

/// Listeners that were open before we were, and stay open after us: whoever connects meanwhile waits. By the name of the
/// socket, `FileDescriptorName=`.
#[derive(Debug, Default)]
pub struct Handed {
    /// `smtp`, or without a name.
    pub smtp: Vec<net::TcpListener>,
    /// `submissions`: TLS from the first byte.
    pub submissions: Vec<net::TcpListener>,
}

/// What was handed over is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    /// A datagram socket, a socket file, a connection.
    #[error("socket {number} ({name:?}), which systemd has handed over, is no TCP listener\nhint: {hint}", hint = LISTENER_HINT)]
    NoListener {
        /// Of the file descriptor.
        number: usize,
        /// As the unit says.
        name: String,
    },
    /// What is to be spoken there?
    #[error("socket {number}, which systemd has handed over, is called {name:?}\nhint: {hint}", hint = NAME_HINT)]
    UnknownName {
        /// Of the file descriptor.
        number: usize,
        /// As the unit says.
        name: String,
    },
}

const LISTENER_HINT: &str = "the .socket unit must have ListenStream= with an address and a port, and no Accept=yes";
const NAME_HINT: &str = "FileDescriptorName= in the .socket unit is smtp, or submissions for TLS from the first byte";

impl Handed {
    /// Takes them, once, and before there is a second thread: it changes the environment. None where nobody has handed any
    /// over.
    pub fn take() -> Result<Self, Misfit> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let (mut names, mut sockets, mut handed) = (names.split(':'), ListenFd::from_env(), Self::default());
        for at in 0..sockets.len() {
            let (number, name) = (FIRST + at, names.next().unwrap_or_default());
            let group = handed.group(name).ok_or_else(|| Misfit::UnknownName { number, name: name.into() })?;
            let listener = sockets.take_tcp_listener(at).ok().flatten();
            let listener = listener.filter(|listener| SockRef::from(listener).is_listener().unwrap_or(false));
            group.push(listener.ok_or_else(|| Misfit::NoListener { number, name: name.into() })?);
        }
        Ok(handed)
    }

    /// Their addresses: in the clear, and with TLS from the first byte.
    pub fn addresses(&self) -> [Vec<SocketAddr>; 2] {
        [&self.smtp, &self.submissions].map(|group| group.iter().filter_map(|listener| listener.local_addr().ok()).collect())
    }

    /// A socket without a name of its own is called as its unit. Another name is a mistake: where TLS is meant, nothing else
    /// may be spoken.
    fn group(&mut self, name: &str) -> Option<&mut Vec<net::TcpListener>> {
        match name {
            "smtp" | "unknown" | "" => Some(&mut self.smtp),
            "submissions" => Some(&mut self.submissions),
            name => name.ends_with(".socket").then_some(&mut self.smtp),
        }
    }
}

/// Listeners, and what is spoken on each.
pub type Listeners = Vec<(TcpListener, Entrance)>;

/// Of each kind those that were handed over, and without any one for each address that is wanted.
pub fn listen(handed: Handed, wanted: &Listen) -> Result<Listeners, StartError> {
    let (mut listeners, mut missing) = (Listeners::new(), Vec::new());
    for (handed, key, wanted, entrance) in [
        (handed.smtp, "listen.smtp", &wanted.smtp, Entrance::Plain),
        (handed.submissions, "listen.submissions", &wanted.submissions, Entrance::Encrypted),
    ] {
        if handed.is_empty() {
            missing.extend(wanted.iter().map(|address| (*address, entrance)));
            continue;
        }
        let adopted = handed.into_iter().map(adopt).collect::<io::Result<Vec<_>>>().map_err(StartError::Adopt)?;
        let adopted: Listeners = adopted.into_iter().map(|listener| (listener, entrance)).collect();
        let places = addresses(&adopted).iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" and ");
        tracing::info!("systemd has handed over {places}: that is listened on in place of `{key}`");
        listeners.extend(adopted);
    }
    open(&missing, &mut listeners)?;
    Ok(listeners)
}

/// Where they listen; the real ports, where 0 was asked for.
pub fn addresses(listeners: &Listeners) -> Vec<SocketAddr> {
    listeners.iter().filter_map(|(listener, _)| listener.local_addr().ok()).collect()
}

fn adopt(listener: net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn open(wanted: &[(SocketAddr, Entrance)], listeners: &mut Listeners) -> Result<(), StartError> {
    for (at, &(address, entrance)) in wanted.iter().enumerate() {
        match bind(address) {
            Ok(listener) => listeners.push((listener, entrance)),
            // One family of addresses is enough, as long as there is one.
            Err(error) if is_absent_family(&error, address) && (at + 1 < wanted.len() || !listeners.is_empty()) => {
                tracing::warn!("not listening on {address}: this machine has no such addresses ({error})");
            }
            Err(error) => return Err(StartError::Listen(address, error)),
        }
    }
    Ok(())
}

/// EAFNOSUPPORT (which has no `ErrorKind`), or `::1` on a machine where IPv6 is switched off.
pub fn is_absent_family(error: &io::Error, address: SocketAddr) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || (error.kind() == io::ErrorKind::AddrNotAvailable && address.ip().is_loopback())
}

pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
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

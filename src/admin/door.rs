//! The door of the admin page: connections, encrypted where other machines come in, few at a time. Never knows what is asked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificate::Certificate;

/// Connections at once.
const CROWD: usize = 64;

/// Of these from one address of another machine; further ones are closed at once, so that nobody can take all.
const OF_ONE: usize = 16;

/// From one address of this machine, which may be that of a reverse proxy.
const OF_ONE_HERE: usize = 48;

/// For a TLS handshake, and for the header of a request; also how long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(15);

/// Nobody keeps a connection longer; a browser opens another.
const LONGEST: Duration = Duration::from_secs(600);

/// Bytes of a request's header.
const HEADER: usize = 32 << 10;

/// How long to leave the system alone when it has no connection to give.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub ip: IpAddr,
    /// Nobody on the way can read it.
    pub is_encrypted: bool,
}

/// One listener of the page.
#[derive(Debug)]
pub struct Entrance {
    /// Where it listens.
    pub listener: TcpListener,
    /// Who we are, where it is encrypted.
    pub certificate: Option<Arc<Certificate>>,
}

/// Who has how many connections.
#[derive(Debug, Default)]
struct Inside(Mutex<HashMap<IpAddr, usize>>);

/// One connection of somebody, who has one less when it is dropped.
struct Place {
    inside: Arc<Inside>,
    ip: IpAddr,
}

impl Inside {
    fn of(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, unless this address has its share.
    fn place(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let share = if ip.is_loopback() { OF_ONE_HERE } else { OF_ONE };
        let mut of = self.of();
        let count = of.entry(ip).or_default();
        (*count < share).then(|| {
            *count += 1;
            Place { inside: self.clone(), ip }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.inside.of();
        if let Some(count) = of.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.ip);
            }
        }
    }
}

/// Of IPv6, whoever has one address mostly has all that share its first half.
fn whose(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

/// Lets connections in until `stop`, and ends when the last one has its answer.
pub async fn serve(entrance: Entrance, pages: Router, stop: CancellationToken) {
    let (room, inside, tasks) = (Arc::new(Semaphore::new(CROWD)), Arc::<Inside>::default(), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async {
                let seat = room.clone().acquire_owned().await;
                (seat, entrance.listener.accept().await)
            } => accepted,
        };
        let (Ok(seat), Ok((tcp, from))) = accepted else {
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let Some(place) = inside.place(whose(from.ip().to_canonical())) else { continue };
        let (certificate, pages, stop) = (entrance.certificate.clone(), pages.clone(), stop.clone());
        tasks.spawn(async move {
            let _ = timeout(LONGEST, connection(tcp, from, certificate, pages, stop)).await;
            drop((seat, place));
        });
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    tcp: TcpStream,
    from: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    pages: Router,
    stop: CancellationToken,
) {
    let peer = Peer { ip: from.ip().to_canonical(), is_encrypted: certificate.is_some() };
    let pages = pages.layer(Extension(peer));
    match certificate {
        None => talk(tcp, pages, stop).await,
        Some(certificate) => {
            if let Ok(Ok(stream)) = timeout(PATIENCE, certificate.acceptor().accept(tcp)).await {
                talk(stream, pages, stop).await;
            }
        }
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pages: Router, stop: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEADER);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages)));
    // Whoever goes away in the middle is nobody's problem.
    let _: Result<(), hyper::Error> = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

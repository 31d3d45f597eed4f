//! Refuses to send mail in a circle, before anything is started: looks the upstream's name up where it may be our own.
//! Never looks anything up that cannot be.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::Failure;
use crate::config::Config;

/// A name that is not found by then is taken for another machine's.
const PATIENCE: Duration = Duration::from_secs(5);

/// The fault at `upstream.url` where it turns out to lead to one of our own listeners.
pub fn refuse(config: &Config) -> Result<(), Failure> {
    let Some((host, port)) = config.own_port() else { return Ok(()) };
    match config.circle(&look_up(host, port), is_own) {
        Some(fault) => Err(Failure::of_config(&fault)),
        None => Ok(()),
    }
}

fn look_up(host: &str, port: u16) -> Vec<SocketAddr> {
    let (sender, found) = channel();
    let place = (host.to_owned(), port);
    // It may outlive our patience, and then nobody listens. Where there are no threads nothing is found.
    let _ = std::thread::Builder::new().spawn(move || {
        let _ = sender.send(place.to_socket_addrs().map(Iterator::collect).unwrap_or_default());
    });
    found.recv_timeout(PATIENCE).unwrap_or_default()
}

/// Only an address of this machine can be bound.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

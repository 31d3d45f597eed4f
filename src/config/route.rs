//! `upstream.url`, understood: where mail goes. Never repeats the url, for it may hold a password.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::file::{Tls, Upstream};
use super::is_host_name;

/// `upstream.url`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `file:PATH`
    Folder(PathBuf),
    /// `smtp://` or `smtps://`
    Host(HostRoute),
}

/// Where a host is, and as whom it knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// TLS from the first byte.
    pub implicit_tls: bool,
    /// From the url or `upstream.user`.
    pub user: Option<String>,
    /// Name or address, without brackets.
    pub host: String,
    /// 465 or 587 where none is given.
    pub port: u16,
}

/// What keeps a connection to the host from listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Nothing.
    None,
    /// STARTTLS, demanded.
    StartTls,
    /// TLS from the first byte.
    Tls,
}

impl Route {
    /// The error is what is wrong, and a hint; never the url, for it may hold a password.
    pub(super) fn parse(url: &str, named_user: Option<String>) -> Result<Self, (&'static str, &'static str)> {
        const FORMS: &str = "write file:PATH, smtp://[user@]host[:port] or smtps://[user@]host[:port]";
        if let Some(path) = url.strip_prefix("file:") {
            return if path.is_empty() { Err(("names no folder", FORMS)) } else { Ok(Self::Folder(path.into())) };
        }
        let (implicit_tls, rest) = match (url.strip_prefix("smtps://"), url.strip_prefix("smtp://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(("is not a url that mail can go to", FORMS)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(("holds a password", "take it out, and set upstream.password = { file = \"...\" }"));
        }
        let default = if implicit_tls { 465 } else { 587 };
        let (host, port) = host_and_port(place, default).ok_or(("names no host or a wrong port", FORMS))?;
        let user = user.map(|user| user.replace("%40", "@")).or(named_user);
        Ok(Self::Host(HostRoute { implicit_tls, user, host, port }))
    }
}

impl HostRoute {
    /// By `upstream.tls`.
    pub fn encryption(&self, tls: Tls) -> Encryption {
        match (self.implicit_tls, tls) {
            (true, _) => Encryption::Tls,
            (false, Tls::Auto) if !self.is_loopback() => Encryption::StartTls,
            (false, Tls::Auto | Tls::Never) => Encryption::None,
        }
    }

    /// What is not to be done by oversight: the key, what is wrong with it, and a hint.
    pub(super) fn reckless(&self, upstream: &Upstream) -> Option<(&'static str, &'static str, &'static str)> {
        if self.user.is_some() && self.encryption(upstream.tls) == Encryption::None && !self.is_loopback() {
            return Some((
                "upstream.tls",
                "would send the password in the clear to another machine",
                "delete the line: STARTTLS is then demanded; or take user and password out, where the host wants none",
            ));
        }
        None
    }

    /// The host is this machine: what is said to it cannot be listened to on the way.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

pub(super) fn host_and_port(place: &str, default: u16) -> Option<(String, u16)> {
    if let Some((ip, port)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = if port.is_empty() { default } else { port.strip_prefix(':')?.parse().ok()? };
        let ip = ip.parse::<Ipv6Addr>().ok()?;
        return (port > 0).then(|| (ip.to_string(), port));
    }
    let (host, port) = match place.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (place, default),
    };
    (is_host_name(host) && port > 0).then(|| (host.to_owned(), port))
}

//! The road to the host: from the first packet to the moment at which what is said is as safe as the settings demand. Never
//! says anything secret.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;

use super::handshake::{Trouble, trouble};
use super::host::{Security, Settings};
use super::offer::Offer;
use super::secret::Secret;
use super::wire::Transport;
use crate::mail::{Stage, Status, clean};

/// A reply in the clear of more bytes than this is nonsense.
const MAX_REPLY: usize = 64 << 10;

const STRIPPED: &str = "something on the way may have cut it out; only where nobody can listen in: `upstream.tls = \"never\"`";

/// One way to the host.
#[derive(Clone, Copy)]
pub struct Road<'s> {
    /// Where to.
    pub settings: &'s Settings,
    /// A host that has heard it before may repeat it at any time.
    pub secret: Option<&'s Secret>,
}

impl Road<'_> {
    /// A trouble on the road, in the log in full, with our own words first.
    pub fn defer(&self, stage: &str, cause: &str, hint: Option<&str>) -> Status {
        let cause = self.secret.map_or_else(|| cause.to_owned(), |secret| secret.hide(cause));
        let hint = hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        tracing::error!("mail host, {stage}: {}{hint}", clean(&cause, 400));
        Status::new(Stage::Connect, 451, &format!("4.4.1 the mail host cannot be used now ({stage})"))
    }

    /// What takes longer than a reply may is too late.
    pub async fn within<T>(&self, stage: &str, step: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let step = timeout(self.settings.timeout, step);
        step.await.unwrap_or_else(|_| Err(self.defer(stage, "took too long", None)))
    }

    /// The first of the host's addresses that answers.
    pub async fn connect(&self) -> Result<TcpStream, Status> {
        let Settings { host, port, connect_timeout, .. } = self.settings;
        let lookup = timeout(*connect_timeout, tokio::net::lookup_host((host.as_str(), *port)));
        let found: Vec<_> = match lookup.await {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(error)) => return Err(self.defer("look up its name", &error.to_string(), None)),
            Err(_) => return Err(self.defer("look up its name", "took too long", None)),
        };
        let mut last = io::Error::other("the name has no address");
        for address in found {
            match timeout(*connect_timeout, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => match tcp.set_nodelay(true) {
                    Ok(()) => return Ok(tcp),
                    Err(error) => last = error,
                },
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(self.defer("connect", &last.to_string(), None))
    }

    /// TLS as the settings demand it, and what the host has said already.
    pub async fn encrypt(&self, mut tcp: TcpStream) -> Result<(Transport, &'static [u8]), Status> {
        let (connector, primed): (_, &[u8]) = match &self.settings.security {
            Security::None => return Ok((Transport::Plain(tcp), b"")),
            Security::Tls(connector) => (connector, b""),
            Security::StartTls(connector) => {
                self.start_tls(&mut tcp).await?;
                // lettre waits for a greeting, and the host has given its own already.
                (connector, b"220 TLS\r\n")
            }
        };
        let name = ServerName::try_from(self.settings.host.clone()).map_err(|e| self.defer("TLS", &e.to_string(), None))?;
        let tls = connector.connect(name, tcp).await.map_err(|error| {
            let Trouble { cause, hint } = trouble(&error);
            self.defer("TLS", &cause, hint)
        })?;
        Ok((Transport::Tls(Box::new(tls)), primed))
    }

    /// STARTTLS by hand (RFC 3207): what stands behind its 220 was never encrypted and ends the attempt.
    async fn start_tls(&self, tcp: &mut TcpStream) -> Result<(), Status> {
        let fail = |cause: &str| self.defer("STARTTLS", cause, None);
        let hello = format!("EHLO {}\r\n", self.settings.hostname);
        let mut read = Vec::new();
        for (command, expected) in [("", "220"), (&hello, "250"), ("STARTTLS\r\n", "220")] {
            tcp.write_all(command.as_bytes()).await.map_err(|e| fail(&e.to_string()))?;
            let reply = plain_reply(tcp, &mut read).await.map_err(|e| fail(&e.to_string()))?;
            if reply.get(..3) != Some(expected) || !matches!(reply.as_bytes().get(3), None | Some(b' ' | b'-' | b'\r' | b'\n')) {
                return Err(fail(&format!("the host says: {}", reply.lines().next().unwrap_or_default())));
            }
            if command == hello && !Offer::parse(&reply).starttls {
                return Err(self.defer("STARTTLS", "the host does not offer it", Some(STRIPPED)));
            }
            if !read.is_empty() {
                return Err(fail("the host spoke on before it was its turn"));
            }
        }
        Ok(())
    }

    /// A password is said to this machine, or where nobody can listen in: a name that should be this machine's may lead
    /// elsewhere.
    pub fn is_private(&self, transport: &Transport) -> Result<(), Status> {
        match transport {
            Transport::Plain(tcp) if self.secret.is_some() => match tcp.peer_addr() {
                Ok(peer) if is_this_machine(peer.ip()) => Ok(()),
                Ok(peer) => {
                    let cause = format!("the password is not sent in the clear to another machine, {}", peer.ip());
                    Err(self.defer("AUTH", &cause, Some("let `upstream.url` name that machine; STARTTLS is then demanded")))
                }
                Err(error) => Err(self.defer("connect", &error.to_string(), None)),
            },
            _ => Ok(()),
        }
    }
}

fn is_this_machine(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// One reply in the clear; what comes behind it stays in `read`.
async fn plain_reply(tcp: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<String> {
    let mut from = 0;
    loop {
        while let Some(end) = memchr::memchr(b'\n', &read[from..]).map(|at| from + at + 1) {
            let last = read.get(from + 3) != Some(&b'-');
            from = end;
            if last {
                return Ok(String::from_utf8_lossy(&read.drain(..end).collect::<Vec<_>>()).into_owned());
            }
        }
        if read.len() > MAX_REPLY {
            return Err(io::Error::other("the reply does not end"));
        }
        if tcp.read_buf(read).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the host has hung up"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_hear_a_password_in_the_clear() {
        for (ip, may) in [
            ("127.0.0.1", true),
            ("127.1.2.3", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("192.0.2.1", false),
            ("::ffff:192.0.2.1", false),
            ("::2", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_this_machine(ip.parse().unwrap()), may, "{ip}");
        }
    }
}

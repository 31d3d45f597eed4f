//! A client of the relay that runs: says one line, hears one reply, each within a deadline. Never sends anything by itself, and asks
//! nobody for a certificate: it calls this machine only.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::upstream::{Replies, Trust, connector};

/// For a connection, for a handshake, and for each reply.
pub const STEP: Duration = Duration::from_secs(10);

/// What can be talked over.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A connection.
pub struct Caller {
    stream: Box<dyn Duplex>,
    replies: Replies,
    ip: IpAddr,
}

/// A reply: its code, and all of its lines without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Three digits; 0 where it was none.
    pub code: u16,
    /// One for each line.
    pub lines: Vec<String>,
}

impl Said {
    fn of(reply: &[u8]) -> Self {
        let text = String::from_utf8_lossy(reply);
        let code = text.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
        let lines = text.lines().map(|line| line.get(4..).unwrap_or_default().to_owned());
        Self { code, lines: lines.collect() }
    }

    /// 2xx or 3xx.
    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// The greeting of a relay like us.
    pub fn greets_as_relay(&self) -> bool {
        self.code == 220 && self.lines.iter().any(|line| line.ends_with(" ESMTP optout-relay"))
    }

    /// A keyword of a reply to EHLO, in any case.
    pub fn offers(&self, keyword: &str) -> bool {
        let first = |line: &String| line.split(' ').next().is_some_and(|word| word.eq_ignore_ascii_case(keyword));
        self.lines.iter().skip(1).any(first)
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" "))
    }
}

impl Caller {
    /// Connects, with TLS from the first byte where that is spoken, and hears the greeting.
    pub async fn connect(address: SocketAddr, encrypted: bool) -> io::Result<(Self, Said)> {
        let tcp = soon(STEP, TcpStream::connect(reached(address))).await?;
        let ip = tcp.peer_addr()?.ip();
        let mut caller = Self { stream: Box::new(tcp), replies: Replies::default(), ip };
        if encrypted {
            caller = caller.encrypt().await?;
        }
        let greeting = caller.hear(STEP).await?;
        Ok((caller, greeting))
    }

    /// Says a line and hears the reply.
    pub async fn ask(&mut self, line: &str) -> io::Result<Said> {
        self.send(format!("{line}\r\n").as_bytes(), STEP).await
    }

    /// Sends bytes as they are and hears the reply, which may take as long as that.
    pub async fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<Said> {
        soon(patience, self.stream.write_all(bytes)).await?;
        soon(STEP, self.stream.flush()).await?;
        self.hear(patience).await
    }

    /// TLS from here on. Whatever was said before it is forgotten.
    pub async fn encrypt(self) -> io::Result<Self> {
        let connector = connector(Trust::Anybody).map_err(io::Error::other)?;
        let stream = soon(STEP, connector.connect(ServerName::from(self.ip), self.stream)).await?;
        Ok(Self { stream: Box::new(stream), replies: Replies::default(), ip: self.ip })
    }

    /// Takes leave; nobody waits for it long.
    pub async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(1), self.send(b"QUIT\r\n", STEP)).await;
    }

    async fn hear(&mut self, patience: Duration) -> io::Result<Said> {
        let reply = async {
            let mut read = BytesMut::with_capacity(4096);
            loop {
                if let Some(reply) = self.replies.cut()? {
                    return Ok(Said::of(&reply));
                }
                read.clear();
                if self.stream.read_buf(&mut read).await? == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
                }
                self.replies.put(&read);
            }
        };
        soon(patience, reply).await
    }
}

/// Somebody who listens everywhere is called at home.
pub fn reached(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

async fn soon<T>(patience: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", patience.as_secs())));
    timeout(patience, step).await.unwrap_or_else(|_| late())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_taken_apart() {
        let said = Said::of(b"250-relay.test\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n");
        assert_eq!((said.code, said.is_positive()), (250, true));
        assert!(said.offers("starttls") && said.offers("AUTH") && !said.offers("relay.test") && !said.offers("PLAIN"));
        let nonsense = Said::of(b"??? hello\r\n");
        assert_eq!((nonsense.code, nonsense.is_positive(), nonsense.lines), (0, false, vec!["hello".to_owned()]));
    }

    #[test]
    fn who_listens_everywhere_is_reached_here() {
        for (listens, called) in
            [("0.0.0.0:25", "127.0.0.1:25"), ("[::]:25", "[::1]:25"), ("192.0.2.1:25", "192.0.2.1:25"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(reached(listens.parse().unwrap()), called.parse().unwrap());
        }
    }
}

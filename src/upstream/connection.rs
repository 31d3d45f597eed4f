//! One connection to the host, from the first packet to AUTH. Everything that goes wrong here is deferred: it is the
//! road or our configuration, never the recipient. Never sends mail.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::Auth;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use super::host::{Secret, Security, Settings};
use super::offer::Offer;
use super::wire::{Transport, Wire};
use crate::mail::{Stage, Status};

/// Replies as we use them: the code, and all lines of text in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReply {
    pub code: u16,
    pub text: String,
}

/// A connection on which a transaction can begin.
pub struct Connection {
    lettre: AsyncSmtpConnection,
    wire: Wire,
    /// The relay ends now: no reply is waited for any more.
    stop: CancellationToken,
    pub offer: Offer,
}

const OUT_OF_TURN: &str = "the host spoke out of turn";

/// No reply that the dialogue can go on with.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Closed, too late, or nonsense.
    #[error("{0}")]
    Lost(String),
    /// 421: the host closes the connection whatever is said next (RFC 5321 3.8).
    #[error("the host is closing: {0}")]
    Closing(HostReply),
    /// The relay ends now.
    #[error("the relay was stopped")]
    Stopped,
}

impl Broken {
    /// What it means for whoever was not answered yet.
    pub fn status(&self, stage: Stage) -> Status {
        match self {
            Self::Lost(_) => Status::new(stage, 451, "4.4.2 the connection to the mail host was lost"),
            Self::Closing(reply) => Status::said(stage, reply.code, &reply.text),
            Self::Stopped => stopped(stage),
        }
    }
}

/// The relay ends before the host has spoken.
pub fn stopped(stage: Stage) -> Status {
    Status::new(stage, 451, "4.3.2 the relay was stopped")
}

impl Connection {
    /// Connects, greets, encrypts and authenticates as the settings say.
    pub async fn open(settings: &Settings, stop: CancellationToken) -> Result<Self, Status> {
        let tcp = connect(settings).await?;
        let limit = settings.timeout;
        let (transport, primed) = within(limit, "TLS", encrypt(settings, tcp)).await?;
        let mut connection = within(limit, "greeting", Self::greet(settings, transport, primed, stop)).await?;
        if let Some(secret) = &settings.secret {
            within(limit, "AUTH", connection.authenticate(secret)).await?;
        }
        Ok(connection)
    }

    async fn greet(
        settings: &Settings,
        transport: Transport,
        primed: &'static [u8],
        stop: CancellationToken,
    ) -> Result<Self, Status> {
        let wire = Wire::new(transport, primed).map_err(|e| defer("connect", &e.to_string()))?;
        let name = ClientId::Domain(settings.hostname.clone());
        match AsyncSmtpConnection::connect_with_transport(Box::new(wire.clone()), &name).await {
            // A reply before its command: every later one would be taken for that of another command.
            Ok(_) if !wire.in_step() => Err(defer("greeting", OUT_OF_TURN)),
            Ok(lettre) => {
                let offer = Offer::parse(&String::from_utf8_lossy(&wire.last_reply()));
                Ok(Self { lettre, wire, stop, offer })
            }
            Err(error) => {
                Err(defer("greeting", &reply_or_error(error).map_or_else(|e| e.to_string(), |reply| reply.to_string())))
            }
        }
    }

    async fn authenticate(&mut self, secret: &Secret) -> Result<(), Status> {
        let mechanism = match self.offer {
            Offer { auth_plain: true, .. } => Mechanism::Plain,
            Offer { auth_login: true, .. } => Mechanism::Login,
            _ => return Err(defer("AUTH", "the host offers neither PLAIN nor LOGIN here")),
        };
        let credentials = Credentials::new(secret.user.clone(), secret.password.clone());
        let fail = |cause: &dyn std::fmt::Display| defer("AUTH", &cause.to_string());
        let first = Auth::new(mechanism, credentials.clone(), None).map_err(|e| fail(&e))?;
        let mut answer = self.lettre.command(first).await;
        // User name, password, and no more.
        for _ in 0..2 {
            match answer {
                Ok(challenge) if u16::from(challenge.code()) == 334 => {
                    let next = Auth::new_from_response(mechanism, credentials.clone(), &challenge).map_err(|e| fail(&e))?;
                    answer = self.lettre.command(next).await;
                }
                _ => break,
            }
        }
        match answer.map(|response| of_response(&response)).or_else(reply_or_error) {
            Ok(reply) if reply.code == 235 => Ok(()),
            Ok(reply) => Err(fail(&reply)),
            Err(broken) => Err(fail(&broken)),
        }
    }

    /// Sends commands, one or a pipelined batch, and waits for the first reply. What came before was no reply to them.
    pub async fn ask(&mut self, commands: &str, within: Duration) -> Result<HostReply, Broken> {
        if self.stop.is_cancelled() {
            return Err(Broken::Stopped);
        }
        if !self.wire.in_step() {
            return Err(Broken::Lost(OUT_OF_TURN.into()));
        }
        let answer = timeout(within, self.lettre.command(commands));
        settle(&self.stop, async { answer.await.ok() }).await
    }

    /// Waits for the next reply of a batch.
    pub async fn reply(&mut self, within: Duration) -> Result<HostReply, Broken> {
        let answer = timeout(within, self.lettre.read_response());
        settle(&self.stop, async { answer.await.ok() }).await
    }

    /// Sends what is held and waits for the reply to it. Each piece must leave within `piece` of the one before (RFC 5321
    /// 4.5.3.2.5), and the reply must come within `last` of the end (4.5.3.2.6).
    pub async fn conclude(&mut self, piece: Duration, last: Duration) -> Result<HostReply, Broken> {
        if self.stop.is_cancelled() {
            return Err(Broken::Stopped);
        }
        let (wire, begun) = (self.wire.clone(), Instant::now());
        let mut answer = pin!(self.lettre.read_response());
        let mut late = pin!(sleep(piece));
        let answer = poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            let limit = if wire.all_is_sent() { last } else { piece };
            late.as_mut().reset(wire.moved().max(begun) + limit);
            late.as_mut().poll(context).map(|()| None)
        });
        settle(&self.stop, answer).await
    }

    /// Sends bytes as they are, with the next thing that is asked or read.
    pub fn hold(&self, bytes: bytes::Bytes) {
        self.wire.hold(bytes);
    }

    /// The host has been sent everything.
    pub fn all_is_sent(&self) -> bool {
        self.wire.all_is_sent()
    }

    /// The dialogue is in step: another transaction may follow.
    pub fn in_step(&self) -> bool {
        self.wire.in_step()
    }

    /// Nothing came and nobody hung up while it was kept.
    pub fn is_quiet(&self) -> bool {
        self.wire.is_quiet()
    }

    /// Says goodbye; nobody waits for it long.
    pub async fn quit(mut self) {
        let _ = timeout(Duration::from_secs(2), self.lettre.command("QUIT\r\n")).await;
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl std::fmt::Display for HostReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

type Answer = Result<Response, lettre::transport::smtp::Error>;

/// An answer, `None` where it is too late; what came is heard even if the relay is stopped at that moment.
async fn settle(stop: &CancellationToken, answer: impl Future<Output = Option<Answer>>) -> Result<HostReply, Broken> {
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = stop.cancelled() => return Err(Broken::Stopped),
    };
    match answer {
        Some(Ok(response)) => Ok(of_response(&response)),
        Some(Err(error)) => reply_or_error(error),
        None => Err(Broken::Lost("the host did not answer in time".into())),
    }
}

fn of_response(response: &Response) -> HostReply {
    let text = response.message().collect::<Vec<_>>().join(" ");
    HostReply { code: response.code().into(), text: said(text) }
}

/// A lone hyphen stands for no text at all; see the wire.
fn said(text: String) -> String {
    if text == "-" { String::new() } else { text }
}

/// lettre takes a refusal for an error; here it is a reply like others.
fn reply_or_error(error: lettre::transport::smtp::Error) -> Result<HostReply, Broken> {
    let text = std::error::Error::source(&error).map(ToString::to_string);
    match error.status() {
        Some(code) => Ok(HostReply { code: code.into(), text: said(text.unwrap_or_default()) }),
        None => Err(Broken::Lost(text.unwrap_or_else(|| error.to_string()))),
    }
}

/// A trouble on the road, with our own words first.
pub fn defer(stage: &str, cause: &str) -> Status {
    tracing::error!("mail host, {stage}: {}", crate::mail::clean(cause, 400));
    Status::new(Stage::Connect, 451, &format!("4.4.1 the mail host cannot be used now ({stage})"))
}

async fn within<T>(limit: Duration, stage: &str, step: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(limit, step).await.unwrap_or_else(|_| Err(defer(stage, "took too long")))
}

async fn connect(settings: &Settings) -> Result<TcpStream, Status> {
    let lookup = timeout(settings.connect_timeout, tokio::net::lookup_host((settings.host.as_str(), settings.port)));
    let found: Vec<_> = match lookup.await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(defer("look up its name", &error.to_string())),
        Err(_) => return Err(defer("look up its name", "took too long")),
    };
    let mut last = io::Error::other("the name has no address");
    for address in found {
        match timeout(settings.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => match tcp.set_nodelay(true) {
                Ok(()) => return Ok(tcp),
                Err(error) => last = error,
            },
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(defer("connect", &last.to_string()))
}

async fn encrypt(settings: &Settings, mut tcp: TcpStream) -> Result<(Transport, &'static [u8]), Status> {
    let (connector, primed): (_, &[u8]) = match &settings.security {
        Security::None => return Ok((Transport::Plain(tcp), b"")),
        Security::Tls(connector) => (connector, b""),
        Security::StartTls(connector) => {
            start_tls(&settings.hostname, &mut tcp).await?;
            // lettre waits for a greeting, and the host has given its own already.
            (connector, b"220 TLS\r\n")
        }
    };
    let name = ServerName::try_from(settings.host.clone()).map_err(|e| defer("TLS", &e.to_string()))?;
    let tls = connector.connect(name, tcp).await.map_err(|e| defer("TLS", &e.to_string()))?;
    Ok((Transport::Tls(Box::new(tls)), primed))
}

/// STARTTLS by hand (RFC 3207): what stands behind its 220 was never encrypted and ends the attempt.
async fn start_tls(hostname: &str, tcp: &mut TcpStream) -> Result<(), Status> {
    let fail = |cause: &str| defer("STARTTLS", cause);
    let mut read = Vec::new();
    for (command, expected) in [(String::new(), 220), (format!("EHLO {hostname}\r\n"), 250), ("STARTTLS\r\n".into(), 220)] {
        tcp.write_all(command.as_bytes()).await.map_err(|e| fail(&e.to_string()))?;
        let reply = plain_reply(tcp, &mut read).await.map_err(|e| fail(&e.to_string()))?;
        if !reply.starts_with(&format!("{expected} ")) && !reply.starts_with(&format!("{expected}-")) {
            return Err(fail(reply.lines().next().unwrap_or_default()));
        }
        if command.starts_with("EHLO") && !Offer::parse(&reply).starttls {
            return Err(fail("the host does not offer it; set `upstream.tls = \"never\"` only where nobody can listen in"));
        }
    }
    if read.is_empty() { Ok(()) } else { Err(fail("the host spoke on before encryption began")) }
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
        if read.len() > 64 << 10 {
            return Err(io::Error::other("the reply does not end"));
        }
        if tcp.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

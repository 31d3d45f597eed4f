//! One connection to the host: greeting, AUTH, and from there on what is said and answered. What goes wrong before there
//! can be mail is deferred: it is the road or our configuration, never the recipient. Never sends mail.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::host::Settings;
use super::offer::Offer;
use super::road::Road;
use super::secret::Secret;
use super::wire::{Transport, Wire};
use crate::mail::{Stage, Status, clean};

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
    /// What must not be seen in anything that the host says.
    secret: Option<Arc<Secret>>,
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
    /// Connects, encrypts, greets and logs in as the settings say.
    pub async fn open(settings: &Settings, secret: Option<Arc<Secret>>, stop: CancellationToken) -> Result<Self, Status> {
        let road = Road { settings, secret: secret.as_deref() };
        let tcp = road.connect().await?;
        let (transport, primed) = road.within("TLS", road.encrypt(tcp)).await?;
        road.is_private(&transport)?;
        let connection = Self::greet(&road, transport, primed, secret.clone(), stop);
        let mut connection = road.within("greeting", connection).await?;
        if let Some(secret) = &secret {
            road.within("AUTH", connection.log_in(&road, secret)).await?;
        }
        Ok(connection)
    }

    async fn greet(
        road: &Road<'_>,
        transport: Transport,
        primed: &'static [u8],
        secret: Option<Arc<Secret>>,
        stop: CancellationToken,
    ) -> Result<Self, Status> {
        let wire = Wire::new(transport, primed).map_err(|e| road.defer("connect", &e.to_string(), None))?;
        let name = ClientId::Domain(road.settings.hostname.clone());
        match AsyncSmtpConnection::connect_with_transport(Box::new(wire.clone()), &name).await {
            // A reply before its command: every later one would be taken for that of another command.
            Ok(_) if !wire.in_step() => Err(road.defer("greeting", OUT_OF_TURN, None)),
            Ok(lettre) => {
                let offer = Offer::parse(&String::from_utf8_lossy(&wire.last_reply()));
                Ok(Self { lettre, wire, secret, stop, offer })
            }
            Err(error) => {
                let said = reply_or_error(error).map_or_else(|e| e.to_string(), |reply| reply.to_string());
                Err(road.defer("greeting", &said, None))
            }
        }
    }

    /// AUTH (RFC 4954). Whatever the host says to our password but 235 is a refusal of the login, which is not tried again
    /// soon; only a connection that ends is one that ends.
    async fn log_in(&mut self, road: &Road<'_>, secret: &Secret) -> Result<(), Status> {
        let mut last = None;
        for way in secret.ways(self.offer) {
            let reply = self.say_all(&way, road.settings.timeout).await.map_err(|broken| match broken {
                Broken::Stopped => stopped(Stage::Connect),
                broken => road.defer("AUTH", &broken.to_string(), None),
            })?;
            let code = last.insert(reply).code;
            match code {
                235 => return Ok(()),
                // Not this way (RFC 4954 4): the password was not looked at.
                504 => {}
                _ => break,
            }
        }
        let said = last.map_or("offers neither of the logins PLAIN and LOGIN".to_owned(), |reply| {
            format!("does not take our login: {reply}")
        });
        Err(Status::new(Stage::Login, 451, &format!("4.7.0 the mail host {said}")))
    }

    /// Says one line after the other as long as the host asks for the next; its last reply.
    async fn say_all(&mut self, lines: &[String], within: Duration) -> Result<HostReply, Broken> {
        let mut reply = HostReply { code: 334, text: String::new() };
        for line in lines {
            if reply.code == 334 {
                reply = self.ask(line, within).await?;
            }
        }
        Ok(reply)
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
        settle(&self.stop, self.secret.as_deref(), async { answer.await.ok() }).await
    }

    /// Waits for the next reply of a batch.
    pub async fn reply(&mut self, within: Duration) -> Result<HostReply, Broken> {
        let answer = timeout(within, self.lettre.read_response());
        settle(&self.stop, self.secret.as_deref(), async { answer.await.ok() }).await
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
        settle(&self.stop, self.secret.as_deref(), answer).await
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

/// An answer, `None` where it is too late; what came is heard even if the relay is stopped at that moment. The password
/// does not stand in it.
async fn settle(
    stop: &CancellationToken,
    secret: Option<&Secret>,
    answer: impl Future<Output = Option<Answer>>,
) -> Result<HostReply, Broken> {
    let answer = tokio::select! {
        biased;
        answer = answer => answer,
        () = stop.cancelled() => return Err(Broken::Stopped),
    };
    let answer = match answer {
        Some(Ok(response)) => Ok(of_response(&response)),
        Some(Err(error)) => reply_or_error(error),
        None => Err(Broken::Lost("the host did not answer in time".into())),
    };
    let hide = |text: String| match secret {
        Some(secret) => clean(&secret.hide(&text), 400),
        None => text,
    };
    match answer {
        Ok(HostReply { code, text }) => Ok(HostReply { code, text: hide(text) }),
        Err(Broken::Lost(cause)) => Err(Broken::Lost(hide(cause))),
        Err(other) => Err(other),
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
        None => {
            let text = text.unwrap_or_else(|| error.to_string());
            // lettre's parser shows what it got stuck at.
            let stuck = text.split_once(" at: ").filter(|_| error.is_response());
            Err(Broken::Lost(stuck.map_or(text.clone(), |(_, at)| format!("this is no reply: {}", at.trim_end()))))
        }
    }
}

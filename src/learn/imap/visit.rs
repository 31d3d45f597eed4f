//! One connection to a mailbox: TLS, login, search, fetch, mark, wait. Every step has a deadline and a bound for what the server may
//! say. Never shows a password.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_channel::Receiver;
use async_imap::error::Error;
use async_imap::imap_proto::{Response, Status};
use async_imap::types::{Fetch, UnsolicitedResponse};
use async_imap::{Authenticator, Client, Session};
use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Mailbox, NotNow, Place, Security, Taken};
use crate::mail::clean;

/// For a connection, and for each answer.
const STEP: Duration = Duration::from_secs(60);

/// For a mail to come.
const FETCH: Duration = Duration::from_secs(300);

/// IDLE is begun anew before a server takes us for gone (RFC 2177 3).
const IDLE: Duration = Duration::from_secs(25 * 60);

/// What a server may say to one command, in bytes; with a mail, its size comes on top.
const MAX_ANSWER: u64 = 4 << 20;

/// No notice is larger; in bytes.
const MAX_MAIL: u32 = 10 << 20;

/// Why a visit has ended.
#[derive(Debug)]
pub struct Trouble {
    /// Cleaned; goes on from "no notices for now: ".
    pub cause: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
    /// The login was refused.
    pub login: bool,
}

const LOGIN_HINT: &str =
    "see that learn.imap.url names the user and learn.imap.password its password; many providers want a password for apps";
const TLS_HINT: &str = "imaps:// speaks TLS from the first byte, mostly at port 993; imap:// begins it by STARTTLS, mostly at 143; for a server of your own set learn.imap.ca";
const FOLDER_HINT: &str =
    "see that learn.imap.folder and learn.imap.move_to are folders of the mailbox, as the server writes them";
const LATER: &str = "what was learned cannot be written down; the reason stands above";

impl Trouble {
    fn new(cause: impl std::fmt::Display, hint: Option<&'static str>) -> Self {
        Self { cause: clean(&cause.to_string(), 300), hint, login: false }
    }

    fn of(stage: &str, error: &Error) -> Self {
        let said = match error {
            Error::No(said) | Error::Bad(said) => format!("the server refuses: {said}"),
            // Debugging output of the library may hold what we have sent.
            Error::Io(error) => error.to_string(),
            Error::ConnectionLost => "the server has hung up".to_owned(),
            _ => "the server says what no IMAP server says".to_owned(),
        };
        Self::new(format_args!("{stage}: {said}"), None)
    }
}

/// Being logged in.
pub struct Visit<'m> {
    mailbox: &'m Mailbox,
    session: Session<Road>,
    allowance: Allowance,
    idles: bool,
    moves: bool,
    place: Place,
    /// Mails have come while something else was asked.
    news: bool,
}

/// RFC 4616, for passwords that LOGIN cannot carry.
struct Plain(Vec<u8>);

impl Authenticator for Plain {
    type Response = Vec<u8>;

    fn process(&mut self, _: &[u8]) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl<'m> Visit<'m> {
    /// Connects, encrypts, logs in, opens the folder.
    pub async fn begin(mailbox: &'m Mailbox) -> Result<Self, Trouble> {
        let allowance = Allowance::default();
        let client = connect(mailbox, &allowance).await?;
        let fetch = mailbox.password.clone();
        let password = spawn_blocking(move || fetch()).await.ok().flatten();
        let password =
            password.ok_or_else(|| Trouble { login: true, ..Trouble::new("there is no password", Some(LOGIN_HINT)) })?;
        let login = async {
            // LOGIN carries quoted strings of ASCII only (RFC 9051 4.3).
            if mailbox.user.is_ascii() && password.is_ascii() {
                client.login(&mailbox.user, &password).await
            } else {
                let plain = [mailbox.user.as_bytes(), password.as_bytes()].join(&0);
                client.authenticate("PLAIN", Plain([&[0][..], &plain].concat())).await
            }
        };
        let session = within(STEP, "login", async { Ok(login.await) }).await?;
        let session = session.map_err(|(error, _)| {
            let refused = matches!(error, Error::No(_) | Error::Bad(_));
            // A server may repeat what it was told.
            let cause =
                if refused { "the server refuses user and password".to_owned() } else { Trouble::of("login", &error).cause };
            Trouble { login: refused, ..Trouble::new(cause, refused.then_some(LOGIN_HINT)) }
        })?;
        let place = Place { mailbox: String::new(), validity: 0, next: 1 };
        let mut visit = Self { mailbox, session, allowance, idles: false, moves: false, place, news: false };
        let capabilities = visit.ask(STEP, "CAPABILITY", async |session| session.capabilities().await).await?;
        (visit.idles, visit.moves) = (capabilities.has_str("IDLE"), capabilities.has_str("MOVE"));
        let folder = visit.ask(STEP, "SELECT", async |session| session.select(&mailbox.folder).await).await;
        let folder = folder.map_err(|trouble| Trouble { hint: Some(FOLDER_HINT), ..trouble })?;
        let (file, name) = (mailbox.state.clone(), format!("{} at {} {}", mailbox.user, mailbox.host, mailbox.folder));
        let validity = folder.uid_validity.unwrap_or_default();
        let read = spawn_blocking(move || Place::read(&file, &name, validity)).await;
        visit.place = read.map_err(|_| Trouble::new("the place in the mailbox cannot be read", None))?;
        Ok(visit)
    }

    /// Takes leave; nobody waits for it long.
    pub async fn leave(mut self) {
        let _ = timeout(Duration::from_secs(2), self.session.logout()).await;
    }

    /// All mails of the senders that were not looked at yet.
    pub async fn look_through<L, F>(&mut self, learn: &L) -> Result<(), Trouble>
    where
        L: Fn(Bytes) -> F,
        F: Future<Output = Result<Taken, NotNow>>,
    {
        let query = query(self.place.next, &self.mailbox.senders);
        let found = self.ask(STEP, "SEARCH", async |session| session.uid_search(&query).await).await?;
        // What comes from here on is not in it.
        self.news = false;
        // `7:*` holds the last mail also where that has a lower number.
        let mut new: Vec<_> = found.into_iter().filter(|uid| *uid >= self.place.next).collect();
        new.sort_unstable();
        for uid in new {
            if let Some(mail) = self.fetch(uid).await? {
                match learn(mail).await {
                    Ok(Taken::Learned) => self.put_away(uid).await?,
                    Ok(Taken::Looked) => {}
                    Err(NotNow) => return Err(Trouble::new(LATER, None)),
                }
            }
            self.place.next = uid.saturating_add(1);
            self.save().await?;
        }
        Ok(())
    }

    /// Until something has come, or it is time to look.
    pub async fn wait(mut self) -> Result<Self, Trouble> {
        if self.news {
            return Ok(self);
        }
        if !self.idles {
            tokio::time::sleep(self.mailbox.poll).await;
            self.ask(STEP, "NOOP", async |session| session.noop().await).await?;
            return Ok(self);
        }
        self.allowance.grant(MAX_ANSWER);
        let unasked = self.session.unsolicited_responses.clone();
        let mut idle = self.session.idle();
        within(STEP, "IDLE", idle.init()).await?;
        if !has_news(&unasked) {
            let (waiting, _stop) = idle.wait_with_timeout(IDLE);
            // Otherwise something has come, or it is time to say that we are there.
            if let Ok(Err(error)) = timeout(IDLE, waiting).await {
                return Err(Trouble::of("IDLE", &error));
            }
        }
        self.allowance.grant(MAX_ANSWER);
        self.session = within(STEP, "DONE", idle.done()).await?;
        Ok(self)
    }

    /// The mail, and no mark on it; `None` where it is gone or larger than any notice.
    async fn fetch(&mut self, uid: u32) -> Result<Option<Bytes>, Trouble> {
        let sizes = self.fetched(STEP, uid, "(UID RFC822.SIZE)").await?;
        let Some(size) = sizes.iter().find(|fetch| fetch.uid == Some(uid)).and_then(|fetch| fetch.size) else { return Ok(None) };
        if size > MAX_MAIL {
            tracing::warn!(uid, size, "a mail in the mailbox is larger than any notice, and was not fetched");
            return Ok(None);
        }
        self.allowance.grant(MAX_ANSWER + u64::from(size));
        let mails = self.fetched(FETCH, uid, "(UID BODY.PEEK[])").await?;
        let mail = mails.iter().find(|fetch| fetch.uid == Some(uid)).and_then(Fetch::body);
        Ok(mail.map(Bytes::copy_from_slice))
    }

    async fn fetched(&mut self, limit: Duration, uid: u32, what: &str) -> Result<Vec<Fetch>, Trouble> {
        let fetch = async |session: &mut Session<Road>| session.uid_fetch(uid.to_string(), what).await?.try_collect().await;
        self.ask(limit, "FETCH", fetch).await
    }

    /// Moved where that is wished; without MOVE (RFC 6851) a copy goes there, and the mail itself is marked as seen.
    async fn put_away(&mut self, uid: u32) -> Result<(), Trouble> {
        let uid = uid.to_string();
        if let Some(folder) = &self.mailbox.move_to {
            let hinted = |trouble| Trouble { hint: Some(FOLDER_HINT), ..trouble };
            if self.moves {
                let moved = self.ask(STEP, "MOVE", async |session| session.uid_mv(&uid, folder).await).await;
                return moved.map_err(hinted);
            }
            self.ask(STEP, "COPY", async |session| session.uid_copy(&uid, folder).await).await.map_err(hinted)?;
        }
        let mark = async |session: &mut Session<Road>| {
            session.uid_store(&uid, "+FLAGS.SILENT (\\Seen)").await?.try_collect::<Vec<_>>().await
        };
        self.ask(STEP, "STORE", mark).await.map(|_| ())
    }

    async fn save(&self) -> Result<(), Trouble> {
        let (file, place) = (self.mailbox.state.clone(), self.place.clone());
        let written =
            spawn_blocking(move || place.write(&file)).await.unwrap_or_else(|_| Err(io::Error::other("the writer failed")));
        written.map_err(|error| Trouble::new(format_args!("write {}: {error}", self.mailbox.state.display()), None))
    }

    /// One command and its answer.
    async fn ask<T>(
        &mut self,
        limit: Duration,
        stage: &str,
        command: impl AsyncFnOnce(&mut Session<Road>) -> Result<T, Error>,
    ) -> Result<T, Trouble> {
        self.allowance.at_least(MAX_ANSWER);
        let answer = within(limit, stage, command(&mut self.session)).await;
        self.news |= has_news(&self.session.unsolicited_responses);
        answer
    }
}

/// Whether the server has said, unasked, that mails have come.
fn has_news(unasked: &Receiver<UnsolicitedResponse>) -> bool {
    let mut news = false;
    while let Ok(said) = unasked.try_recv() {
        news |= matches!(said, UnsolicitedResponse::Exists(_) | UnsolicitedResponse::Recent(_));
    }
    news
}

/// `UID 7:* OR FROM "a" FROM "b"`
fn query(next: u32, senders: &[String]) -> String {
    let froms: Vec<_> = senders.iter().map(|sender| format!("FROM \"{sender}\"")).collect();
    let all = froms.into_iter().reduce(|all, from| format!("OR {all} {from}")).unwrap_or_else(|| "ALL".to_owned());
    format!("UID {next}:* {all}")
}

async fn within<T>(limit: Duration, stage: &str, step: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    match timeout(limit, step).await {
        Ok(done) => done.map_err(|error| Trouble::of(stage, &error)),
        Err(_) => Err(Trouble::new(format_args!("{stage}: no answer in time"), None)),
    }
}

/// In the clear or encrypted, greeted, ready for a login.
async fn connect(mailbox: &Mailbox, allowance: &Allowance) -> Result<Client<Road>, Trouble> {
    allowance.grant(MAX_ANSWER);
    let connected = timeout(STEP, TcpStream::connect((mailbox.host.as_str(), mailbox.port))).await;
    let tcp = match connected {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Err(Trouble::new(format_args!("connect: {error}"), None)),
        Err(_) => return Err(Trouble::new("connect: no answer in time", None)),
    };
    let road = |stream| Road { stream, allowance: allowance.clone() };
    match &mailbox.security {
        Security::None => greeted(Client::new(road(Stream::Plain(tcp)))).await,
        Security::Tls(connector) => greeted(Client::new(road(encrypt(mailbox, connector, tcp).await?))).await,
        Security::StartTls(connector) => {
            let mut client = greeted(Client::new(road(Stream::Plain(tcp)))).await?;
            let started = within(STEP, "STARTTLS", client.run_command_and_check_ok("STARTTLS", None)).await;
            started.map_err(|trouble| Trouble { hint: Some(TLS_HINT), ..trouble })?;
            // Whatever was said in the clear behind it goes with the client: it is nobody's word (RFC 9051 11.1).
            let Stream::Plain(tcp) = client.into_inner().stream else { return Err(Trouble::new("TLS within TLS", None)) };
            Ok(Client::new(road(encrypt(mailbox, connector, tcp).await?)))
        }
    }
}

async fn greeted(mut client: Client<Road>) -> Result<Client<Road>, Trouble> {
    let greeting = within(STEP, "greeting", async { Ok(client.read_response().await?) }).await?;
    let greeting = greeting.ok_or_else(|| Trouble::new("greeting: the server has hung up", Some(TLS_HINT)))?;
    match greeting.parsed() {
        Response::Data { status: Status::Ok, .. } => Ok(client),
        // Somebody stands in the way, or takes us for somebody else.
        Response::Data { status: Status::PreAuth, .. } => Err(Trouble::new("greeting: the server takes us for logged in", None)),
        _ => Err(Trouble::new("greeting: the server does not want us", None)),
    }
}

async fn encrypt(mailbox: &Mailbox, connector: &TlsConnector, tcp: TcpStream) -> Result<Stream, Trouble> {
    let failed = |error: &dyn std::fmt::Display| Trouble::new(format_args!("TLS: {error}"), Some(TLS_HINT));
    let name = ServerName::try_from(mailbox.host.clone()).map_err(|e| failed(&e))?;
    match timeout(STEP, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no answer in time")),
    }
}

/// How much the server may still say: the library keeps what does not end until there is no memory left.
#[derive(Clone, Debug, Default)]
struct Allowance(Arc<AtomicU64>);

impl Allowance {
    fn grant(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn at_least(&self, bytes: u64) {
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }

    fn spend(&self, bytes: u64) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        left.map(|_| ()).map_err(|_| io::Error::other("the server says more than it was asked for"))
    }
}

/// The connection.
#[derive(Debug)]
struct Road {
    stream: Stream,
    allowance: Allowance,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Road {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        match read {
            Poll::Ready(Ok(())) => Poll::Ready(self.allowance.spend((buffer.filled().len() - before) as u64)),
            other => other,
        }
    }
}

impl AsyncWrite for Road {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_names_all_senders() {
        let names = |senders: &[&str]| query(7, &senders.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(names(&["a"]), "UID 7:* FROM \"a\"");
        assert_eq!(names(&["a", "b", "c"]), "UID 7:* OR OR FROM \"a\" FROM \"b\" FROM \"c\"");
    }

    #[test]
    fn a_server_may_not_say_more_than_it_was_asked_for() {
        let allowance = Allowance::default();
        allowance.grant(10);
        assert!(allowance.spend(10).is_ok() && allowance.spend(1).is_err());
        allowance.at_least(5);
        assert!(allowance.spend(5).is_ok());
    }
}

//! A scripted SMTP host: says at each stage what it is told to, and remembers every byte that it got. Never sensible by
//! itself: what it was not told it answers like a host that is content with everything.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Where in the dialogue the host is to do something of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// After 354, before the message is read.
    Body,
    Dot,
    Rset,
    Quit,
}

/// What it does there, once.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// These bytes; CRLF is added unless they end in LF.
    Say(&'static [u8]),
    /// Nothing, but stays.
    Silence,
    /// Says it and hangs up.
    Last(&'static [u8]),
    /// Hangs up; in the middle of a message it reads the beginning first.
    Cut,
    /// The first line of a reply, again and again, for as long as somebody listens.
    Endless(&'static [u8]),
    /// Neither speaks nor reads, but stays.
    Stall,
    /// Reads a message in pieces, each after a while.
    Slow,
    /// Like `Say`, but not before the test wants it: see `Host::speak`.
    WhenTold(&'static [u8]),
}

/// Like `Act::Say`, for words.
pub fn say(words: &'static str) -> Act {
    Act::Say(words.as_bytes())
}

#[derive(Clone)]
pub enum Tls {
    Never,
    FirstByte(TlsAcceptor),
    Upgraded(TlsAcceptor),
}

/// What a host is to be like: the acts of each stage in order, over all connections; after them it is content.
#[derive(Clone)]
pub struct Script {
    pub offer: &'static [&'static str],
    pub tls: Tls,
    acts: HashMap<Stage, VecDeque<Act>>,
    /// What it says to each command that holds a word, where it has no act left.
    words: Vec<(&'static str, &'static str)>,
}

pub const MODERN: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 10000000"];
/// The same but for PIPELINING.
pub const STEPWISE: &[&str] = &["8BITMIME", "SMTPUTF8", "SIZE 10000000"];

/// What the host has got.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub connections: usize,
    /// Every command line, without CRLF.
    pub commands: Vec<String>,
    /// Every message whose final dot came, whatever the answer.
    pub messages: Vec<Taken>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub mail: String,
    /// Those that were answered with 2xx.
    pub accepted: Vec<String>,
    /// Between 354 and the dot, as it came over the wire.
    pub wire: Vec<u8>,
    /// The dot was answered with 2xx.
    pub kept: bool,
}

impl Taken {
    /// Who it is for, as the relay wrote it.
    pub fn to(&self) -> Vec<&str> {
        self.accepted.iter().map(|line| &line["RCPT TO:<".len()..line.find('>').unwrap()]).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.wire.clone()).unwrap()
    }

    /// It has the null sender, as reports do.
    pub fn is_report(&self) -> bool {
        self.mail.starts_with("MAIL FROM:<> ") || self.mail == "MAIL FROM:<>"
    }
}

pub struct Host {
    pub port: u16,
    state: Arc<Mutex<State>>,
    /// Its port, while it does not listen there.
    away: Mutex<Option<Socket>>,
}

struct State {
    script: Script,
    seen: Seen,
    /// A permit for each word that waits to be told.
    told: Arc<Semaphore>,
}

impl Script {
    pub fn new(offer: &'static [&'static str]) -> Self {
        Self { offer, tls: Tls::Never, acts: HashMap::new(), words: Vec::new() }
    }

    pub fn at(mut self, stage: Stage, acts: impl IntoIterator<Item = Act>) -> Self {
        self.acts.entry(stage).or_default().extend(acts);
        self
    }

    fn always_says(&self, line: &str) -> Option<&'static str> {
        self.words.iter().find(|(word, _)| line.contains(word)).map(|(_, reply)| *reply)
    }

    pub fn always(mut self, word: &'static str, reply: &'static str) -> Self {
        self.words.push((word, reply));
        self
    }

    pub fn tls(self, tls: Tls) -> Self {
        Self { tls, ..self }
    }
}

impl Host {
    pub async fn start(script: Script) -> Self {
        let host = Self::away(script);
        host.arrive();
        host
    }

    /// Has a port, which refuses connections until it [arrives](Self::arrive).
    pub fn away(script: Script) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // What the system buffers is neither read nor still to be sent: little enough for tests of large messages.
        socket.set_recv_buffer_size(128 << 10).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let state = State { script, seen: Seen::default(), told: Arc::new(Semaphore::new(0)) };
        Self { port, state: Arc::new(Mutex::new(state)), away: Mutex::new(Some(socket)) }
    }

    pub fn arrive(&self) {
        let socket = self.away.lock().unwrap().take().unwrap();
        socket.listen(1024).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let shared = self.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
    }

    /// Says the next word that waits for it.
    pub fn speak(&self) {
        self.state.lock().unwrap().told.add_permits(1);
    }

    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Seen {
        self.state.lock().unwrap().seen.clone()
    }

    /// The messages that it keeps: who sent each, to whom, and what.
    pub fn kept(&self) -> Vec<Taken> {
        self.seen().messages.into_iter().filter(|taken| taken.kept).collect()
    }

    /// The reports among them.
    pub fn reports(&self) -> Vec<Taken> {
        self.kept().into_iter().filter(Taken::is_report).collect()
    }

    /// Waits until it has done all that it was told to do at a stage.
    pub async fn has_acted(&self, stage: Stage) {
        while self.state.lock().unwrap().script.acts.get(&stage).is_some_and(|acts| !acts.is_empty()) {
            tokio::task::yield_now().await;
        }
    }
}

impl State {
    fn next(&mut self, stage: Stage) -> Option<Act> {
        self.script.acts.get_mut(&stage).and_then(VecDeque::pop_front)
    }
}

async fn serve(stream: tokio::net::TcpStream, state: Arc<Mutex<State>>) {
    let tls = {
        let mut state = state.lock().unwrap();
        state.seen.connections += 1;
        state.script.tls.clone()
    };
    let session = |tls_next| Session { state: state.clone(), unread: Vec::new(), taken: Taken::default(), tls_next };
    match tls {
        Tls::Never => drop(session(false).run(stream, true).await),
        Tls::FirstByte(acceptor) => {
            // A relay that refuses the certificate hangs up.
            if let Ok(stream) = acceptor.accept(stream).await {
                session(false).run(stream, true).await;
            }
        }
        Tls::Upgraded(acceptor) => {
            if let Some(stream) = session(true).run(stream, true).await
                && let Ok(stream) = acceptor.accept(stream).await
            {
                session(false).run(stream, false).await;
            }
        }
    }
}

struct Session {
    state: Arc<Mutex<State>>,
    unread: Vec<u8>,
    taken: Taken,
    /// STARTTLS is offered.
    tls_next: bool,
}

/// What was said, for the dialogue to know how it goes on.
enum Said {
    Code(u8),
    LastWord(u8),
    HungUp,
}

impl Session {
    /// The stream, where it goes on in TLS.
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, mut stream: S, greet: bool) -> Option<S> {
        if greet {
            let Said::Code(_) = self.act(&mut stream, Stage::Greeting, "220 host.test").await else { return None };
        }
        while let Some(line) = self.until(&mut stream, b"\r\n").await {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            self.state.lock().unwrap().seen.commands.push(line.clone());
            let (stage, content) = self.stage(&line);
            let content = self.state.lock().unwrap().script.always_says(&line).map_or(content, str::to_owned);
            let Said::Code(code) = self.act(&mut stream, stage, &content).await else { return None };
            match (stage, code) {
                (Stage::StartTls, b'2') => return Some(stream),
                (Stage::Quit, _) => return None,
                (Stage::Mail, b'2') => self.taken = Taken { mail: line, ..Taken::default() },
                (Stage::Rcpt, b'2') => self.taken.accepted.push(line),
                (Stage::Auth, b'3') => {
                    // One challenge, then the password.
                    self.until(&mut stream, b"\r\n").await?;
                    stream.write_all(b"334 UGFzc3dvcmQ6\r\n").await.ok()?;
                    self.until(&mut stream, b"\r\n").await?;
                    stream.write_all(b"235 2.7.0 in\r\n").await.ok()?;
                }
                (Stage::Data, b'3') => {
                    let Said::Code(_) = self.message(&mut stream).await? else { return None };
                }
                _ => {}
            }
        }
        None
    }

    fn stage(&self, line: &str) -> (Stage, String) {
        let verb = line.split([' ', ':']).next().unwrap().to_ascii_uppercase();
        let content = |stage, reply: &str| (stage, reply.to_owned());
        match verb.as_str() {
            "EHLO" => {
                let state = self.state.lock().unwrap();
                let tls = self.tls_next.then_some("STARTTLS");
                let mut lines: Vec<_> =
                    std::iter::once("host.test").chain(state.script.offer.iter().copied()).chain(tls).collect();
                let last = lines.pop().unwrap();
                let lines: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
                (Stage::Ehlo, format!("{lines}250 {last}"))
            }
            "STARTTLS" => content(Stage::StartTls, "220 2.0.0 go"),
            "AUTH" if line.contains("PLAIN") => content(Stage::Auth, "235 2.7.0 in"),
            "AUTH" => content(Stage::Auth, "334 VXNlcm5hbWU6"),
            "MAIL" => content(Stage::Mail, "250 2.1.0 fine"),
            "RCPT" => content(Stage::Rcpt, "250 2.1.5 fine"),
            "DATA" => content(Stage::Data, "354 go on"),
            "RSET" => content(Stage::Rset, "250 2.0.0 fine"),
            "QUIT" => content(Stage::Quit, "221 2.0.0 bye"),
            other => panic!("the relay said {other} to the host: {line}"),
        }
    }

    async fn message<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Option<Said> {
        let mut wire = b"\r\n".to_vec();
        let act = self.state.lock().unwrap().next(Stage::Body);
        match act {
            Some(Act::Cut) => {
                stream.read_exact(&mut [0; 1000]).await.ok()?;
                return None;
            }
            Some(Act::Stall) => std::future::pending().await,
            Some(Act::Say(bytes)) => stream.write_all(bytes).await.ok()?,
            Some(Act::Slow) => {
                while !self.unread.ends_with(b"\r\n.\r\n") {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    self.unread.reserve(1 << 20);
                    stream.read_buf(&mut self.unread).await.ok()?;
                }
                wire.append(&mut self.unread);
            }
            Some(other) => panic!("no host does {other:?} in the middle of a message"),
            None => {}
        }
        while !wire.ends_with(b"\r\n.\r\n") {
            wire.extend(self.until(stream, b"\r\n").await?);
        }
        let wire = wire[2..wire.len() - 3].to_vec();
        let taken = Taken { wire, ..std::mem::take(&mut self.taken) };
        let place = {
            let messages = &mut self.state.lock().unwrap().seen.messages;
            messages.push(taken);
            messages.len() - 1
        };
        let said = self.act(stream, Stage::Dot, "250 2.0.0 taken").await;
        self.state.lock().unwrap().seen.messages[place].kept = matches!(said, Said::Code(b'2') | Said::LastWord(b'2'));
        Some(said)
    }

    /// Does what the script has for the stage, or is content.
    async fn act<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S, stage: Stage, content: &str) -> Said {
        let act = self.state.lock().unwrap().next(stage);
        let mut bytes = match act {
            None => content.as_bytes().to_vec(),
            Some(Act::Say(bytes)) => bytes.to_vec(),
            Some(Act::Cut) => return Said::HungUp,
            Some(Act::Endless(line)) => {
                while stream.write_all(line).await.is_ok() {}
                return Said::HungUp;
            }
            Some(Act::Stall | Act::Slow) => std::future::pending().await,
            Some(Act::WhenTold(bytes)) => {
                let told = self.state.lock().unwrap().told.clone();
                told.acquire().await.unwrap().forget();
                bytes.to_vec()
            }
            Some(Act::Last(bytes)) => {
                let _ = stream.write_all(bytes).await;
                return Said::LastWord(bytes[0]);
            }
            Some(Act::Silence) => {
                // Until the relay gives up.
                while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
                return Said::HungUp;
            }
        };
        if !bytes.ends_with(b"\n") {
            bytes.extend(b"\r\n");
        }
        let first = bytes[0];
        match stream.write_all(&bytes).await {
            Ok(()) => Said::Code(first),
            Err(_) => Said::HungUp,
        }
    }

    /// The bytes up to and with `end`; `None` where the relay has hung up.
    async fn until<S: AsyncRead + Unpin>(&mut self, stream: &mut S, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.unread.windows(end.len()).position(|window| window == end) {
                return Some(self.unread.drain(..at + end.len()).collect());
            }
            if stream.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        }
    }
}

//! A relay in a folder of its own, and a raw SMTP client to talk to it.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use optout_relay::config::Config;
use optout_relay::daemon::{Control, Daemon};
use optout_relay::spool::{self, Record};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Nothing that a test waits for takes so long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running relay; its folder goes with it.
pub struct Relay {
    pub folder: TempDir,
    pub address: SocketAddr,
    /// Where it listens for TLS from the first byte.
    pub encrypted: Option<SocketAddr>,
    /// Where the admin page is.
    pub pages: Vec<SocketAddr>,
    pub control: Control,
    pub line: Arc<optout_relay::relay::Relay>,
    running: JoinHandle<bool>,
}

/// What a relay is to be started with.
pub struct Plan<'a> {
    /// `relay.toml`; hostname, state_dir, listen.smtp and, where `upstream` is given, upstream.url come on top.
    pub config: &'a str,
    /// `blacklist.toml`
    pub list: &'a str,
    /// `smtp://…`, or empty for the folder `outbox`.
    pub upstream: &'a str,
}

impl Relay {
    pub async fn start(plan: Plan<'_>) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), plan).await
    }

    /// On what another relay has left behind, or a test has laid out.
    pub async fn start_in(folder: TempDir, plan: Plan<'_>) -> Self {
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("relay.toml"), plan.config).unwrap();
        std::fs::write(at("blacklist.toml"), plan.list).unwrap();
        let url = if plan.upstream.is_empty() { format!("file:{}", at("outbox").display()) } else { plan.upstream.into() };
        let overlay = [
            ("OPTOUT_RELAY_HOSTNAME", "relay.test".to_owned()),
            ("OPTOUT_RELAY_STATE_DIR", at("var").display().to_string()),
            ("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]".to_owned()),
            ("OPTOUT_RELAY_UPSTREAM__URL", url),
        ];
        let overlay = overlay.into_iter().map(|(name, value)| (name.to_owned(), value));
        let config = Config::load(Some(&at("relay.toml")), overlay).unwrap_or_else(|fault| panic!("{fault}"));
        let daemon = Daemon::start(config).await.unwrap_or_else(|error| panic!("{error}"));
        let (address, control, line) = (daemon.addresses()[0], daemon.control(), daemon.relay().clone());
        let (encrypted, pages) = (daemon.addresses().get(1).copied(), daemon.admin_addresses());
        Self { folder, address, encrypted, pages, control, line, running: tokio::spawn(daemon.run()) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The suppression log and what was moved away from it, one value a line.
    pub fn suppressed(&self) -> Vec<serde_json::Value> {
        let mut files: Vec<_> = std::fs::read_dir(self.path("var/log")).unwrap().map(|entry| entry.unwrap().path()).collect();
        let is_other = |file: &Path| {
            ["learned", "sent", "actions"].iter().any(|name| file.file_name().unwrap().to_str().unwrap().starts_with(name))
        };
        files.retain(|file| file.is_file() && file.extension().is_some_and(|ending| ending == "jsonl") && !is_other(file));
        files.sort();
        let text: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The messages in the outbox in the order in which they came: bytes, and the envelope.
    pub fn outbox(&self) -> Vec<(Vec<u8>, serde_json::Value)> {
        let mut names: Vec<_> = std::fs::read_dir(self.path("outbox")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|name| name.extension().is_some_and(|ending| ending == "eml"));
        names.sort();
        let read = |name: &Path| std::fs::read(name).unwrap();
        names.iter().map(|name| (read(name), serde_json::from_slice(&read(&name.with_extension("json"))).unwrap())).collect()
    }

    /// The messages that are held, oldest first.
    pub fn held(&self) -> Vec<Record> {
        spool::records(&self.path("var/spool"), None).unwrap().map(|(_, record)| record.unwrap()).collect()
    }

    /// Tries what is held, again and again, until nothing is.
    pub async fn drain(&self) {
        let drained = async {
            while !self.has_nothing() {
                self.line.spool.hurry(None);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, drained).await.unwrap_or_else(|_| panic!("still held: {:?}", self.held()));
    }

    /// What is in the spool's folder, without what is always there.
    pub fn spooled(&self) -> Vec<String> {
        spooled(&self.folder)
    }

    /// The disk is asked as well: what a relay finds when it starts is read after a while.
    fn has_nothing(&self) -> bool {
        self.line.spool.is_empty() && self.spooled().is_empty()
    }

    /// Waits until nothing is held, and no file is left of it.
    pub async fn is_drained(&self) {
        eventually("the spool is not empty", || self.has_nothing()).await;
    }

    /// Replaces `blacklist.toml` and waits until that list is in force.
    pub async fn list(&self, list: &str) {
        let before = self.line.lists.current_shared();
        std::fs::write(self.path("blacklist.toml"), list).unwrap();
        self.control.reload();
        eventually("the list is not in force", || !self.line.lists.is_current(&before)).await;
    }

    /// From here on no line can be written to the suppression log: its name is that of a folder.
    pub async fn break_log(&self) {
        let log = self.path("var/log/suppressed.jsonl");
        std::fs::rename(&log, self.path("var/log/before.jsonl")).unwrap();
        std::fs::create_dir(&log).unwrap();
        self.control.reload();
        // Whoever was just woken is before us in line, so the log is closed before the next mail comes.
        tokio::task::yield_now().await;
    }

    pub async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        client.expect("220 relay.test ESMTP").await;
        client
    }

    /// Stops it and waits; whether everything was finished in time.
    pub async fn stop(self) -> bool {
        self.leave().await.1
    }

    /// Stops it and hands over its folder, for another one.
    pub async fn leave(self) -> (TempDir, bool) {
        let Self { folder, line, control, running, .. } = self;
        drop(line);
        control.stop();
        (folder, timeout(PATIENCE, running).await.expect("the relay does not stop").unwrap())
    }
}

/// The files of a spool, sorted; its lock and its own folders are not among them.
pub fn spooled(folder: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path().join("var/spool")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !["lock", "requests", "corrupt"].contains(&name.as_str()));
    names.sort();
    names
}

/// Waits until it is so.
pub async fn eventually(or_else: &str, mut is_so: impl FnMut() -> bool) {
    let waits = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waits).await.unwrap_or_else(|_| panic!("{or_else}"));
}

/// Everything that is logged on this thread, at every level, while it lives.
///
/// There is one subscriber for all threads: with one for each, what was logged first where nobody watches would be
/// taken for uninteresting everywhere.
pub struct Logs(());

static SUBSCRIBER: Once = Once::new();

thread_local! {
    static WATCHED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

struct Line;

impl Logs {
    pub fn watch() -> Self {
        SUBSCRIBER.call_once(|| {
            let log = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
            tracing::subscriber::set_global_default(log.with_writer(|| Line).finish()).unwrap();
        });
        WATCHED.set(Some(Vec::new()));
        Self(())
    }

    /// The lines that hold all these words.
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let text = String::from_utf8(WATCHED.with_borrow(Option::clone).unwrap()).unwrap();
        text.lines().filter(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned).collect()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        WATCHED.set(None);
    }
}

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        WATCHED.with_borrow_mut(|watched| watched.iter_mut().for_each(|text| text.extend_from_slice(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Speaks raw bytes.
pub struct Client {
    stream: Box<dyn Bytes>,
    unread: Vec<u8>,
}

/// What carries them.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: Box::new(stream), unread: Vec::new() }
    }

    /// Connects and sends in one go, before the relay can have greeted: nothing else runs meanwhile on this thread.
    pub fn talk_first(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, bytes).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream: Box::new(TcpStream::from_std(stream).unwrap()), unread: Vec::new() }
    }

    /// Shakes hands with whoever has a certificate for `localhost`; an error where that fails.
    pub async fn encrypt(self, connector: &TlsConnector) -> std::io::Result<Self> {
        assert_eq!(self.unread, b"", "before the handshake");
        let stream = connector.connect("localhost".try_into().unwrap(), self.stream).await?;
        Ok(Self { stream: Box::new(stream), unread: Vec::new() })
    }

    /// All lines of the next reply.
    pub async fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            lines.push(self.line().await.expect("the relay has hung up"));
            if lines.last().unwrap().as_bytes().get(3) != Some(&b'-') {
                return lines;
            }
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).await.unwrap();
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// The next line without its CRLF; `None` where the relay has hung up.
    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await.expect("the relay is silent");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The last line of the next reply.
    pub async fn reply(&mut self) -> String {
        self.lines().await.pop().unwrap()
    }

    pub async fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().await;
        assert!(reply.starts_with(start), "got {reply:?}, wants {start:?}");
        reply
    }

    /// Sends one line and hears how the reply begins.
    pub async fn expect_to(&mut self, line: &str, start: &str) {
        let reply = self.say(line).await;
        assert!(reply.starts_with(start), "{line}: got {reply:?}, wants {start:?}");
    }

    /// Whatever comes next; `None` where the relay has hung up.
    pub async fn bytes(&mut self) -> Option<Vec<u8>> {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.unread)).await.expect("the relay is silent");
        (read.unwrap_or(0) > 0).then(|| std::mem::take(&mut self.unread))
    }

    /// Sends one line and returns the reply's last line.
    pub async fn say(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// A whole transaction; the reply to its end, or to whatever was refused first.
    pub async fn mail(&mut self, from: &str, to: &[&str], wire: &str) -> String {
        self.say("EHLO tool.test").await;
        let mut last = self.say(&format!("MAIL FROM:<{from}>")).await;
        for to in to {
            last = self.say(&format!("RCPT TO:<{to}>")).await;
        }
        if self.say("DATA").await.starts_with("354") { self.say(&format!("{wire}\r\n.")).await } else { last }
    }
}

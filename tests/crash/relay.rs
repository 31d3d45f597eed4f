//! The real binary in a folder that outlives it: started, killed, started again. What it said is kept with the time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{self, until};

/// Nothing that a relay is asked for takes so long, unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where the relay of a site listens, now: each start has a port of its own.
#[derive(Clone, Default)]
pub struct Door(Arc<Mutex<Option<SocketAddr>>>);

impl Door {
    /// Port 1 while nobody listens.
    pub fn address(&self) -> SocketAddr {
        self.0.lock().unwrap().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    pub fn open(&self, address: SocketAddr) {
        *self.0.lock().unwrap() = Some(address);
    }

    fn close(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// A line on stderr, and when it was read.
pub type Said = (u64, String);

/// Configuration, list, state, and what all relays said that were started here.
pub struct Site {
    pub folder: PathBuf,
    pub door: Door,
    said: Arc<Mutex<Vec<Said>>>,
    /// Addresses, and how long the list was when each came onto it.
    list: Mutex<Vec<(String, usize)>>,
}

/// What the configuration says besides the usual.
#[derive(Clone, Debug)]
pub struct Keys {
    pub answer: &'static str,
    pub host: SocketAddr,
    /// Whole lines.
    pub more: String,
}

impl Keys {
    pub fn new(answer: &'static str, host: SocketAddr) -> Self {
        Self { answer, host, more: String::new() }
    }

    pub fn with(mut self, line: &str) -> Self {
        let _ = writeln!(self.more, "{line}");
        self
    }

    /// Short times, so that a test need not wait for what takes a day.
    fn text(&self) -> String {
        let usual = [
            ("hostname", "\"relay.test\""),
            ("state_dir", "\"state\""),
            ("shutdown_grace", "\"5s\""),
            ("listen.smtp", "[\"127.0.0.1:0\"]"),
            ("upstream.connect_timeout", "\"1s\""),
            ("upstream.timeout", "\"1s\""),
            ("upstream.data_timeout", "\"2s\""),
            ("upstream.max_connections", "8"),
            ("opt_out.lists", "[\"blacklist.toml\"]"),
            ("delivery.patience", "\"1s\""),
            ("delivery.retry_first", "\"200ms\""),
            ("delivery.retry_max", "\"2s\""),
            ("delivery.min_free", "\"0B\""),
        ];
        let mut text = format!("upstream.url = \"smtp://{}\"\ndelivery.answer = {:?}\n", self.host, self.answer);
        for (key, value) in usual.iter().filter(|(key, _)| !self.more.contains(key)) {
            let _ = writeln!(text, "{key} = {value}");
        }
        text + &self.more
    }
}

impl Site {
    pub fn new(folder: &Path, keys: &Keys) -> Self {
        fs::write(folder.join("relay.toml"), keys.text()).unwrap();
        let site = Self { folder: folder.to_owned(), door: Door::default(), said: Arc::default(), list: Mutex::default() };
        site.opt_out([]);
        site
    }

    /// Puts more addresses on the list; the file is replaced whole.
    pub fn opt_out(&self, addresses: impl IntoIterator<Item = String>) {
        let mut list = self.list.lock().unwrap();
        let known = list.len();
        list.extend(addresses.into_iter().map(|address| (address, 0)));
        let entries = list.len();
        list[known..].iter_mut().for_each(|(_, length)| *length = entries);
        let addresses: Vec<_> = list.iter().map(|(address, _)| address).collect();
        let new = self.folder.join("blacklist.new");
        fs::write(&new, format!("addresses = {addresses:?}\n")).unwrap();
        fs::rename(new, self.folder.join("blacklist.toml")).unwrap();
    }

    /// How many addresses are on the list.
    pub fn entries(&self) -> usize {
        self.list.lock().unwrap().len()
    }

    /// Who has opted out, and since when that was in force: since the relay had said so.
    pub fn opted_out(&self) -> BTreeMap<String, Option<u64>> {
        let lists = self.lists_in_force();
        let since = |length: usize| lists.iter().find(|(entries, _)| *entries >= length).map(|(_, time)| *time);
        self.list.lock().unwrap().iter().map(|(address, length)| (address.clone(), since(*length))).collect()
    }

    /// Entries of the lists that came into force, and when; they only grow.
    fn lists_in_force(&self) -> Vec<(usize, u64)> {
        let (mut at_start, mut lists) = (0, Vec::new());
        for (time, line) in self.said.lock().unwrap().iter() {
            let stated = line.split_once("entries=").and_then(|(_, rest)| rest.split([' ', ')']).next()?.parse().ok());
            if line.starts_with("(process ") {
                at_start = stated.unwrap_or(0);
            } else if line.contains(" started listen=") {
                lists.push((at_start, *time));
            } else if line.contains("opt-out list reloaded") {
                lists.extend(stated.map(|entries| (entries, *time)));
            }
        }
        lists
    }

    pub fn spool(&self) -> PathBuf {
        self.folder.join("state/spool")
    }

    pub fn command(&self) -> Command {
        self.own(Command::new(env!("CARGO_BIN_EXE_optout-relay")))
    }

    /// The same with at most so many open files.
    pub fn command_with_files(&self, files: usize) -> Command {
        let mut shell = Command::new("sh");
        let relay = env!("CARGO_BIN_EXE_optout-relay");
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\""), relay]);
        self.own(shell)
    }

    /// Nothing of this process's own settings goes along.
    fn own(&self, mut command: Command) -> Command {
        command.current_dir(&self.folder).args(["--config", "relay.toml", "serve"]);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPTOUT_RELAY_")) {
            command.env_remove(name);
        }
        command
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> Relay<'_> {
        let mut relay = self.spawn(self.command());
        relay.wait_until_it_serves();
        relay
    }

    pub fn spawn(&self, mut command: Command) -> Relay<'_> {
        let entries = self.entries();
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let (said, begin) = (self.said.clone(), self.said.lock().unwrap().len());
        let mut log = fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        let _ = writeln!(log, "--- {} starts with {entries} opt-outs, {} ---", process.id(), clock::now());
        said.lock().unwrap().push((clock::now(), format!("(process {} with entries={entries})", process.id())));
        let ears = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // Whoever waits for a line finds it without the log.
                let _ = writeln!(log, "{line}");
                said.lock().unwrap().push((clock::now(), line));
            }
        });
        Relay { site: self, process, begin, ears: Some(ears), dead: false }
    }

    /// All lines of all relays that ran here.
    pub fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap().clone()
    }

    /// What mail is still there, and what of it was set aside.
    pub fn held(&self) -> (Vec<String>, Vec<String>) {
        (names(&self.spool()), names(&self.spool().join("corrupt")))
    }

    /// Waits until no mail is held any more; false when that takes longer than `limit`.
    pub fn drains(&self, limit: Duration) -> bool {
        until(limit, || self.held().0.is_empty())
    }
}

/// Files in a folder that hold mail, or a part of it; a lock is neither.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mail = |entry: fs::DirEntry| {
        let is_mail = entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() > 0) && entry.file_name() != "lock";
        is_mail.then(|| entry.file_name().to_string_lossy().into_owned())
    };
    entries.filter_map(Result::ok).filter_map(mail).collect()
}

/// A relay that runs.
pub struct Relay<'s> {
    site: &'s Site,
    process: Child,
    /// Its first line among those of the site.
    begin: usize,
    ears: Option<JoinHandle<()>>,
    dead: bool,
}

impl Relay<'_> {
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn wait_until_it_serves(&mut self) {
        let line = self.says("started listen=\"");
        let address = line.split("listen=\"").nth(1).and_then(|rest| rest.split('"').next());
        let address: SocketAddr = address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("where? {line}"));
        self.site.door.open(address);
    }

    /// Has said it, or says it yet.
    pub fn says(&mut self, words: &str) -> String {
        let mut found = None;
        let said = self.site.said.clone();
        let begin = self.begin;
        until(PATIENCE, || {
            let said = said.lock().unwrap();
            found = said[begin..].iter().find(|(_, line)| line.contains(words)).map(|(_, line)| line.clone());
            found.is_some() || !self.runs()
        });
        found.unwrap_or_else(|| panic!("the relay did not say `{words}`; see {}", self.site.folder.join("log").display()))
    }

    /// It has neither ended nor died.
    pub fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// SIGKILL; all that it said is in the site when this returns. It must have run until now.
    pub fn kill(mut self) {
        assert!(self.runs(), "the relay ended by itself; see {}", self.site.folder.join("log").display());
        self.end();
    }

    /// SIGKILL, and nothing else.
    pub fn strike(&mut self) {
        // It may be dead already.
        let _ = self.process.kill();
    }

    /// SIGTERM: ends by itself, in good order.
    pub fn stop(mut self) {
        assert!(self.runs(), "the relay ended by itself; see {}", self.site.folder.join("log").display());
        let term = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.pid())]).status().unwrap();
        assert!(term.success());
        let ended = until(PATIENCE, || !self.runs());
        let status = self.end();
        assert!(ended && status.code() == Some(0), "SIGTERM: {status}, see {}", self.site.folder.join("log").display());
    }

    /// Waits until it has ended by itself; false if it still runs after that time.
    pub fn ends(&mut self, limit: Duration) -> bool {
        until(limit, || !self.runs())
    }

    /// Dead, by whatever; how it ended.
    pub fn end(&mut self) -> ExitStatus {
        self.site.door.close();
        // It may have ended by itself.
        let _ = self.process.kill();
        let status = self.process.wait().unwrap();
        if let Some(ears) = self.ears.take() {
            let _ = ears.join();
        }
        self.dead = true;
        status
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if !self.dead {
            self.end();
        }
    }
}

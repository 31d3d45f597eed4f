//! The real binary in a folder of its own: its lines are waited for, never slept for.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tempfile::TempDir;

use crate::rig::PATIENCE;

/// A folder with `relay.toml` and `blacklist.toml`, in which commands run.
pub struct Shop {
    pub folder: TempDir,
}

impl Shop {
    pub fn new(config: &str, list: &str) -> Self {
        let shop = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(shop.path("relay.toml"), config).unwrap();
        std::fs::write(shop.path("blacklist.toml"), list).unwrap();
        shop
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The binary with `--config relay.toml`; nothing of this process's own settings goes along.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_optout-relay"));
        command.current_dir(self.folder.path()).args(["--config", "relay.toml"]).args(arguments);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPTOUT_RELAY_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: exit code, stdout, stderr.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        told(self.command(arguments).output().unwrap())
    }

    /// The suppression log, one value a line; empty where there is none.
    pub fn suppressed(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.path("var/log/suppressed.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The recipients of every message in `outbox`, in the order in which they came.
    pub fn delivered(&self) -> Vec<serde_json::Value> {
        let mut names: Vec<_> = std::fs::read_dir(self.path("outbox")).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|name| name.extension().is_some_and(|ending| ending == "json"));
        names.sort();
        let envelope = |name: &PathBuf| serde_json::from_slice::<serde_json::Value>(&std::fs::read(name).unwrap()).unwrap();
        names.iter().map(|name| envelope(name)["recipients"].clone()).collect()
    }

    /// `serve` on a free port, into the folder `outbox`.
    pub fn serve(&self) -> Process {
        self.serve_as(&["serve"])
    }

    /// `serve` on a free port, to a host.
    pub fn serve_to(&self, url: &str) -> Process {
        let mut command = self.command(&["serve"]);
        command.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_UPSTREAM__URL", url);
        Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"))
    }

    /// The same with one more variable.
    pub fn serve_to_with(&self, url: &str, name: &str, value: &std::path::Path) -> Process {
        let mut command = self.command(&["serve"]);
        command.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_UPSTREAM__URL", url).env(name, value);
        Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"))
    }

    pub fn serve_as(&self, arguments: &[&str]) -> Process {
        Self::start(self.command(arguments))
    }

    /// `serve` with a limit of open files, as `ulimit` takes it.
    pub fn serve_within(&self, limit: &str) -> Process {
        let relay = self.command(&["serve"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")]).arg(relay.get_program()).args(relay.get_args());
        shell.current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in relay.get_envs() {
            shell.env_remove(name);
        }
        Self::start(shell)
    }

    fn start(mut command: Command) -> Process {
        command.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_UPSTREAM__URL", "file:outbox");
        Process::start(command.env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]"))
    }
}

pub fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What a command shows on a terminal of its own.
pub fn at_terminal(command: &mut Command) -> String {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&screen).and_then(|()| unlockpt(&screen)).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
    const NOCTTY: i32 = 0o400;
    let terminal = std::fs::OpenOptions::new().read(true).write(true).custom_flags(NOCTTY).open(name).unwrap();
    let mut child = command.stdout(terminal).stderr(Stdio::null()).spawn().unwrap();
    // Our own end of it goes, so that the last one is the command's.
    command.stdout(Stdio::null());
    let mut shown = Vec::new();
    // Its end is told as an error.
    let _ = std::fs::File::from(screen).read_to_end(&mut shown);
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

/// A relay that runs.
pub struct Process {
    pub address: SocketAddr,
    /// Everything that it has said so far on stderr.
    pub said: Vec<String>,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                // Nobody reads on where the test has ended.
                let _ = sender.send(line.unwrap());
            }
        });
        let mut process = Self { address: SocketAddr::from(([0; 4], 0)), said: Vec::new(), child, lines };
        // Whoever asked for a form for programs is told nothing else.
        let first = process.line("");
        let is_syslog = first.contains(" optout-relay[");
        let address = match serde_json::from_str::<serde_json::Value>(&first) {
            Ok(started) => started["listen"].as_str().map(str::to_owned),
            Err(_) if is_syslog => first.split("listen=").nth(1).and_then(|rest| Some(rest.split('"').nth(1)?.to_owned())),
            Err(_) => process.line("listens on").split_whitespace().last().map(str::to_owned),
        };
        process.address = address.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("{:?}", process.said));
        if !first.starts_with('{') && !is_syslog {
            // The last line of the announcement.
            process.line("try it");
        }
        process
    }

    /// Waits for a line that holds the text.
    pub fn line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("{text:?} was not said ({error}), but:\n{}", self.said.join("\n")),
            }
        }
    }

    /// Has said it, or says it yet: log and announcement are written by two hands, in no certain order.
    pub fn says(&mut self, text: &str) -> String {
        let said = self.said.iter().find(|line| line.contains(text)).cloned();
        said.unwrap_or_else(|| self.line(text))
    }

    /// Says nothing more for a while.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        match self.lines.recv_timeout(time) {
            Ok(line) => {
                self.said.push(line);
                false
            }
            Err(error) => error == RecvTimeoutError::Timeout,
        }
    }

    /// How many files it has open, those aside that it opens for a moment only; only root may look into a process that keeps its
    /// memory to itself.
    pub fn open_files(&self) -> Option<usize> {
        let look = |_| {
            std::thread::sleep(Duration::from_millis(5));
            Some(std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).ok()?.count())
        };
        (0..40).map(look).min()?
    }

    pub fn count(&self, text: &str) -> usize {
        self.said.iter().filter(|line| line.contains(text)).count()
    }

    pub fn signal(&self, name: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits until it ends by itself: exit code, and what it has written to stdout.
    pub fn end(&mut self) -> (i32, String) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end, but said:\n{}", self.said.join("\n")),
            }
        }
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code().unwrap(), out)
    }

    /// Sends a signal until it ends by it: a first one may go to a handler that lets the next one through.
    pub fn die(&mut self, name: &str) -> ExitStatus {
        loop {
            self.signal(name);
            std::thread::sleep(Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn stop(&mut self) {
        self.signal("TERM");
        assert_eq!(self.end(), (0, String::new()));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

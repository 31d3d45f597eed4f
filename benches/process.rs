//! The release binary as a process of its own, in a folder of its own, and what the system says of its memory. Ends with
//! its value, whatever happens.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Nothing that is waited for takes so long, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running relay. Its log goes into a file, as it would in use.
pub struct Relay {
    folder: TempDir,
    process: Child,
    /// How long it took from the start to the first address that it listens on: all lists are in force.
    pub started_in: Duration,
    /// Where it listens.
    pub address: SocketAddr,
}

/// In bytes.
#[derive(Clone, Copy)]
pub struct Memory {
    /// Resident now (VmRSS).
    pub resident: u64,
    /// Resident at most, since the start (VmHWM).
    pub peak: u64,
}

impl Relay {
    /// Starts it with one list, before `upstream` (`smtp://…` or `file:…`).
    pub fn start(list: &Path, upstream: &str, answer: &str) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            "hostname = \"relay.bench.example\"\nstate_dir = {:?}\nlisten.smtp = [\"127.0.0.1:0\"]\nupstream.url = {upstream:?}\nopt_out.lists = [{list:?}]\ndelivery.answer = {answer:?}\n",
            at("var")
        );
        fs::write(at("relay.toml"), config)?;
        let begun = Instant::now();
        let process = Command::new(env!("CARGO_BIN_EXE_optout-relay"))
            .arg("--config")
            .arg(at("relay.toml"))
            .arg("serve")
            .stdin(Stdio::null())
            .stderr(File::create(at("log"))?)
            .spawn()?;
        let mut relay = Self { folder, process, started_in: Duration::ZERO, address: SocketAddr::from(([0; 4], 0)) };
        let line = relay.wait_for("started listen=\"")?;
        relay.started_in = begun.elapsed();
        let address = line.split("listen=\"").nth(1).and_then(|rest| rest.split('"').next());
        relay.address = address.and_then(|text| text.parse().ok()).ok_or_else(|| io::Error::other(line.clone()))?;
        Ok(relay)
    }

    /// Waits for a line in the log that holds `words`, and returns it.
    pub fn wait_for(&mut self, words: &str) -> io::Result<String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let log = fs::read_to_string(self.log())?;
            if let Some(line) = log.split_inclusive('\n').find(|line| line.contains(words) && line.ends_with('\n')) {
                return Ok(line.to_owned());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(io::Error::other(format!("the relay ended, {status}: {log}")));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Err(io::Error::other(format!("the relay does not say `{words}`")))
    }

    /// What the system says of it.
    pub fn memory(&self) -> io::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            kib.map(|kib| kib << 10).ok_or_else(|| io::Error::other(format!("no {name} in its status")))
        };
        Ok(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A process that has ended by itself cannot be killed, and that is as well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

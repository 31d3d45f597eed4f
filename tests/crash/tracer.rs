//! strace at a running relay: it writes down system calls, and makes them wait.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::clock::until;

/// How long strace takes to let go of a process.
const LETS_GO: Duration = Duration::from_millis(200);

/// strace, attached to a process and all threads that it has or begins.
pub struct Tracer(Child);

impl Tracer {
    /// Whether strace is there and may follow a process that is not its child.
    pub fn works() -> Result<(), String> {
        let mut sleeper = Command::new("sleep").arg("5").spawn().unwrap();
        let attached = Tracer::try_attach(sleeper.id(), "fsync", "", Path::new("/dev/null"));
        // It may have ended with its tracer.
        let _ = sleeper.kill();
        let _ = sleeper.wait();
        attached.map(drop).map_err(|said| format!("strace cannot follow a process here: {said}"))
    }

    /// What is done to which call: a word for its `-e inject=`, or nothing.
    pub fn attach(process: u32, calls: &str, inject: &str, log: &Path) -> Self {
        Self::try_attach(process, calls, inject, log).unwrap_or_else(|said| panic!("strace: {said}"))
    }

    fn try_attach(process: u32, calls: &str, inject: &str, log: &Path) -> Result<Self, String> {
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-y", "-p", &process.to_string(), "-e", &format!("trace={calls}"), "-e", "signal=none", "-o"])
            .arg(log);
        if !inject.is_empty() {
            strace.args(["-e", &format!("inject={inject}")]);
        }
        let started = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut strace = started.map_err(|error| error.to_string())?;
        let (mut lines, mut said) = (BufReader::new(strace.stderr.take().unwrap()), String::new());
        while lines.read_line(&mut said).unwrap_or(0) > 0 {
            if said.contains(" attached") {
                // Nobody reads what it says from here on, but it must not meet a closed pipe.
                std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
                return Ok(Self(strace));
            }
        }
        let _ = strace.wait();
        Err(said.trim().to_owned())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SIGTERM lets go of a process that lives. Of one that died while it was made to wait, strace takes no notice.
        let _ = Command::new("sh").args(["-c", &format!("kill -TERM {} 2>/dev/null", self.0.id())]).status();
        if !until(LETS_GO, || matches!(self.0.try_wait(), Ok(Some(_)))) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Calls of this kind that were entered.
pub fn entries(log: &str, kind: &str) -> usize {
    let names: Vec<_> = kind.split(',').map(|name| format!(" {}(", name.trim_start_matches('?'))).collect();
    log.lines().filter(|line| names.iter().any(|name| line.contains(name.as_str()))).count()
}

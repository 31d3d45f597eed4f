//! Dialogues as data: every file in `dialogues/` is a relay of its own, what a tool says to it, what it must answer,
//! and what must be in the outbox and in the suppression log afterwards. `dialogues/README.md` has the notation.

use std::path::{Path, PathBuf};

use crate::rig::{Client, Plan, Relay};

/// A file, read.
#[derive(Default)]
struct Dialogue {
    config: String,
    list: String,
    users: String,
    outbox: Vec<String>,
    suppressed: Vec<String>,
    steps: Vec<(usize, Step)>,
}

enum Step {
    /// `= connect`
    Connect,
    /// `= talk first`: connect and send before the relay can greet.
    TalkFirst,
    /// `= stop`
    Stop,
    /// `= break the log`
    BreakLog,
    /// `->` with CRLF, `>>` without.
    Send(Vec<u8>),
    /// `<-`: the next line begins so; `<=`: the next line is so.
    Hear { text: String, exact: bool, times: usize },
    /// `<- EOF`
    HungUp,
}

#[tokio::test]
async fn every_dialogue_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dialogues");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
    files.sort();
    let mut steps = 0;
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy();
        let dialogue = Dialogue::read(&name, &std::fs::read_to_string(file).unwrap());
        steps += dialogue.steps.len();
        dialogue.run(&name).await;
    }
    // A runner that finds nothing to run proves nothing.
    assert!(files.len() >= MIN_FILES && steps >= MIN_STEPS, "only {} files with {steps} steps", files.len());
}

/// Raise them with the dialogues.
const MIN_FILES: usize = 31;
const MIN_STEPS: usize = 1080;

impl Dialogue {
    fn read(name: &str, text: &str) -> Self {
        let mut dialogue = Self::default();
        for (at, line) in text.lines().enumerate() {
            let (mark, rest) = line.split_once(' ').unwrap_or((line, ""));
            match mark {
                "" | "#" => {}
                "config|" => dialogue.config.extend([rest, "\n"]),
                "list|" => dialogue.list.extend([rest, "\n"]),
                "users|" => dialogue.users.extend([rest, "\n"]),
                "outbox|" => dialogue.outbox.push(rest.to_owned()),
                "suppressed|" => dialogue.suppressed.push(rest.to_owned()),
                _ => dialogue.steps.push((at + 1, step(mark, rest).unwrap_or_else(|| panic!("{name}:{}: {line}", at + 1)))),
            }
        }
        assert!(!dialogue.steps.is_empty(), "{name} says nothing");
        dialogue
    }

    async fn run(self, name: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("users.toml"), self.users).unwrap();
        let relay = Relay::start_in(folder, Plan { config: &self.config, list: &self.list, upstream: "" }).await;
        let mut client = Client::connect(relay.address).await;
        for (line, step) in self.steps {
            let place = format!("{name}:{line}");
            match step {
                Step::Connect => client = Client::connect(relay.address).await,
                Step::TalkFirst => client = Client::talk_first(relay.address, b"GET / HTTP/1.1\r\n"),
                Step::Stop => relay.control.stop(),
                Step::BreakLog => relay.break_log().await,
                // If the relay has hung up, the next thing that is heard tells.
                Step::Send(bytes) => drop(client.try_send(&bytes).await),
                Step::HungUp => assert_eq!(client.line().await, None, "{place}"),
                Step::Hear { text, exact, times } => {
                    for _ in 0..times {
                        let heard = client.line().await.unwrap_or_else(|| panic!("{place}: the relay has hung up"));
                        let fits = if exact { heard == text } else { heard.starts_with(&text) };
                        assert!(fits, "{place}: heard {heard:?}, wants {text:?}");
                    }
                }
            }
        }
        drop(client);
        // Reports go out on their own.
        relay.drain().await;
        let sent: Vec<_> = relay.outbox().iter().map(|(_, envelope)| summary(envelope)).collect();
        assert_eq!(sent, self.outbox, "{name}: the outbox");
        let suppressed: Vec<_> = relay.suppressed().iter().map(suppression).collect();
        assert_eq!(suppressed, self.suppressed, "{name}: the suppression log");
        assert!(relay.stop().await, "{name}: the relay does not stop in time");
    }
}

fn step(mark: &str, rest: &str) -> Option<Step> {
    let (mark, times) = match mark.split_once('*') {
        Some((mark, times)) => (mark, times.parse().ok()?),
        None => (mark, 1),
    };
    let text = || String::from_utf8(unescaped(rest)).ok();
    Some(match (mark, rest) {
        ("=", "connect") => Step::Connect,
        ("=", "talk first") => Step::TalkFirst,
        ("=", "stop") => Step::Stop,
        ("=", "break the log") => Step::BreakLog,
        ("->", _) => Step::Send([unescaped(rest), b"\r\n".to_vec()].concat().repeat(times)),
        (">>", _) => Step::Send(unescaped(rest).repeat(times)),
        ("<-", "EOF") => Step::HungUp,
        ("<-", _) => Step::Hear { text: text()?, exact: false, times },
        ("<=", _) => Step::Hear { text: text()?, exact: true, times },
        _ => return None,
    })
}

/// `\r \n \0 \t \\ \xff`; anything else stays.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, used) = match (first, tail) {
            (b'\\', [b'r', ..]) => (b'\r', 2),
            (b'\\', [b'n', ..]) => (b'\n', 2),
            (b'\\', [b't', ..]) => (b'\t', 2),
            (b'\\', [b'0', ..]) => (0, 2),
            (b'\\', [b'\\', ..]) => (b'\\', 2),
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                (u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap(), 4)
            }
            (byte, _) => (*byte, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes
}

/// `sender: recipient recipient`
fn summary(envelope: &serde_json::Value) -> String {
    let recipients: Vec<_> = envelope["recipients"].as_array().unwrap().iter().map(|to| to.as_str().unwrap()).collect();
    format!("{}: {}", envelope["sender"].as_str().unwrap(), recipients.join(" "))
}

/// `recipient action`, and the event where it is not the usual one.
fn suppression(event: &serde_json::Value) -> String {
    let word = |key: &str| event[key].as_str().unwrap().to_owned();
    let line = format!("{} {}", word("recipient"), word("action"));
    if event["event"] == "suppressed" { line } else { format!("{line} {}", word("event")) }
}

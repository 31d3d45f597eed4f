//! `try`: a test mail through the relay that runs, told step by step, and what became of it. Never a way around the judge: it is a
//! tool like any other.

mod ending;

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{Read, Write, stdout};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use jiff::Timestamp;
use serde::Serialize;

use super::caller::{Caller, STEP, Said};
use super::paint::{self, Tone};
use super::{Done, Exit, Failure, password};
use crate::config::{Config, HostRoute, Route};
use crate::mail::{Address, Id, Probe, ReversePath, clean};
use ending::{Ending, Outcome};

const EXAMPLES: &str = "Examples:
  optout-relay try buyer@example.org
  optout-relay try buyer@example.org --from shop@shop-a.example
  optout-relay try me@example.com --user feedback-tool --body letter.txt
  optout-relay try buyer@example.org --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Who is mailed, unless they have opted out
    #[arg(value_name = "ADDRESS")]
    to: String,
    /// Envelope sender [default: the user of `upstream.url`, or test@ and our host name]
    #[arg(long, value_name = "SENDER")]
    from: Option<String>,
    /// What the mail says, in a file of UTF-8 text
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Log in as this user; the password is asked for at a terminal, and otherwise the first line of standard input
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// One step of the dialogue. The names are public: people script against them.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    ok: bool,
    /// In plain words.
    words: String,
    /// As the relay has said it.
    reply: String,
}

/// The mail as it is to go.
struct Letter {
    from: ReversePath,
    to: Address,
    /// The word by which log and spool know it.
    mark: String,
    message_id: String,
    text: String,
}

/// Exit 0: it was forwarded. 1: suppressed or refused. 75: it waits, or the relay cannot take it now. 69: no relay answers.
pub fn run(config: &Config, arguments: &Arguments) -> Done {
    let letter = Letter::new(config, arguments)?;
    let login = arguments.user.as_deref().map(|name| Ok::<_, Failure>((name, password::once(name)?))).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Exit::Unavailable, format_args!("start the runtime: {e}")))?;
    let begun = Timestamp::now();
    let mut steps = Steps { told: Vec::new(), silent: arguments.json };
    let heard = runtime.block_on(talk(config, &letter, login, &mut steps))?;
    let outcome = ending::find(config, &letter, &heard, begun);
    if arguments.json {
        let told = serde_json::json!({
            "ending": outcome.ending, "id": outcome.id, "message_id": letter.message_id, "steps": steps.told,
            "rule": outcome.rule, "reply": outcome.reply, "words": outcome.words,
        });
        writeln!(stdout(), "{told}")?;
    } else {
        outcome.tell()?;
    }
    Ok(outcome.ending.exit())
}

impl Letter {
    fn new(config: &Config, arguments: &Arguments) -> Result<Self, Failure> {
        let parse = |text: &str| {
            Address::parse(text.trim()).map_err(|e| Failure::new(Exit::Data, format_args!("`{}`: {e}", clean(text, 320))))
        };
        let to = parse(&arguments.to)?;
        let from = match arguments.from.as_deref() {
            Some("" | "<>") => ReversePath::Null,
            Some(text) => ReversePath::Address(parse(text)?),
            None => ReversePath::Address(usual_sender(config)?),
        };
        let text = match &arguments.body {
            Some(path) => read(path, config.file.listen.max_message_size.0)?,
            None => format!("This is a test, sent by `optout-relay try` on {}.", config.hostname),
        };
        let now = Timestamp::now();
        let chance = RandomState::new().hash_one(std::process::id()) as u32;
        let mark = format!("try-{}", Id::new(u64::try_from(now.as_microsecond()).unwrap_or_default(), chance));
        let message_id = format!("{mark}@{}", config.hostname);
        let null = format!("postmaster@{}", config.hostname);
        let author = if from == ReversePath::Null { null.as_str() } else { from.as_str() };
        let text = Probe { from: author, to: to.as_str(), message_id: &message_id, time: now, text: &text }.mail();
        Ok(Self { from, to, mark, message_id, text })
    }

    /// Between 354 and the end.
    fn wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(self.text.len() + 3);
        for line in self.text.split_inclusive("\r\n") {
            if line.starts_with('.') {
                wire.push(b'.');
            }
            wire.extend_from_slice(line.as_bytes());
        }
        wire.extend_from_slice(b".\r\n");
        wire
    }

    fn needs_utf8(&self) -> bool {
        !self.from.as_str().is_ascii() || !self.to.as_str().is_ascii()
    }
}

/// As most tools of this relay send.
fn usual_sender(config: &Config) -> Result<Address, Failure> {
    let user = match &config.route {
        Route::Host(HostRoute { user: Some(user), .. }) => Address::parse(user).ok(),
        _ => None,
    };
    let ours = || Address::parse(&format!("test@{}", config.hostname));
    let none = |e| Failure::new(Exit::Usage, format_args!("test@{}: {e}\nhint: say --from SENDER", config.hostname));
    user.map_or_else(|| ours().map_err(none), Ok)
}

fn read(path: &Path, max: u64) -> Result<String, Failure> {
    let failed = |e: std::io::Error| {
        let exit = match e.kind() {
            std::io::ErrorKind::NotFound => Exit::NoInput,
            std::io::ErrorKind::InvalidData => Exit::Data,
            _ => Exit::Io,
        };
        Failure::new(exit, format_args!("read {}: {e}\nhint: --body names a file of UTF-8 text", path.display()))
    };
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(max.saturating_add(1)).read_to_string(&mut text)).map_err(failed)?;
    if read as u64 > max {
        let text = format_args!("{}: is larger than listen.max_message_size, so no relay takes it", path.display());
        return Err(Failure::new(Exit::Data, text));
    }
    Ok(text)
}

/// What was said so far, told as it happens.
struct Steps {
    told: Vec<Step>,
    silent: bool,
}

impl Steps {
    /// Whether it goes on.
    fn add(&mut self, step: &'static str, said: &Said, good: &str, bad: &str) -> Result<bool, Failure> {
        let ok = said.is_positive();
        let words = if ok { good } else { bad }.to_owned();
        let step = Step { step, ok, words, reply: clean(&said.to_string(), 600) };
        if !self.silent {
            let word = if ok { paint::word(Tone::Good, "ok") } else { paint::word(Tone::Bad, "no") };
            writeln!(stdout(), "{word}: {} — {}: {}", step.step, step.words, step.reply)?;
        }
        self.told.push(step);
        Ok(ok)
    }
}

/// The last thing that the relay has said.
async fn talk(config: &Config, letter: &Letter, login: Option<(&str, String)>, steps: &mut Steps) -> Result<Said, Failure> {
    let (mut caller, greeting, mut encrypted) = call(config).await?;
    if !steps.add("connect", &greeting, "the relay answers", "whoever answers does not want us")? {
        return Ok(greeting);
    }
    let lost =
        |e: std::io::Error| Failure::new(Exit::Later, format_args!("the relay has not answered: {e}\nhint: its log tells why"));
    let hello = format!("EHLO {}", letter.mark);
    let mut offer = caller.ask(&hello).await.map_err(lost)?;
    steps.add("EHLO", &offer, "it speaks with us", "it does not speak with us")?;
    if !encrypted && offer.offers("STARTTLS") && (login.is_some() || config.file.listen.require_tls) {
        let said = caller.ask("STARTTLS").await.map_err(lost)?;
        if !steps.add("STARTTLS", &said, "from here on it is encrypted", "it does not encrypt")? {
            return Ok(said);
        }
        caller = caller.encrypt().await.map_err(lost)?;
        encrypted = true;
        offer = caller.ask(&hello).await.map_err(lost)?;
        steps.add("EHLO", &offer, "it speaks with us", "it does not speak with us")?;
    }
    if let Some((name, password)) = login {
        let word = BASE64_STANDARD.encode(format!("\0{name}\0{password}"));
        let said = caller.ask(&format!("AUTH PLAIN {word}")).await.map_err(lost)?;
        let bad = if encrypted { "the login is not taken" } else { "the login is not taken; it may need listen.certificate" };
        if !steps.add("AUTH", &said, "the login is taken", bad)? {
            return Ok(said);
        }
    }
    let body = if letter.text.is_ascii() { "" } else { " BODY=8BITMIME" };
    let utf8 = if letter.needs_utf8() { " SMTPUTF8" } else { "" };
    let said = caller.ask(&format!("MAIL FROM:<{}>{body}{utf8}", letter.from)).await.map_err(lost)?;
    let bad = if said.code == 530 { "it wants a login: say --user NAME" } else { "the sender is not taken" };
    if !steps.add("MAIL", &said, "the sender is taken", bad)? {
        return Ok(said);
    }
    let said = caller.ask(&format!("RCPT TO:<{}>", letter.to)).await.map_err(lost)?;
    if !steps.add("RCPT", &said, "the recipient is taken", "the recipient is not taken, and nothing is sent")? {
        return Ok(said);
    }
    let said = caller.ask("DATA").await.map_err(lost)?;
    if !steps.add("DATA", &said, "it waits for the mail", "it does not want the mail now")? {
        return Ok(said);
    }
    // Meanwhile the mail host is asked.
    let patience = config.file.delivery.patience.saturating_add(3 * STEP);
    let said = caller.send(&letter.wire(), patience).await.map_err(lost)?;
    steps.add("end of mail", &said, "the mail is taken", "the mail is not taken")?;
    caller.quit().await;
    Ok(said)
}

/// The first listener that answers, its greeting, and whether it is encrypted already.
async fn call(config: &Config) -> Result<(Caller, Said, bool), Failure> {
    let listen = &config.file.listen;
    let smtp = listen.smtp.iter().map(|address| (*address, false));
    let all: Vec<(SocketAddr, bool)> = smtp.chain(listen.submissions.iter().map(|address| (*address, true))).collect();
    let mut failed = Vec::new();
    for (address, encrypted) in all {
        match Caller::connect(address, encrypted).await {
            Ok((_, greeting)) if greeting.is_positive() && !greeting.greets_as_relay() => {
                failed.push(format!("{address}: another program, which says {}", clean(&greeting.to_string(), 200)));
            }
            Ok((caller, greeting)) => return Ok((caller, greeting, encrypted)),
            Err(error) => failed.push(format!("{address}: {error}")),
        }
    }
    let text =
        format!("no relay answers ({})\nhint: start it: systemctl start optout-relay, or optout-relay serve", failed.join("; "));
    Err(Failure::new(Exit::Unavailable, text))
}

impl Ending {
    fn exit(self) -> Exit {
        match self {
            Self::Forwarded => Exit::Ok,
            Self::Suppressed | Self::Refused | Self::Learned => Exit::No,
            Self::Held | Self::Later => Exit::Later,
        }
    }
}

impl Outcome {
    fn tell(&self) -> std::io::Result<()> {
        let (word, tone) = match self.ending {
            Ending::Forwarded => ("forwarded", Tone::Good),
            Ending::Suppressed => ("suppressed", Tone::Bad),
            Ending::Refused => ("refused", Tone::Bad),
            Ending::Learned => ("learned from", Tone::Doubtful),
            Ending::Held => ("held", Tone::Doubtful),
            Ending::Later => ("not taken now", Tone::Doubtful),
        };
        writeln!(stdout(), "{}: {}", paint::word(tone, word), paint::line(&self.words, 1000))
    }
}

//! `spool`: shows held mail, has it tried now, drops it. Safe while the relay runs: then the relay is asked, and otherwise
//! nobody can start one meanwhile.

use std::io::{self, BufWriter, IsTerminal, Write, stdin, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use humantime_serde::re::humantime::format_duration;
use jiff::Timestamp;

use super::paint::{self, Tone};
use super::{Done, Exit, Failure, json_line, talk};
use crate::admin::held;
use crate::config::Config;
use crate::mail::{Id, Outcome, Stage};
use crate::spool::{self, CORRUPT, OpenError, Record, Request, Spool, Wanted};

const SHOW_EXAMPLES: &str = "Examples:
  optout-relay spool show
  optout-relay spool show 06g5q8w4k0000abcd        with where it came from, and its size
  optout-relay spool show --json";

const RETRY_EXAMPLES: &str = "Examples:
  optout-relay spool retry                          all of it, when the mail host is back
  optout-relay spool retry 06g5q8w4k0000abcd";

const DROP_EXAMPLES: &str = "Examples:
  optout-relay spool drop 06g5q8w4k0000abcd
  optout-relay spool drop 06g5q8w4k0000abcd --yes";

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print what is held: for whom, why, and when it is tried again
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// Only this message
        #[arg(value_parser = id)]
        id: Option<Id>,
        /// One JSON object a message
        #[arg(long)]
        json: bool,
    },
    /// Try one message now, or all
    #[command(after_help = RETRY_EXAMPLES)]
    Retry {
        /// A message, or `all`
        #[arg(default_value = "all", value_name = "ID|all")]
        which: Which,
    },
    /// Forget a message: nobody gets it, and nobody is told
    #[command(after_help = DROP_EXAMPLES)]
    Drop {
        /// As `spool show` prints it
        #[arg(value_parser = id)]
        id: Id,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// One or all.
#[derive(Clone, Copy, Debug)]
pub struct Which(Option<Id>);

impl std::str::FromStr for Which {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" { Ok(Self(None)) } else { id(text).map(|id| Self(Some(id))) }
    }
}

fn id(text: &str) -> Result<Id, &'static str> {
    Id::parse(text).ok_or("an id has 17 letters and digits; `optout-relay spool show` tells them")
}

/// How long a relay that runs is given to hear a wish.
const HEARD_WITHIN: Duration = Duration::from_secs(10);

pub fn run(config: &Config, command: &Command) -> Done {
    let folder = config.spool();
    match command {
        Command::Show { id, json: true } => show_json(&folder, *id),
        Command::Show { id, json: false } => show(&folder, *id),
        Command::Retry { which: Which(which) } => {
            let count = spool::records(&folder, *which).map_err(|e| unreadable(&folder, &e))?.count();
            if count == 0 {
                return Ok(nothing(*which));
            }
            wish(config, Request { which: *which, wanted: Wanted::Retry })?;
            talk(&format!("{count} to be tried now"));
            Ok(Exit::Ok)
        }
        Command::Drop { id, yes } => drop_one(config, &folder, *id, *yes),
    }
}

fn show(folder: &Path, which: Option<Id>) -> Done {
    let mut out = BufWriter::new(stdout().lock());
    let (mut count, now) = (0, Timestamp::now());
    for (id, record) in spool::records(folder, which).map_err(|e| unreadable(folder, &e))? {
        count += 1;
        match record {
            Ok(record) => tell(&mut out, &record, now, which.is_some())?,
            Err(error) => writeln!(out, "{id}  {error}")?,
        }
    }
    out.flush()?;
    if count == 0 {
        return Ok(nothing(which));
    }
    talk(&format!("{count} held"));
    Ok(Exit::Ok)
}

/// Exit 1 where one was asked for that is not held.
fn show_json(folder: &Path, which: Option<Id>) -> Done {
    let (mut out, mut exit) = (BufWriter::new(stdout().lock()), which.map_or(Exit::Ok, |_| Exit::No));
    for (id, record) in spool::records(folder, which).map_err(|e| unreadable(folder, &e))? {
        exit = Exit::Ok;
        json_line(&mut out, &held(id, record))?;
    }
    out.flush()?;
    Ok(exit)
}

/// An empty spool is good news; a message that is not there is a "no".
fn nothing(which: Option<Id>) -> Exit {
    match which {
        Some(id) => {
            talk(&format!("{id} is not held: it was delivered, given up or dropped; the log tells"));
            Exit::No
        }
        None => {
            talk("nothing is held");
            Exit::Ok
        }
    }
}

fn tell(out: &mut impl Write, record: &Record, now: Timestamp, fully: bool) -> std::io::Result<()> {
    let since = |moment: Timestamp| Duration::try_from(now.duration_since(moment)).unwrap_or_default();
    let until = Duration::try_from(record.next.duration_since(now)).unwrap_or_default();
    let ended_at = |stage| move |outcome: &Outcome| matches!(outcome, Outcome::Deferred(status) if status.stage == stage);
    let mut last = record.outcomes.iter().flatten();
    let next = match until.as_secs() {
        _ if record.in_flight() => "is tried now".to_owned(),
        0 if last.clone().any(ended_at(Stage::Connect)) => "until the mail host is back".to_owned(),
        0 if last.any(ended_at(Stage::Login)) => "until the mail host takes the login".to_owned(),
        0 => "is due now".to_owned(),
        _ => format!("is tried again in {}", rounded(until)),
    };
    let sender = if record.is_report() { "<> (a report)" } else { record.envelope.sender.as_str() };
    let times = match record.attempts {
        0 => String::new(),
        1 => ", was tried once".to_owned(),
        more => format!(", was tried {more} times"),
    };
    let waits = rounded(since(record.arrived));
    writeln!(out, "{}  from {sender}, waits for {waits}{times}, {next}", record.envelope.id)?;
    if fully {
        let client = &record.envelope.client;
        writeln!(out, "  arrived  {} from {} ({})", record.arrived, client.ip, client.helo)?;
        writeln!(out, "  size     {} bytes", record.size)?;
    }
    for (recipient, outcome) in record.envelope.recipients.iter().zip(&record.outcomes) {
        let (state, tone) = match outcome {
            None | Some(Outcome::Deferred(_)) => ("waiting", Tone::Doubtful),
            Some(Outcome::Delivered(_)) => ("delivered", Tone::Good),
            Some(Outcome::Refused(_)) => ("refused", Tone::Bad),
            Some(Outcome::Suppressed { .. }) => ("suppressed", Tone::Bad),
        };
        let state = paint::word(tone, &format!("{state:10}"));
        let said = outcome.as_ref().map_or_else(|| "not tried yet".to_owned(), |outcome| outcome.status().to_string());
        writeln!(out, "  {state} {}: {said}", recipient.address)?;
    }
    Ok(())
}

/// Whole seconds, and of hours and days no seconds.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    let shown = if seconds >= 3600 { seconds / 60 * 60 } else { seconds };
    format_duration(Duration::from_secs(shown)).to_string()
}

fn drop_one(config: &Config, folder: &Path, id: Id, yes: bool) -> Done {
    let held = || Ok::<_, Failure>(spool::records(folder, Some(id)).map_err(|e| unreadable(folder, &e))?.next());
    let Some((_, record)) = held()? else { return Ok(nothing(Some(id))) };
    if !yes {
        if !stdin().is_terminal() {
            return Err(Failure::new(Exit::Usage, "nobody is here to confirm it\nhint: say --yes"));
        }
        if let Ok(record) = &record {
            tell(&mut stdout(), record, Timestamp::now(), true)?;
        }
        talk("Drop it? Nobody gets it, and its sender is not told. [y/N]");
        let mut answer = String::new();
        stdin().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            return Ok(Exit::No);
        }
    }
    wish(config, Request { which: Some(id), wanted: Wanted::Drop })?;
    if held()?.is_some() {
        return Err(Failure::new(Exit::Io, format_args!("{id} is still held\nhint: the relay's log tells why")));
    }
    talk(&format!("{id} dropped"));
    Ok(Exit::Ok)
}

/// Has it done by the relay that runs, or does it where none does.
fn wish(config: &Config, request: Request) -> Result<(), Failure> {
    let folder = config.spool();
    // What another user writes the relay could not read.
    if spool::owner(&folder).is_some_and(|owner| owner != rustix::process::geteuid().as_raw()) {
        let wrong = io::Error::new(io::ErrorKind::PermissionDenied, "the spool is another user's");
        return Err(unwritable(&folder, &wrong));
    }
    match Spool::open(&folder, config.rhythm(), 0) {
        Ok((spool, _)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            let runtime = runtime.map_err(|e| Failure::new(Exit::Unavailable, format_args!("start the runtime: {e}")))?;
            let done = runtime.block_on(async {
                for (id, _) in spool::records(&folder, request.which)? {
                    match request.wanted {
                        Wanted::Drop => drop(spool.forget(id)?),
                        Wanted::Retry => match spool.lend(id).await {
                            Some(lent) => lent.hurry().await?,
                            None => talk(&format!("{id} cannot be read; what is damaged is now in `{CORRUPT}`")),
                        },
                    }
                }
                Ok::<_, std::io::Error>(())
            });
            done.map_err(|e| unwritable(&folder, &e))
        }
        Err(OpenError::InUse(_)) => {
            let asked = request.ask(&folder).map_err(|e| unwritable(&folder, &e))?;
            let end = Instant::now() + HEARD_WITHIN;
            while asked.exists() {
                if Instant::now() > end {
                    let hint = "it is under way, and dropped when that is over; or the relay does not run well: see its log";
                    return Err(Failure::new(Exit::Later, format_args!("the relay has not done it yet\nhint: {hint}")));
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        Err(error) => Err(Failure::new(Exit::Io, error)),
    }
}

fn unreadable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Io, format_args!("read {}: {error}\nhint: run this as the relay's user", folder.display()))
}

fn unwritable(folder: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Io, format_args!("write {}: {error}\nhint: run this as the relay's user", folder.display()))
}

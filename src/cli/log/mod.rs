//! `log`: what the logs know. Reads them, also what was rotated away or packed; never changes one.

mod export;
mod follow;
mod report;
mod silent;
mod summary;
mod verify;

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Write, stdout};
use std::ops::ControlFlow;
use std::path::Path;

use jiff::Timestamp;

use super::paint::{self, Tone};
use super::progress::with_bar;
use super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::ledger::{self, First, Found, Line, Question, Whom};
use crate::mail::{Address, clean};
use crate::optout::Action;

pub use silent::silent_intakes;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    show: Show,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "Examples:
  optout-relay log                                     what was not sent, the last 50
  optout-relay log --address buyer@example.org --log all
  optout-relay log --since 7d --sender '*@shop-a.example' --json
  optout-relay log --follow
  optout-relay log verify                              was anything cut or changed?";

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print what was sent to somebody, and what was not, since the notice of the opt-out came
    Report(report::Report),
    /// Count what was not sent: by day, action, rule, sender and source
    Summary(summary::Summary),
    /// Write the lines as a table for spreadsheets (CSV)
    Export(export::Export),
    /// Prove that nothing was cut, changed or moved in the logs
    Verify(verify::Verify),
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    wanted: Wanted,
    /// Only so many, the newest; 0: all. 50, but all where a question is asked
    #[arg(long, value_name = "COUNT")]
    last: Option<usize>,
    /// Print what is written from now on, until Ctrl-C
    #[arg(long, conflicts_with = "last")]
    follow: bool,
    /// One JSON object a line: the lines of the logs as they are
    #[arg(long)]
    json: bool,
}

/// Which lines.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// From this moment on, as in 2026-11-25, 2026-11-25T08:00:00Z, or 7d (seven days ago)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this moment
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// About this address, however it is spelled
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// From this sender; * is any run of characters
    #[arg(long, value_name = "SENDER")]
    sender: Option<String>,
    /// By a rule that holds this text: a list, a line, a kind, an entry
    #[arg(long, value_name = "TEXT")]
    rule: Option<String>,
    /// reject, drop or bounce
    #[arg(long, value_name = "ACTION", value_parser = str::parse::<Action>)]
    action: Option<Action>,
    /// Which log: what was not sent, who was mailed, what was learned, what people did at the admin page, or all by time
    #[arg(long, value_name = "LOG", value_enum, default_value_t = Which::Suppressed)]
    log: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Suppressed,
    Sent,
    Learned,
    Actions,
    All,
}

impl Which {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Suppressed => &["suppressed"],
            Self::Sent => &["sent"],
            Self::Learned => &["learned"],
            Self::Actions => &["actions"],
            Self::All => &["suppressed", "sent", "learned", "actions"],
        }
    }
}

pub fn run(config: &Config, arguments: &Arguments) -> Done {
    match &arguments.command {
        None => arguments.show.run(config),
        Some(Command::Report(report)) => report.run(config),
        Some(Command::Summary(summary)) => summary.run(config),
        Some(Command::Export(export)) => export.run(config),
        Some(Command::Verify(verify)) => verify.run(config),
    }
}

impl Wanted {
    fn question(&self, config: &Config) -> Result<Question, Failure> {
        let now = Timestamp::now();
        let time = |text: &Option<String>| text.as_deref().map(|text| moment(text, now)).transpose();
        Ok(Question {
            since: time(&self.since)?,
            until: time(&self.until)?,
            about: self.address.as_deref().map(|text| whom(config, text)).transpose()?,
            sender: self.sender.as_ref().map(|sender| sender.to_lowercase()),
            rule: self.rule.as_ref().map(|rule| rule.to_lowercase()),
            action: self.action.map(|action| action.to_string()),
            ..Question::default()
        })
    }

    fn is_narrowed(&self) -> bool {
        [&self.since, &self.until, &self.address, &self.sender, &self.rule].iter().any(|given| given.is_some())
            || self.action.is_some()
    }
}

fn whom(config: &Config, text: &str) -> Result<Whom, Failure> {
    let address =
        Address::parse(text.trim()).map_err(|e| Failure::new(Exit::Data, format_args!("`{}`: {e}", clean(text, 320))))?;
    Ok(Whom::new(&address, config.file.opt_out.plus_tags))
}

fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let none = || {
        let hint = "write 2026-11-25, 2026-11-25T08:00:00Z, or 7d for seven days ago";
        Failure::new(Exit::Data, format_args!("`{}` is not a date\nhint: {hint}", clean(text, 60)))
    };
    ledger::moment(text, now).ok_or_else(none)
}

/// Reads logs with a bar. Damaged lines are told; whether there was one.
pub fn search(
    config: &Config,
    names: &[&str],
    question: &Question,
    first: First,
    take: &mut dyn FnMut(&Line, &str) -> io::Result<ControlFlow<()>>,
) -> Result<bool, Failure> {
    let folder = config.logs();
    let unreadable = |e: io::Error| unreadable(&folder, &e);
    let (mut damaged, mut written) = (false, Ok(()));
    let total = ledger::length_of(&folder, names, question).map_err(unreadable)?;
    let read = with_bar(total, |passed| {
        ledger::search(&folder, names, question, first, passed, &mut |found: Found<'_>| {
            let Some(line) = &found.line else {
                damaged = true;
                tell_damaged(&found);
                return ControlFlow::Continue(());
            };
            match take(line, found.text) {
                Ok(flow) => flow,
                Err(error) => {
                    written = Err(error);
                    ControlFlow::Break(())
                }
            }
        })
    });
    read.map_err(unreadable)?;
    written?;
    Ok(damaged)
}

fn unreadable(folder: &Path, error: &io::Error) -> Failure {
    let (exit, hint) = match error.kind() {
        io::ErrorKind::NotFound => (Exit::NoInput, "has the relay run with this configuration, and from this folder?"),
        io::ErrorKind::PermissionDenied => (Exit::Io, "run this as the relay's user"),
        _ => (Exit::Io, "see that the disk is sound"),
    };
    Failure::new(exit, format_args!("read {}: {error}\nhint: {hint}", folder.display()))
}

fn tell_damaged(found: &Found<'_>) {
    let line = if found.number > 0 { format!(":{}", found.number) } else { String::new() };
    talk(&format!("{}{line}: this line is damaged", found.path.display()));
}

impl Show {
    /// Exit 1 where nothing was found, 65 where a line is damaged.
    fn run(&self, config: &Config) -> Done {
        let (question, names) = (self.wanted.question(config)?, self.wanted.log.names());
        let last = self.last.unwrap_or(if self.follow {
            10
        } else if self.wanted.is_narrowed() {
            0
        } else {
            50
        });
        let tail = follow::Tail::new(config, names);
        let mut out = BufWriter::new(stdout().lock());
        let (mut count, mut newest) = (0_usize, Vec::new());
        let first = if last == 0 { First::Oldest } else { First::Newest };
        let damaged = search(config, names, &question, first, &mut |line, text| {
            count += 1;
            if last == 0 {
                self.print(&mut out, line, text)?;
                return Ok(ControlFlow::Continue(()));
            }
            newest.push((line.clone(), text.to_owned()));
            Ok(if newest.len() == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        for (line, text) in newest.iter().rev() {
            self.print(&mut out, line, text)?;
        }
        out.flush()?;
        if self.follow {
            tail.follow(&question, &mut |line, text| {
                self.print(&mut out, line, text)?;
                out.flush()
            })?;
        }
        if count == 0 && !self.json {
            talk("nothing is in the log that answers this");
        } else if last > 0 && count == last && self.last.is_none() && stdout().is_terminal() {
            talk(&format!("the last {last}; more with --last COUNT, all with --last 0"));
        }
        Ok(if damaged {
            Exit::Data
        } else if count == 0 {
            Exit::No
        } else {
            Exit::Ok
        })
    }

    fn print(&self, out: &mut impl Write, line: &Line, text: &str) -> io::Result<()> {
        if self.json { writeln!(out, "{text}") } else { writeln!(out, "{}", painted(line)) }
    }
}

/// The same as [`told`], with what happened in colour where colours are shown.
fn painted(line: &Line) -> String {
    let tone = match line.event.as_str() {
        "sent" | "accepted" => Tone::Good,
        "suppressed" | "failed" => Tone::Bad,
        _ => Tone::Doubtful,
    };
    let text = told(line);
    // Behind the time, which holds no space.
    match text.split_once(&format!("  {}", line.event)) {
        Some((time, rest)) if !line.event.is_empty() => format!("{time}  {}{rest}", paint::word(tone, &line.event)),
        _ => text,
    }
}

/// A line of any log, for people.
pub fn told(line: &Line) -> String {
    let mut text = format!("{}  {}", seconds(&line.time), line.event);
    let mut add = |what: &dyn Display| text.push_str(&what.to_string());
    if !line.action.is_empty() {
        add(&format_args!(" ({})", line.action));
    }
    if let Some(about) = line.about() {
        add(&format_args!("  {about}"));
    }
    if let Some(order) = &line.order {
        add(&format_args!("  order {order}"));
    }
    if !line.who.is_empty() {
        add(&format_args!("  by {} from {}", line.who, line.client));
    } else if !line.id.is_empty() {
        let sender = if line.sender.is_empty() { "<>" } else { &line.sender };
        add(&format_args!("  from {sender}"));
    }
    if let Some(rule) = &line.rule {
        add(&format_args!("  by {rule}"));
    }
    for (name, value) in [("because", &line.reason), ("source", &line.source)] {
        if let Some(value) = value {
            add(&format_args!("  {name}: {value}"));
        }
    }
    if !line.intake.is_empty() {
        add(&format_args!("  by {}", line.intake));
    }
    if !line.upstream.is_empty() {
        add(&format_args!("  {}: {}", line.upstream, line.reply));
    }
    if !line.id.is_empty() {
        add(&format_args!("  id={}", line.id));
    }
    paint::line(&text, 2000)
}

/// Nobody reads nanoseconds.
fn seconds(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(time, _)| format!("{time}Z"))
}

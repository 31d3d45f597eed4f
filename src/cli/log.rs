//! `log`: what the logs know. Reads them line by line, also those that were rotated away; never changes one.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Deserialize;

use super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::ledger::ends_of;
use crate::mail::{Address, PlusTags, clean};

/// A line is no longer; bytes.
const MAX_LINE: u64 = 1 << 20;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print what was sent to somebody, and what was not, since the notice of the opt-out came
    Report(Report),
}

#[derive(Debug, clap::Args)]
pub struct Report {
    /// Whom it is about
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// From this moment on, as in 2026-11-25 or 2026-11-25T08:00:00Z, instead of that of the notice
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// One JSON object a line: the lines of the logs as they are
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, command: &Command) -> Done {
    let Command::Report(report) = command;
    report.run(config)
}

/// What the lines of all three logs have that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    time: String,
    event: String,
    recipient: Option<String>,
    address: Option<String>,
    sender: String,
    message_id: Option<String>,
    id: String,
    since: Option<String>,
    source: Option<String>,
    intake: String,
}

impl Report {
    /// Exit 1 where something was sent after the notice, 65 where a line of a log is damaged.
    fn run(&self, config: &Config) -> Done {
        let address = Address::parse(self.address.trim())
            .map_err(|e| Failure::new(Exit::Data, format_args!("`{}`: {e}", clean(&self.address, 320))))?;
        let logs = Logs {
            folder: config.logs(),
            whom: address.key(config.file.opt_out.plus_tags).to_string(),
            tags: config.file.opt_out.plus_tags,
        };
        let (mut out, mut damaged) = (stdout().lock(), false);
        let mut learned = Vec::new();
        damaged |= logs.read("learned", None, &mut |line, _| learned.push(line))?;
        let since = match &self.since {
            Some(text) => {
                moment(text).ok_or_else(|| Failure::new(Exit::Data, format_args!("`{}` is not a date", clean(text, 60))))?
            }
            None => learned.iter().filter_map(|line| moment(line.since.as_deref()?)).min().ok_or_else(|| {
                Failure::new(
                    Exit::NoInput,
                    format_args!("no notice about {address} is in the log\nhint: say from when on: --since 2026-11-25"),
                )
            })?,
        };
        if !self.json {
            for line in &learned {
                let (source, at) = (line.source.as_deref().unwrap_or("?"), line.since.as_deref().unwrap_or("?"));
                let (event, intake) = (&line.event, &line.intake);
                writeln!(out, "{}", clean(&format!("{}  {event}: {source} of {at}, by {intake}", line.time), 500))?;
            }
            writeln!(out, "{address} since {since}:")?;
        }
        let (mut sent, mut suppressed) = (0, 0);
        for (name, count) in [("sent", &mut sent), ("suppressed", &mut suppressed)] {
            let mut written = Ok(());
            damaged |= logs.read(name, Some(since), &mut |line, text| {
                *count += 1;
                if written.is_ok() {
                    written = if self.json { writeln!(out, "{text}") } else { tell(&mut out, &line) };
                }
            })?;
            written?;
        }
        if !self.json {
            writeln!(out, "{sent} sent, {suppressed} not sent")?;
        }
        Ok(if damaged {
            Exit::Data
        } else if sent > 0 {
            Exit::No
        } else {
            Exit::Ok
        })
    }
}

fn tell(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let Line { time, event, sender, id, message_id, .. } = line;
    let message_id = message_id.as_deref().map(|id| format!(" <{id}>")).unwrap_or_default();
    writeln!(out, "{}", clean(&format!("{time}  {event}: from {sender}, {id}{message_id}"), 1000))
}

/// The logs of one folder, and whose lines are wanted.
struct Logs {
    folder: PathBuf,
    whom: String,
    tags: PlusTags,
}

impl Logs {
    /// Hands over every line about them, the oldest first; whether a line was damaged, which is told.
    fn read(&self, name: &str, since: Option<Timestamp>, take: &mut dyn FnMut(Line, &str)) -> Result<bool, Failure> {
        let mut damaged = false;
        for path in self.files(name, since)? {
            let failed = |e: io::Error| Failure::new(Exit::Io, format_args!("read {}: {e}", path.display()));
            let mut file = BufReader::new(File::open(&path).map_err(failed)?);
            let (mut text, mut number) = (Vec::new(), 0_u64);
            loop {
                text.clear();
                if io::Read::take(&mut file, MAX_LINE).read_until(b'\n', &mut text).map_err(failed)? == 0 {
                    break;
                }
                number += 1;
                let Ok(line) = serde_json::from_slice::<Line>(&text) else {
                    // The last line of the file in use may still be on its way.
                    if text.ends_with(b"\n") {
                        talk(&format!("{}:{number}: this line is damaged", path.display()));
                        damaged = true;
                    }
                    continue;
                };
                let about = line.recipient.as_deref().or(line.address.as_deref());
                let is_late = since.is_none_or(|since| moment(&line.time).is_some_and(|time| time >= since));
                if is_late && about.is_some_and(|about| self.is_whom(about)) {
                    take(line, String::from_utf8_lossy(&text).trim_end());
                }
            }
        }
        Ok(damaged)
    }

    fn is_whom(&self, text: &str) -> bool {
        Address::parse(text).is_ok_and(|address| address.key(self.tags).to_string() == self.whom)
    }

    /// Rotated files by their stamp, without those that ended before `since`; then the one in use.
    fn files(&self, name: &str, since: Option<Timestamp>) -> Result<Vec<PathBuf>, Failure> {
        let unreadable = |e: io::Error| Failure::new(Exit::NoInput, format_args!("read {}: {e}", self.folder.display()));
        let mut rotated = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
            let stamp = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".jsonl"));
            if let Some(stamp) = stamp
                && since.is_none_or(|since| ended(stamp).is_none_or(|ended| ended >= since))
            {
                rotated.push(self.folder.join(file));
            }
        }
        rotated.sort_unstable();
        let current = self.folder.join(format!("{name}.jsonl"));
        rotated.extend(Some(current).filter(|path| Path::exists(path)));
        Ok(rotated)
    }
}

/// When a file was rotated away: the stamp in its name.
fn ended(stamp: &str) -> Option<Timestamp> {
    let [year, month, day, hour, minute, second] =
        [0..4, 4..6, 6..8, 9..11, 11..13, 13..15].map(|range| stamp.get(range).and_then(|digits| digits.parse::<i16>().ok()));
    let time = jiff::civil::DateTime::new(year?, month? as i8, day? as i8, hour? as i8, minute? as i8, second? as i8, 0).ok()?;
    // Its last line came within that second.
    jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.checked_add(jiff::SignedDuration::from_secs(1)).ok()
}

/// A moment, or the beginning of a day.
fn moment(text: &str) -> Option<Timestamp> {
    let day = || {
        text.parse::<jiff::civil::Date>()
            .ok()
            .and_then(|day| jiff::tz::TimeZone::UTC.to_timestamp(day.to_datetime(jiff::civil::Time::MIN)).ok())
    };
    text.parse().ok().or_else(day)
}

/// An intake that has seen no notice for so long while mail was sent has probably stopped working.
const SILENT: jiff::SignedDuration = jiff::SignedDuration::from_hours(60 * 24);

/// What `check` says of intakes that are set up and silent. Reads the ends of the logs only.
pub fn silent_intakes(config: &Config, now: Timestamp) -> Vec<String> {
    let learn = &config.file.learn;
    let set_up =
        [("address", !learn.address.is_empty()), ("folder", config.folder.is_some()), ("imap", config.learning.imap.is_some())];
    let set_up: Vec<_> = set_up.into_iter().filter_map(|(intake, is_set_up)| is_set_up.then_some(intake)).collect();
    let logs = config.logs();
    let sent: Vec<Line> = ends_of(&logs, "sent");
    let (Some(first), Some(last)) =
        (sent.first().and_then(|line| moment(&line.time)), sent.last().and_then(|line| moment(&line.time)))
    else {
        return Vec::new();
    };
    if now.duration_since(last) > SILENT {
        // Nothing was sent that could have had a notice.
        return Vec::new();
    }
    let learned: Vec<Line> = ends_of(&logs, "learned");
    silent(&set_up, &learned, first, now)
}

/// Where nothing at all was learned by an intake, it has been silent since the first mail was sent.
fn silent(set_up: &[&str], learned: &[Line], first_sent: Timestamp, now: Timestamp) -> Vec<String> {
    let last = |intake: &str| learned.iter().filter(|line| line.intake == intake).filter_map(|line| moment(&line.time)).max();
    // One way is enough: whoever has notices come to the mailbox mails none to the address.
    let newest = set_up.iter().filter_map(|intake| last(intake)).max().unwrap_or(first_sent);
    if set_up.is_empty() || now.duration_since(newest) <= SILENT {
        return Vec::new();
    }
    let days = now.duration_since(newest).as_hours() / 24;
    let ways = set_up.join(", ");
    vec![format!(
        "no notice has come in for {days} days while mail was sent (by {ways}); see that the marketplace's notices still reach the relay"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn learned(intake: &str, time: &str) -> Line {
        Line { intake: intake.into(), time: time.into(), ..Line::default() }
    }

    #[test]
    fn who_has_been_silent_for_long_is_told_of() {
        let (now, first) = (at("2026-11-25T12:00:00Z"), at("2026-01-01T00:00:00Z"));
        let told = |set_up: &[&str], lines: &[Line], first| silent(set_up, lines, first, now).len();
        assert_eq!(told(&["address"], &[], first), 1);
        assert_eq!(told(&["address"], &[], at("2026-11-01T00:00:00Z")), 0);
        assert_eq!(told(&[], &[], first), 0);
        assert_eq!(told(&["address", "imap"], &[learned("imap", "2026-11-20T00:00:00Z")], first), 0);
        assert_eq!(told(&["address", "imap"], &[learned("imap", "2026-09-20T00:00:00Z")], first), 1);
        assert_eq!(told(&["imap"], &[learned("command", "2026-11-20T00:00:00Z")], first), 1);
    }

    #[test]
    fn a_stamp_is_the_end_of_a_file() {
        assert_eq!(ended("20261125T081449.711083Z"), Some(at("2026-11-25T08:14:50Z")));
        assert_eq!(ended("x"), None);
        assert_eq!(moment("2026-11-25"), Some(at("2026-11-25T00:00:00Z")));
    }
}

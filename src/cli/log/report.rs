//! `log report`: what somebody was sent since they opted out, for a marketplace or an auditor. Never changes a log.

use std::io::{self, Write, stdout};
use std::ops::ControlFlow;

use jiff::Timestamp;

use super::super::paint;
use super::super::{Done, Exit, Failure};
use super::search;
use crate::config::Config;
use crate::ledger::{First, Line, Question};
use crate::mail::Address;

const EXAMPLES: &str = "Examples:
  optout-relay log report buyer@example.org
  optout-relay log report buyer@example.org --since 2026-11-01 --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
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

impl Report {
    /// Exit 1 where something was sent after the notice, 65 where a line of a log is damaged.
    pub fn run(&self, config: &Config) -> Done {
        let about = Question { about: Some(super::whom(config, &self.address)?), ..Question::default() };
        let (mut out, mut damaged, mut learned) = (stdout().lock(), false, Vec::new());
        damaged |= search(config, &["learned"], &about, First::Oldest, &mut |line, _| {
            learned.push(line.clone());
            Ok(ControlFlow::Continue(()))
        })?;
        let since = self.since(&learned)?;
        if !self.json {
            for line in &learned {
                let (source, at) = (line.source.as_deref().unwrap_or("?"), line.since.as_deref().unwrap_or("?"));
                let (event, intake) = (&line.event, &line.intake);
                writeln!(out, "{}", paint::line(&format!("{}  {event}: {source} of {at}, by {intake}", line.time), 500))?;
            }
            writeln!(out, "{} since {since}:", paint::line(self.address.trim(), 320))?;
        }
        let (mut sent, mut suppressed) = (0, 0);
        let question = Question { since: Some(since), ..about };
        for (name, count) in [("sent", &mut sent), ("suppressed", &mut suppressed)] {
            damaged |= search(config, &[name], &question, First::Oldest, &mut |line, text| {
                *count += 1;
                if self.json {
                    writeln!(out, "{text}")?
                } else {
                    tell(&mut out, line)?
                }
                Ok(ControlFlow::Continue(()))
            })?;
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

    fn since(&self, learned: &[Line]) -> Result<Timestamp, Failure> {
        if let Some(text) = &self.since {
            return super::moment(text, Timestamp::now());
        }
        let noticed = |line: &Line| super::moment(line.since.as_deref()?, Timestamp::now()).ok();
        learned.iter().filter_map(noticed).min().ok_or_else(|| {
            let address = Address::parse(self.address.trim()).map_or_else(|_| String::new(), |address| address.to_string());
            let text = format!("no notice about {address} is in the log\nhint: say from when on: --since 2026-11-25");
            Failure::new(Exit::NoInput, text)
        })
    }
}

fn tell(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let Line { time, event, sender, id, message_id, .. } = line;
    let message_id = message_id.as_deref().map(|id| format!(" <{id}>")).unwrap_or_default();
    writeln!(out, "{}", paint::line(&format!("{time}  {event}: from {sender}, {id}{message_id}"), 1000))
}

//! `log export`: lines as CSV. Never changes a log.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::ledger::{First, Line, Question};
use crate::mail::some;

const EXAMPLES: &str = "Examples:
  optout-relay log export --since 2026-01-01 --output suppressed.csv
  optout-relay log export --address buyer@example.org --log all";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Export {
    #[command(flatten)]
    wanted: super::Wanted,
    /// Into this file instead of standard output; one that is there stays as it is
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

const COLUMNS: [&str; 18] = [
    "time",
    "event",
    "action",
    "recipient",
    "sender",
    "rule_kind",
    "rule_value",
    "rule_file",
    "rule_line",
    "reason",
    "source",
    "since",
    "reply",
    "id",
    "message_id",
    "client",
    "helo",
    "list",
];

impl Export {
    /// Exit 1 where nothing was found, 65 where a line is damaged.
    pub fn run(&self, config: &Config) -> Done {
        let question = self.wanted.question(config)?;
        let Some(path) = &self.output else {
            return self.write(config, &question, &mut stdout().lock()).map(|(exit, _)| exit);
        };
        let mut out = File::create_new(path).map_err(|e| self.unwritten(e))?;
        let (exit, count) = self.write(config, &question, &mut out).inspect_err(|_| {
            // Half of a log is worse than none: it would be taken for all.
            let _ = fs::remove_file(path);
        })?;
        talk(&format!("{}: {}", path.display(), some(count, "line")));
        Ok(exit)
    }

    fn unwritten(&self, error: io::Error) -> Failure {
        match &self.output {
            Some(path) => Failure::new(Exit::Io, format_args!("write {}: {error}", path.display())),
            None => error.into(),
        }
    }

    fn write(&self, config: &Config, question: &Question, out: &mut dyn Write) -> Result<(Exit, u64), Failure> {
        let mut table = csv::Writer::from_writer(BufWriter::with_capacity(1 << 16, out));
        table.write_record(COLUMNS).map_err(|e| self.unwritten(e.into()))?;
        let (mut count, mut written) = (0_u64, Ok(()));
        let damaged = super::search(config, self.wanted.log.names(), question, First::Oldest, &mut |line, _| {
            count += 1;
            written = row(&mut table, line);
            Ok(if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        written.and_then(|()| table.flush()).map_err(|e| self.unwritten(e))?;
        let exit = if damaged {
            Exit::Data
        } else if count == 0 {
            Exit::No
        } else {
            Exit::Ok
        };
        Ok((exit, count))
    }
}

fn row(table: &mut csv::Writer<impl Write>, line: &Line) -> std::io::Result<()> {
    let rule = line.rule.clone().unwrap_or_default();
    let number = if rule.line > 0 { rule.line.to_string() } else { String::new() };
    let text = |field: &'_ Option<String>| field.clone().unwrap_or_default();
    let (reason, source, since, message_id) = (text(&line.reason), text(&line.source), text(&line.since), text(&line.message_id));
    let fields = [
        &line.time,
        &line.event,
        &line.action,
        line.about().unwrap_or_default(),
        &line.sender,
        &rule.kind,
        &rule.value,
        &rule.file,
        &number,
        &reason,
        &source,
        &since,
        &line.reply,
        &line.id,
        &message_id,
        &line.client,
        &line.helo,
        &line.list,
    ];
    table.write_record(fields.map(plain)).map_err(std::io::Error::from)
}

/// Spreadsheets run what begins like a formula, and a mail can write such a text.
fn plain(field: &str) -> String {
    if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{field}") } else { field.to_owned() }
}

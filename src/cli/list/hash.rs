//! `list hash`: old addresses give way to their hashes, which hold for the same mail and tell nobody who it is.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use jiff::civil::Date;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::super::progress::with_bar;
use super::super::{Done, Exit, Failure, talk};
use super::files;
use crate::config::Config;
use crate::optout::{self, Hashed};

const EXAMPLES: &str = "Examples:
  optout-relay list hash --older-than 365d --dry-run
  optout-relay list hash --older-than 365d
  optout-relay list hash --older-than 0d --undated --list imported.csv";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Hash {
    /// Entries whose `since` is longer ago than this, as in 365d
    #[arg(long, value_name = "TIME", value_parser = before)]
    older_than: Date,
    /// Also entries that do not say since when they stand
    #[arg(long)]
    undated: bool,
    /// Only this list; several times: only these. If not given, all in force
    #[arg(long = "list", value_name = "FILE")]
    lists: Vec<PathBuf>,
    /// Only say how many there are
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line, a list each
    #[arg(long)]
    json: bool,
}

/// The day before which everything is older.
fn before(text: &str) -> Result<Date, String> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u32>().ok()).filter(|days| *days <= 36_500);
    let days = days.ok_or("write a number of days, as in 365d")?;
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    // Zero days: today's too.
    let day = if days == 0 { today.tomorrow() } else { today.checked_sub(jiff::Span::new().days(days)) };
    day.map_err(|error| error.to_string())
}

impl Hash {
    /// Exit 1 where nothing is that old.
    pub fn run(&self, config: &Config) -> Done {
        let wanted = optout::Older { before: self.older_than, undated: self.undated, tags: config.file.opt_out.plus_tags };
        let (mut hashed, mut out) = (0, stdout().lock());
        for path in &files(config, &self.lists).0 {
            let total = 2 * fs::metadata(path).map_or(0, |meta| meta.len());
            let done = with_bar(total, |passed| optout::hash_older(path, wanted, self.dry_run, passed));
            let Some(done) = done.map_err(|e| Failure::of_edit(&e))? else {
                let hint = "`list import` brings it into a .csv list";
                talk(&format!("{}: has no dates, and stays as it is\nhint: {hint}", path.display()));
                continue;
            };
            let Hashed { hashed: count, younger, undated } = done;
            hashed += count;
            let name = path.display();
            if self.json {
                let told = json!({"file": name.to_string(), "hashed": count, "younger": younger, "undated": undated, "changed": !self.dry_run && count > 0});
                writeln!(out, "{told}")?;
            } else {
                let word = if self.dry_run { "would be hashed" } else { "hashed" };
                writeln!(out, "{name}: {count} addresses {word}, {younger} are younger, {undated} have no date")?;
            }
        }
        Ok(if hashed > 0 { Exit::Ok } else { Exit::No })
    }
}

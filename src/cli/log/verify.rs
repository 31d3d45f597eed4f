//! `log verify`: whether the logs are as they were written. Never changes one.

use std::io::{Write, stdout};

use super::super::progress::with_bar;
use super::super::{Done, Exit, Failure};
use crate::config::Config;
use crate::ledger::{self, Link, Place, Verified};
use crate::mail::{clean, some};

const EXAMPLES: &str = "Examples:
  optout-relay log verify
  optout-relay log verify --log suppressed --json

The command prints the newest record of each log as NUMBER:HASH. Send that line to somebody, or print it: with --noted NUMBER:HASH
it can be proved later that the log still holds that record and all before it, whoever had the machine meanwhile.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Verify {
    /// Only this log
    #[arg(long, value_name = "LOG", value_enum, default_value_t = super::Which::All)]
    log: super::Which,
    /// A record that was noted before and must still be there
    #[arg(long, value_name = "NUMBER:HASH", value_parser = str::parse::<Link>)]
    noted: Option<Link>,
    /// One JSON object a log
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Exit 65 where a log is broken, 1 where a noted record is in none.
    pub fn run(&self, config: &Config) -> Done {
        let folder = config.logs();
        let (mut exit, mut found) = (Exit::Ok, false);
        for name in self.log.names() {
            let failed = |e: std::io::Error| super::unreadable(&folder, &e);
            let total = ledger::length(&folder, name).map_err(failed)?;
            let look = || with_bar(total, |passed| ledger::verify(&folder, name, self.noted, passed));
            let mut verified = look().map_err(failed)?;
            if verified.broken.is_some() {
                // A file that was rotated away while it was read is missing for a moment.
                verified = look().map_err(failed)?;
            }
            let cut = verified.first > 1 && config.file.log.keep == 0;
            if verified.broken.is_some() || cut {
                exit = Exit::Data;
            }
            found |= verified.noted == Some(true);
            if self.json { json(name, &verified, cut)? } else { tell(name, &verified, cut)? }
        }
        if let Some(noted) = self.noted.filter(|_| !found) {
            let text = format!("record {} as it was noted is in no log that was read: it was changed or cut", noted.seq);
            return Err(Failure::new(if exit == Exit::Ok { Exit::No } else { exit }, text));
        }
        Ok(exit)
    }
}

fn tell(name: &str, verified: &Verified, cut: bool) -> std::io::Result<()> {
    let mut out = stdout().lock();
    let Verified { files, records, unsealed, first, newest, end_is_known, broken, noted } = verified;
    let state = if broken.is_some() || cut { "BROKEN" } else { "unbroken" };
    let (records, files) = (some(*records, "record"), some(*files as u64, "file"));
    writeln!(out, "{name}: {state}, {records} in {files}")?;
    if *unsealed > 0 {
        writeln!(out, "  {} from before the log was chained: only the last of them is covered", some(*unsealed, "line"))?;
    }
    if *first > 1 {
        let why = if cut { "somebody took them away, for `log.keep` is 0" } else { "rotated away, as `log.keep` says" };
        writeln!(out, "  records 1 to {} are not here: {why}", first - 1)?;
    }
    if let Some(Place { path, line, broken }) = broken {
        writeln!(out, "  {}:{line}: {}", clean(&path.display().to_string(), 500), broken)?;
        writeln!(out, "  hint: compare the place with a backup; what stands before it is as it was written")?;
    } else if newest.seq > 0 {
        writeln!(out, "  newest record: {newest}")?;
        if !end_is_known {
            writeln!(out, "  whether newer ones were cut cannot be told: {name}.head is not there, or damaged")?;
        }
    }
    if let Some(true) = noted {
        writeln!(out, "  the noted record is there, and all before it")?;
    }
    Ok(())
}

fn json(name: &str, verified: &Verified, cut: bool) -> std::io::Result<()> {
    let Verified { files, records, unsealed, first, newest, end_is_known, broken, noted } = verified;
    let place = broken.as_ref().map(|place| {
        serde_json::json!({ "file": place.path.display().to_string(), "line": place.line, "cause": place.broken.to_string() })
    });
    let object = serde_json::json!({
        "log": name, "unbroken": broken.is_none() && !cut, "files": files, "records": records, "unsealed": unsealed,
        "first": first, "newest": newest.to_string(), "end_is_known": end_is_known, "broken": place, "noted": noted,
    });
    writeln!(stdout().lock(), "{object}")
}

//! `log summary`: how much was not sent, and why. Never changes a log.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, IsTerminal, Write, stdout};
use std::ops::ControlFlow;

use super::super::paint;
use super::super::{Done, Exit};
use crate::config::Config;
use crate::ledger::{First, Line};

const EXAMPLES: &str = "Examples:
  optout-relay log summary --since 30d
  optout-relay log summary --sender '*@shop-a.example' --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Summary {
    #[command(flatten)]
    wanted: super::Wanted,
    /// So many of the most frequent rules, senders and sources
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    top: usize,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// So many different texts are told apart; what comes then is counted as one.
const MANY: usize = 100_000;
const OTHERS: &str = "(others)";

#[derive(Debug, Default)]
struct Counts {
    total: u64,
    days: BTreeMap<String, u64>,
    by: [HashMap<String, u64>; 4],
}

const NAMES: [&str; 4] = ["action", "rule", "sender", "source"];

impl Summary {
    /// Exit 1 where nothing was found, 65 where a line is damaged.
    pub fn run(&self, config: &Config) -> Done {
        let (question, mut counts) = (self.wanted.question(config)?, Counts::default());
        let damaged = super::search(config, self.wanted.log.names(), &question, First::Oldest, &mut |line, _| {
            counts.add(line);
            Ok(ControlFlow::Continue(()))
        })?;
        let mut out = BufWriter::new(stdout().lock());
        if self.json {
            counts.json(&mut out, self.top)?
        } else {
            counts.tell(&mut out, self.top)?
        }
        out.flush()?;
        Ok(if damaged {
            Exit::Data
        } else if counts.total == 0 {
            Exit::No
        } else {
            Exit::Ok
        })
    }
}

impl Counts {
    fn add(&mut self, line: &Line) {
        self.total += 1;
        let day = line.time.get(..10).unwrap_or("?").to_owned();
        *self.days.entry(day).or_default() += 1;
        let action = if line.action.is_empty() { line.event.clone() } else { format!("{} ({})", line.event, line.action) };
        let rule = line.rule.as_ref().map(|rule| format!("{} {}", rule.kind, rule.value));
        let sender = if line.sender.is_empty() { "<>".to_owned() } else { line.sender.to_lowercase() };
        let texts = [Some(action), rule, Some(sender), line.source.clone().or_else(|| line.reason.clone())];
        for (counts, text) in self.by.iter_mut().zip(texts) {
            let text = text.unwrap_or_else(|| "(none)".into());
            let is_known = counts.len() < MANY || counts.contains_key(&text);
            *counts.entry(if is_known { text } else { OTHERS.into() }).or_default() += 1;
        }
    }

    fn top(&self, at: usize, count: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<_> = self.by[at].iter().map(|(text, count)| (text.as_str(), *count)).collect();
        all.sort_by(|(a, x), (b, y)| y.cmp(x).then(a.cmp(b)));
        all.truncate(count);
        all
    }

    fn json(&self, out: &mut impl Write, top: usize) -> io::Result<()> {
        let mut object = serde_json::json!({ "total": self.total, "days": self.days });
        for (at, name) in NAMES.iter().enumerate() {
            let rows: Vec<_> =
                self.top(at, top).iter().map(|(text, count)| serde_json::json!({ *name: text, "count": count })).collect();
            object[format!("{name}s")] = rows.into();
        }
        writeln!(out, "{object}")
    }

    fn tell(&self, out: &mut impl Write, top: usize) -> io::Result<()> {
        let days: Vec<_> = self.days.iter().map(|(day, count)| (day.as_str(), *count)).collect();
        bars(out, "day", &days)?;
        for (at, name) in NAMES.iter().enumerate() {
            writeln!(out)?;
            bars(out, name, &self.top(at, top))?;
        }
        writeln!(out, "\n{} in all", self.total)
    }
}

/// One row a text, with a bar where people look at it.
fn bars(out: &mut impl Write, name: &str, rows: &[(&str, u64)]) -> io::Result<()> {
    const WIDTH: u64 = 40;
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let shown: Vec<_> = rows.iter().map(|(text, count)| (paint::line(text, 60), count)).collect();
    let wide = shown.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0).max(name.len());
    writeln!(out, "{name}")?;
    for (text, count) in shown {
        let bar = "█".repeat(if stdout().is_terminal() { (count * WIDTH).div_ceil(most) as usize } else { 0 });
        writeln!(out, "{}", format!("  {text:wide$}  {count:>8}  {bar}").trim_end())?;
    }
    Ok(())
}

//! `list`: shows the opt-outs, adds and removes them by hand. Never leaves a list that the relay would not read.

use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::mail::PlusTags;
use crate::optout::{self, Action, Attributes, EntryError, Evidence, Subject};

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print all entries: place, kind, entry, and what stands beside it
    Show,
    /// Add opt-outs: addresses, domains, patterns, hashes or orders
    Add(Add),
    /// Take opt-outs out again
    Remove(Remove),
}

#[derive(Debug, clap::Args)]
pub struct Add {
    /// buyer@example.org, example.org, *.example.org, promo-*@example.org, sha256:…
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Where it is known from
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// reject, drop or bounce, instead of `opt_out.action`
    #[arg(long, value_name = "ACTION", value_parser = str::parse::<Action>)]
    action: Option<Action>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// The list, if not the first .toml of `opt_out.lists`
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// As for `list add`
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
}

pub fn run(config: &Config, command: &Command) -> Done {
    match command {
        Command::Show => show(config),
        Command::Add(add) => add.run(config),
        Command::Remove(remove) => remove.run(config),
    }
}

fn show(config: &Config) -> Done {
    let mut out = BufWriter::new(stdout().lock());
    for path in &config.all_lists() {
        let mut written = Ok(());
        optout::read(path, &mut |line, subject, attributes| {
            if written.is_ok() {
                let beside = beside(&attributes);
                written = writeln!(out, "{}:{line}\t{}\t{subject}\t{beside}", path.display(), subject.kind());
            }
        })
        .map_err(|fault| Failure::of_list(&fault))?;
        written?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What stands beside an entry, as `name=value`.
fn beside(attributes: &Attributes) -> String {
    let Attributes { since, until, reason, source, action, senders, note, verified, evidence } = attributes;
    let until = until.map(|until| until.to_string());
    let senders = (!senders.is_empty()).then(|| senders.join(" "));
    let action = action.map(|action| action.to_string());
    let verified = verified.map(|verified| verified.to_string());
    let of = |field: fn(&Evidence) -> &Option<String>| evidence.as_deref().and_then(|evidence| field(evidence).clone());
    let (order, message_id) = (of(|evidence| &evidence.order), of(|evidence| &evidence.message_id));
    let texts = [
        ("since", since),
        ("until", &until),
        ("action", &action),
        ("senders", &senders),
        ("reason", reason),
        ("source", source),
        ("note", note),
        ("verified", &verified),
        ("order", &order),
        ("message_id", &message_id),
    ];
    let present = texts.into_iter().filter_map(|(name, text)| text.as_ref().map(|text| format!("{name}={text:?}")));
    present.collect::<Vec<_>>().join(" ")
}

impl Add {
    fn run(&self, config: &Config) -> Done {
        let subjects = parse(&self.entries)?;
        let path = match &self.list {
            Some(path) => path.clone(),
            None => config.lists.iter().find(|path| optout::is_editable(path)).cloned().ok_or_else(|| {
                Failure::new(
                    Exit::Config,
                    "no list of `opt_out.lists` is a .toml file\nhint: add one, as in lists = [\"blacklist.toml\"]",
                )
            })?,
        };
        let attributes = Attributes {
            since: Some(jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()),
            reason: self.reason.clone(),
            source: self.source.clone(),
            action: self.action,
            note: self.note.clone(),
            ..Attributes::default()
        };
        let added = optout::add(&path, &subjects, &attributes).map_err(|e| Failure::of_edit(&e))?;
        for subject in &subjects {
            let word = if added.contains(subject) { "added" } else { "stands already" };
            writeln!(stdout(), "{}: {word}, {} {subject}", path.display(), subject.kind())?;
        }
        if !config.lists.contains(&path) {
            talk(&format!("{} is not among `opt_out.lists`, so the relay does not read it", path.display()));
        }
        Ok(Exit::Ok)
    }
}

impl Remove {
    /// Exit 1 where an entry stood nowhere, or still stands in a list that is not edited here.
    fn run(&self, config: &Config) -> Done {
        let (subjects, tags) = (parse(&self.entries)?, config.file.opt_out.plus_tags);
        let mut found = vec![false; subjects.len()];
        for path in config.all_lists().iter().filter(|path| optout::is_editable(path)) {
            for (at, subject) in subjects.iter().enumerate() {
                // What was learned is ended: taken out, it would be learned from the same notice again.
                let (changed, word) = match *path == config.learned() {
                    true => (optout::end(path, subject, tags, jiff::Timestamp::now()), "ended"),
                    false => (optout::remove(path, subject, tags), "removed"),
                };
                if changed.map_err(|e| Failure::of_edit(&e))? > 0 {
                    found[at] = true;
                    writeln!(stdout(), "{}: {word}, {} {subject}", path.display(), subject.kind())?;
                }
            }
        }
        let remaining = remaining(config, &subjects, tags)?;
        for (subject, place) in &remaining {
            talk(&format!("{place}: {subject} still stands here\nhint: delete the line by hand; only .toml lists are edited"));
        }
        for (subject, _) in subjects.iter().zip(&found).filter(|(_, found)| !**found) {
            if !remaining.iter().any(|(name, _)| *name == subject.to_string()) {
                talk(&format!(
                    "{subject} stands in no list\nhint: `optout-relay explain` tells which entry holds for an address"
                ));
            }
        }
        Ok(if remaining.is_empty() && found.iter().all(|found| *found) { Exit::Ok } else { Exit::No })
    }
}

/// Where the subjects stand in lists that are not edited here.
fn remaining(config: &Config, subjects: &[Subject], tags: PlusTags) -> Result<Vec<(String, String)>, Failure> {
    let mut places = Vec::new();
    for path in config.lists.iter().filter(|path| !optout::is_editable(path)) {
        let mut note = |line, found: Subject, _| {
            let same = subjects.iter().filter(|subject| found.names_the_same(subject, tags));
            places.extend(same.map(|subject| (subject.to_string(), format!("{}:{line}", path.display()))));
        };
        optout::read(path, &mut note).map_err(|fault| Failure::of_list(&fault))?;
    }
    Ok(places)
}

fn parse(entries: &[String]) -> Result<Vec<Subject>, Failure> {
    entries.iter().map(|text| Subject::guess(text).map_err(|e| Failure::of_entry(&e))).collect()
}

impl Failure {
    fn of_entry(error: &EntryError) -> Self {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        Self::new(Exit::Data, format_args!("{error}{hint}"))
    }
}

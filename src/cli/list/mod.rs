//! `list`: shows the opt-outs, adds and removes them, brings them from elsewhere and writes them down for others. Never leaves a
//! list that the relay would not read.

mod beside;
mod diff;
mod export;
mod form;
mod hash;
mod import;

use std::fs;
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::paint::Table;
use super::{Done, Exit, Failure, talk};
use crate::config::Config;
use crate::mail::PlusTags;
use crate::optout::{self, Attributes, EntryError, Evidence, Subject};
use crate::place::Fault;

const EXAMPLES: &str = "Examples:
  optout-relay list add buyer@example.org --reason \"asked by telephone\"
  optout-relay list add '*.example.net' 123-1234567-1234567
  optout-relay list remove buyer@example.org
  optout-relay list import unsubscribes.csv --dry-run
  optout-relay list show --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print all entries: place, kind, entry, and what stands beside it
    Show(Show),
    /// Add opt-outs: addresses, domains, patterns, hashes or orders
    Add(Add),
    /// Take opt-outs out again
    Remove(Remove),
    /// Bring opt-outs from elsewhere: tables, exports of mail providers, access tables, plain lists
    Import(import::Import),
    /// Write the opt-outs down for other programs
    Export(export::Export),
    /// Say what stands in one list and not in the other
    Diff(diff::Diff),
    /// Put hashes in the place of old addresses
    Hash(hash::Hash),
}

const SHOW_EXAMPLES: &str = "Examples:
  optout-relay list show
  optout-relay list show --json | grep example.org";

#[derive(Debug, clap::Args)]
#[command(after_help = SHOW_EXAMPLES)]
struct Show {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

const ADD_EXAMPLES: &str = "Examples:
  optout-relay list add buyer@example.org --reason \"asked by telephone\"
  optout-relay list add example.org --until 2027-03-31 --sender '*@shop-a.example'
  optout-relay list add --order 123-1234567-1234567";

#[derive(Debug, clap::Args)]
#[command(after_help = ADD_EXAMPLES)]
struct Add {
    /// buyer@example.org, example.org, *.example.org, promo-*@example.org, sha256:…
    #[arg(required_unless_present = "orders", value_name = "ENTRY")]
    entries: Vec<String>,
    /// Whoever has placed this order at the marketplace
    #[arg(long = "order", value_name = "ORDER")]
    orders: Vec<String>,
    #[command(flatten)]
    beside: beside::Beside,
    /// The list, if not the first .toml of `opt_out.lists`
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// One JSON object a line, an entry each
    #[arg(long)]
    json: bool,
}

const REMOVE_EXAMPLES: &str = "Examples:
  optout-relay list remove buyer@example.org
  optout-relay list remove example.org '*.example.org'";

#[derive(Debug, clap::Args)]
#[command(after_help = REMOVE_EXAMPLES)]
struct Remove {
    /// As for `list add`; an address also where it stands as its hash
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
    /// One JSON object a line, an entry taken out of a list each
    #[arg(long)]
    json: bool,
}

pub fn run(config: &Config, arguments: &Arguments) -> Done {
    match &arguments.command {
        Command::Show(arguments) => show(config, arguments.json),
        Command::Add(add) => add.run(config),
        Command::Remove(remove) => remove.run(config),
        Command::Import(import) => import.run(config),
        Command::Export(export) => export.run(config),
        Command::Diff(diff) => diff.run(config),
        Command::Hash(hash) => hash.run(config),
    }
}

/// The lists that are meant, or all in force; and how many bytes they have.
fn files(config: &Config, named: &[PathBuf]) -> (Vec<PathBuf>, u64) {
    let paths = if named.is_empty() { config.all_lists() } else { named.to_vec() };
    let total = paths.iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum();
    (paths, total)
}

fn show(config: &Config, json: bool) -> Done {
    let mut table = Table::new(BufWriter::new(stdout().lock()));
    for path in &config.all_lists() {
        let mut written = Ok(());
        optout::read(path, &mut |at, subject, attributes| {
            if written.is_ok() {
                written = if json {
                    table.object(&object(path, at.into(), &subject, &attributes))
                } else {
                    table.row(&line(path, at.into(), &subject, &attributes).split('\t').collect::<Vec<_>>())
                };
            }
        })
        .map_err(|fault| Failure::of_list(&fault))?;
        written?;
    }
    table.end()?;
    Ok(Exit::Ok)
}

/// An entry for people, and for `cut`.
fn line(path: &Path, at: u64, subject: &Subject, attributes: &Attributes) -> String {
    format!("{}:{at}\t{}\t{subject}\t{}", path.display(), subject.kind(), beside(attributes))
}

/// An entry for programs: `file`, `line`, `kind`, `value`, and what stands beside it.
fn object(path: &Path, at: u64, subject: &Subject, attributes: &Attributes) -> Value {
    let Attributes { since, until, reason, source, action, senders, note, verified, evidence } = attributes;
    let mut told = json!({
        "file": path.display().to_string(),
        "line": at,
        "kind": subject.kind().to_string(),
        "value": subject.to_string(),
        "since": since, "until": until.map(|until| until.to_string()), "reason": reason, "source": source, "action": action,
        "note": note, "verified": verified, "evidence": evidence,
    });
    if let Some(object) = told.as_object_mut() {
        // What is not said is not there.
        object.retain(|_, value| !value.is_null());
        if !senders.is_empty() {
            object.insert("senders".into(), json!(senders));
        }
    }
    told
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

/// What was done with an entry.
fn tell(path: &Path, word: &str, subject: &Subject, json: bool) -> std::io::Result<()> {
    let (path, kind) = (path.display(), subject.kind());
    if json {
        let told = json!({"file": path.to_string(), "did": word, "kind": kind.to_string(), "value": subject.to_string()});
        return writeln!(stdout(), "{told}");
    }
    writeln!(stdout(), "{path}: {word}, {kind} {subject}")
}

impl Add {
    fn run(&self, config: &Config) -> Done {
        let mut subjects = parse(&self.entries)?;
        for order in &self.orders {
            subjects.push(Subject::order(order).map_err(|e| Failure::of_entry(&e))?);
        }
        let path = match &self.list {
            Some(path) => path.clone(),
            None => config.lists.iter().find(|path| optout::is_editable(path)).cloned().ok_or_else(|| {
                Failure::new(
                    Exit::Config,
                    "no list of `opt_out.lists` is a .toml file\nhint: add one, as in lists = [\"blacklist.toml\"]",
                )
            })?,
        };
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let attributes = Attributes { since: Some(today), ..self.beside.attributes()? };
        let added = optout::add(&path, &subjects, &attributes).map_err(|e| Failure::of_edit(&e))?;
        for subject in &subjects {
            let word = if added.contains(subject) { "added" } else { "stands already" };
            tell(&path, word, subject, self.json)?;
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
        for path in config.all_lists().iter().filter(|path| optout::can_be_cut(path)) {
            for (at, subject) in subjects.iter().enumerate() {
                // What was learned is ended: taken out, it would be learned from the same notice again.
                let (changed, word) = match *path == config.learned() {
                    true => (optout::end(path, subject, tags, Timestamp::now()), "ended"),
                    false => (optout::remove(path, subject, tags), "removed"),
                };
                if changed.map_err(|e| Failure::of_edit(&e))? > 0 {
                    found[at] = true;
                    tell(path, word, subject, self.json)?;
                }
            }
        }
        let remaining = remaining(config, &subjects, tags)?;
        for (subject, place) in &remaining {
            talk(&format!(
                "{place}: {subject} still stands here\nhint: delete the line by hand; only .toml and .csv lists are edited"
            ));
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
    for path in config.lists.iter().filter(|path| !optout::can_be_cut(path)) {
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
    fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::of_list(&Fault::unreadable(path, error))
    }

    fn of_entry(error: &EntryError) -> Self {
        let hint = error.hint().map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
        Self::new(Exit::Data, format_args!("{error}{hint}"))
    }
}

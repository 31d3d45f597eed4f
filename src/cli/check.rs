//! `check`: configuration, lists, certificate and users, read by the relay's own loader. Never starts anything, never fetches a password.

use std::fs;
use std::io::{Write, stdout};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::{Done, Exit, Failure, TRUSTS_ANYBODY, log};
use crate::certificate::Certificate;
use crate::config::Config;
use crate::mail::some;
use crate::optout::Twin;
use crate::place::Fault;
use crate::users;

const EXAMPLES: &str = "Examples:
  optout-relay check
  optout-relay --config /etc/optout-relay/relay.toml check
  optout-relay check --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Lists that can be judged by.
pub struct Lists {
    /// Each with its entries.
    pub files: Vec<(PathBuf, usize)>,
    /// The first hundred places that name somebody again, and where that one was named before.
    pub twins: Vec<(String, String)>,
    /// How many such places there are.
    pub twin_count: usize,
}

/// Of those who may log in.
pub struct Named {
    /// How many.
    pub count: usize,
    /// Everybody on this machine can read the hashes.
    pub is_open: bool,
}

/// Reads the lists as the relay does.
pub fn lists(config: &Config) -> Result<Lists, Fault> {
    let loaded = super::loaded(config)?;
    let files = loaded.list.files();
    let place = |(file, line): (usize, u32)| format!("{}:{line}", files[file].path.display());
    let twins = loaded.twins.iter().map(|Twin { first, second }| (place(*second), place(*first))).collect();
    let files = files.iter().map(|file| (file.path.clone(), file.entries)).collect();
    Ok(Lists { files, twins, twin_count: loaded.twin_count })
}

/// Reads the certificate and its key; why tools may not trust it today, where its dates are the reason.
pub fn certificate((chain, key): &(PathBuf, PathBuf)) -> Result<Option<&'static str>, Fault> {
    Certificate::open(chain, key).map(|certificate| certificate.lapse())
}

/// Reads a file of users.
pub fn users(path: &Path) -> Result<Named, Fault> {
    let count = users::read(path)?.len();
    Ok(Named { count, is_open: is_open(path) })
}

/// Of the tools, and of the admin page.
fn user_files(config: &Config) -> impl Iterator<Item = &PathBuf> {
    config.users.iter().chain(config.admin.as_ref().map(|page| &page.users))
}

/// Everybody on this machine can read or change it.
pub fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 != 0)
}

pub fn run(config: &Config, arguments: &Arguments) -> Done {
    super::circle::refuse(config)?;
    if arguments.json {
        return tell_json(config);
    }
    let mut out = stdout().lock();
    writeln!(out, "{}: sound", config.path.display())?;
    if config.trusts_anybody() {
        writeln!(out, "{}: {TRUSTS_ANYBODY}", config.path.display())?;
    }
    let lists = lists(config).map_err(|fault| Failure::of_list(&fault))?;
    for (path, entries) in &lists.files {
        writeln!(out, "{}: sound, {}", path.display(), some(*entries as u64, "opt-out"))?;
    }
    for (second, first) in &lists.twins {
        writeln!(out, "{second}: names the same as {first}; the stricter of the two decides")?;
    }
    if lists.twin_count > lists.twins.len() {
        writeln!(out, "... and {} more that are named twice", lists.twin_count - lists.twins.len())?;
    }
    if let Some(pair) = &config.certificate {
        let lapse = certificate(pair).map_err(|fault| Failure::of_config(&fault))?;
        let (chain, key) = (pair.0.display(), pair.1.display());
        writeln!(out, "{chain}: sound, and belongs to {key}")?;
        if let Some(lapse) = lapse {
            writeln!(out, "{chain}: {lapse}")?;
        }
    }
    for path in user_files(config) {
        let Named { count, is_open } = users(path).map_err(|fault| Failure::of_list(&fault))?;
        writeln!(out, "{}: sound, {}", path.display(), some(count as u64, "user"))?;
        if is_open {
            writeln!(out, "{}: open to everybody on this machine, who can guess at its passwords; chmod o= it", path.display())?;
        }
    }
    for silent in log::silent_intakes(config, Timestamp::now()) {
        writeln!(out, "{}: {silent}", config.path.display())?;
    }
    Ok(Exit::Ok)
}

/// The same as one object; a fault is told on standard error as ever.
fn tell_json(config: &Config) -> Done {
    let lists = lists(config).map_err(|fault| Failure::of_list(&fault))?;
    let lapse = config.certificate.as_ref().map(certificate).transpose().map_err(|fault| Failure::of_config(&fault))?;
    let named = |path: &PathBuf| {
        let Named { count, is_open } = users(path)?;
        Ok(json!({ "file": path, "users": count, "open_to_everybody": is_open }))
    };
    let users: Result<Vec<_>, Fault> = user_files(config).map(named).collect();
    let users = users.map_err(|fault| Failure::of_list(&fault))?;
    let trusting = config.trusts_anybody().then(|| TRUSTS_ANYBODY.to_owned());
    let notes: Vec<_> = trusting.into_iter().chain(log::silent_intakes(config, Timestamp::now())).collect();
    let files = lists.files.iter().map(|(path, entries)| json!({ "file": path, "opt_outs": entries }));
    let twins = lists.twins.iter().map(|(second, first)| json!({ "place": second, "same_as": first }));
    let certificate = config.certificate.as_ref().zip(lapse);
    let told = json!({
        "configuration": config.path,
        "lists": files.collect::<Vec<_>>(),
        "twins": twins.collect::<Vec<_>>(),
        "twin_count": lists.twin_count,
        "certificate": certificate.map(|((chain, key), lapse)| json!({ "file": chain, "key": key, "lapse": lapse })),
        "users": users,
        "notes": notes,
    });
    writeln!(stdout(), "{told}")?;
    Ok(Exit::Ok)
}

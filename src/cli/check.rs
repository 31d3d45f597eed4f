//! `check`: configuration, lists, certificate and users, read by the relay's own loader. Never starts anything, never fetches a password.

use std::fs;
use std::io::{Write, stdout};
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::{Done, Exit, Failure, TRUSTS_ANYBODY, log};
use crate::certificate::Certificate;
use crate::config::Config;
use crate::optout::{self, Twin};
use crate::users;

pub fn run(config: &Config) -> Done {
    super::circle::refuse(config)?;
    let mut out = stdout().lock();
    writeln!(out, "{}: sound", config.path.display())?;
    if config.trusts_anybody() {
        writeln!(out, "{}: {TRUSTS_ANYBODY}", config.path.display())?;
    }
    let loaded = optout::load(&config.all_lists(), config.file.opt_out.plus_tags).map_err(|fault| Failure::of_list(&fault))?;
    let files = loaded.list.files();
    for file in files {
        writeln!(out, "{}: sound, {} opt-outs", file.path.display(), file.entries)?;
    }
    let place = |(file, line): (usize, u32)| format!("{}:{line}", files[file].path.display());
    for Twin { first, second } in &loaded.twins {
        writeln!(out, "{}: names the same as {}; the stricter of the two decides", place(*second), place(*first))?;
    }
    if loaded.twin_count > loaded.twins.len() {
        writeln!(out, "... and {} more that are named twice", loaded.twin_count - loaded.twins.len())?;
    }
    if let Some((chain, key)) = &config.certificate {
        let certificate = Certificate::open(chain, key).map_err(|fault| Failure::of_config(&fault))?;
        writeln!(out, "{}: sound, and belongs to {}", chain.display(), key.display())?;
        if let Some(lapse) = certificate.lapse() {
            writeln!(out, "{}: {lapse}", chain.display())?;
        }
    }
    for path in config.users.iter().chain(config.admin.as_ref().map(|page| &page.users)) {
        let users = users::read(path).map_err(|fault| Failure::of_list(&fault))?;
        writeln!(out, "{}: sound, {} users", path.display(), users.len())?;
        if fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o007 != 0) {
            writeln!(out, "{}: open to everybody on this machine, who can guess at its passwords; chmod o= it", path.display())?;
        }
    }
    for silent in log::silent_intakes(config, Timestamp::now()) {
        writeln!(out, "{}: {silent}", config.path.display())?;
    }
    Ok(Exit::Ok)
}

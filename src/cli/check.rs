//! `check`: configuration and lists, read by the relay's own loader. Never starts anything, never fetches a password.

use std::io::{Write, stdout};

use super::{Done, Exit, Failure, TRUSTS_ANYBODY};
use crate::config::Config;
use crate::optout::{self, Twin};

pub fn run(config: &Config) -> Done {
    super::circle::refuse(config)?;
    let mut out = stdout().lock();
    writeln!(out, "{}: sound", config.path.display())?;
    if config.trusts_anybody() {
        writeln!(out, "{}: {TRUSTS_ANYBODY}", config.path.display())?;
    }
    let loaded = optout::load(&config.lists, config.file.opt_out.plus_tags).map_err(|fault| Failure::of_list(&fault))?;
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
    Ok(Exit::Ok)
}

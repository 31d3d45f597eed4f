//! `man`: the manual pages, made of what else is there: of the commands as they are parsed, and of the comments in the shipped
//! files. Never says anything of a command or key that is not said there.

mod settings;

use std::fs;
use std::io::{self, Write, stdout};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap::builder::Resettable;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::{Done, Exit, Failure, talk};
use settings::Settings;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  optout-relay man | man -l -
  optout-relay man ~/.local/share/man")]
pub struct Arguments {
    /// Write all pages into the folders man1 and man5 in there; without it the first page is printed
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// The files that are explained in section 5, as they are shipped.
const FILES: [Settings; 2] = [
    Settings { name: "relay.toml", what: "configuration of optout-relay", text: include_str!("../../config/relay.toml") },
    Settings {
        name: "blacklist.toml",
        what: "who has opted out, for optout-relay",
        text: include_str!("../../config/blacklist.toml"),
    },
];

/// How it went, in the order of the numbers.
const ENDINGS: [Exit; 9] =
    [Exit::Ok, Exit::No, Exit::Usage, Exit::Data, Exit::NoInput, Exit::Unavailable, Exit::Io, Exit::Later, Exit::Config];

/// At the foot of every page. The same sources make the same pages, so no day stands there: an argument that is empty needs its
/// quotes, or the next one takes its place.
const SOURCE: &str = concat!("optout-relay ", env!("CARGO_PKG_VERSION"));
const NO_DATE: &str = "\"\"";

/// At the head.
const MANUAL: &str = "optout-relay";

/// With it each text begins that is made on its own; once is enough.
const PREAMBLE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// One page.
struct Page {
    name: String,
    section: u8,
    text: String,
}

pub fn run(arguments: &Arguments) -> Done {
    let root = tree();
    let Some(folder) = &arguments.folder else {
        stdout().lock().write_all(of_command(&root).text.as_bytes())?;
        return Ok(Exit::Ok);
    };
    let mut pages = Vec::new();
    of_commands(&root, &mut pages);
    pages.extend(FILES.iter().map(|file| Page { name: file.name.to_owned(), section: 5, text: file.page() }));
    // By the name of the program, too.
    pages.push(Page { name: "optout-relay.toml".to_owned(), section: 5, text: ".so man5/relay.toml.5\n".to_owned() });
    for page in &pages {
        page.write(folder)
            .map_err(|error| Failure::new(Exit::Io, format_args!("write `{}`: {error}", page.path(folder).display())))?;
    }
    talk(&format!("{} pages written into {}", pages.len(), folder.display()));
    Ok(Exit::Ok)
}

impl Page {
    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("man{}", self.section)).join(format!("{}.{}", self.name, self.section))
    }

    fn write(&self, folder: &Path) -> io::Result<()> {
        let path = self.path(folder);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, &self.text)
    }
}

/// The commands with all that belongs to them.
fn tree() -> clap::Command {
    let mut root = super::Arguments::command().disable_help_subcommand(true);
    root.build();
    root
}

fn of_commands(command: &clap::Command, pages: &mut Vec<Page>) {
    pages.push(of_command(command));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        of_commands(below, pages);
    }
}

fn of_command(command: &clap::Command) -> Page {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    // What stands below the help would be run together: it is laid out by us.
    let bare = command.clone().after_help(Resettable::Reset).after_long_help(Resettable::Reset);
    let mut text = Vec::new();
    // Memory takes whatever is written to it.
    let _ = Man::new(bare).source(SOURCE).date(NO_DATE).manual(MANUAL).render(&mut text);
    let mut rest = Roff::new();
    examples(&mut rest, command);
    let is_root = name == command.get_name();
    if is_root {
        endings(&mut rest);
    }
    see_also(&mut rest, &name);
    let rest = rest.render();
    let text = String::from_utf8_lossy(&text).into_owned() + rest.strip_prefix(PREAMBLE).unwrap_or(&rest);
    Page { name, section: 1, text }
}

/// What stands below the help of a command: its first line is the heading, the others stay as they are.
fn examples(roff: &mut Roff, command: &clap::Command) {
    let Some(text) = command.get_after_long_help().or(command.get_after_help()) else { return };
    let text = text.to_string();
    let (heading, lines) = match text.split_once('\n') {
        Some((first, rest)) if first.ends_with(':') => (first.trim_end_matches(':').to_uppercase(), rest),
        _ => ("NOTES".to_owned(), text.as_str()),
    };
    roff.control("SH", [heading.as_str()]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
}

fn endings(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for exit in ENDINGS {
        roff.control("TP", []).text([bold((exit as u8).to_string())]).text([roman(exit.meaning())]);
    }
}

fn see_also(roff: &mut Roff, name: &str) {
    let above = name.match_indices('-').map(|(at, _)| (&name[..at], "1")).filter(|(above, _)| above.starts_with("optout-relay"));
    let pages: Vec<_> = above.chain(FILES.iter().map(|file| (file.name, "5"))).collect();
    roff.control("SH", ["SEE ALSO"]).text(references(&pages));
}

/// Names of pages, as people write them.
fn references(pages: &[(&str, &str)]) -> Vec<Inline> {
    let mut line = Vec::new();
    for (at, (name, section)) in pages.iter().enumerate() {
        line.extend([bold(*name), roman(format!("({section}){}", if at + 1 < pages.len() { ", " } else { "" }))]);
    }
    line
}

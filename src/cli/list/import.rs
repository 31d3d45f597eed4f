//! `list import`: opt-outs from elsewhere, all of them or none. Never holds a list in memory, only the digests of its entries.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use serde_json::json;

use super::super::progress::with_bar;
use super::super::{Done, Exit, Failure, talk};
use super::beside::{Beside, fill};
use super::form::{Form, column};
use crate::config::Config;
use crate::disk::{Counted, Draft};
use crate::mail::some;
use crate::optout::{self, Attributes, COLUMNS, Column, Ended, Found, Known, Manner, Provider, Writer, Written};

const EXAMPLES: &str = "Examples:
  optout-relay list import unsubscribes.csv --dry-run
  optout-relay list import unsubscribes.csv --reason \"opted out at the old tool\"
  optout-relay list import buyers.csv --column address=\"E-mail of buyer\" --column since=3
  aws sesv2 list-suppressed-destinations | optout-relay list import -
  optout-relay list import /etc/postfix/recipient_access --format postfix";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Import {
    /// A list as another program has written it, also compressed by gzip; `-`: standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How the list is written, if not as it looks
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Form::Auto)]
    format: Form,
    /// A column that has no name that is known by itself: FIELD=NAME, or FIELD=NUMBER. Fields: address, domain, pattern, order,
    /// since, until, reason, source, action, senders, note
    #[arg(long = "column", value_name = "FIELD=NAME", value_parser = column)]
    columns: Vec<Column>,
    /// The list that gets the entries: a .csv file that only `list import` writes. If not given, the first one of `opt_out.lists`,
    /// or else imported.csv beside the first list
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,
    /// Only say what is new, known and invalid
    #[arg(long)]
    dry_run: bool,
    /// Import the other entries where some are invalid
    #[arg(long)]
    skip_invalid: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    beside: Beside,
}

/// So many invalid entries are shown.
const SHOWN: usize = 20;

#[derive(Default)]
struct Counts {
    new: u64,
    known: u64,
    other: u64,
    invalid: u64,
    shown: Vec<(u64, String)>,
    provider: Option<Provider>,
}

impl Import {
    /// Exit 65, and nothing is changed, where an entry is invalid.
    pub fn run(&self, config: &Config) -> Done {
        let path = self.target(config)?;
        let given = self.beside.attributes()?;
        let mut draft = match self.dry_run {
            true => None,
            false => Some(Draft::of(&path).map_err(|e| of_disk(&path, &e))?),
        };
        let counts = with_bar(self.size(config), |passed| -> Result<_, Failure> {
            let mut known = known(config, &path, passed)?;
            let mut out: Box<dyn Write> = match &mut draft {
                Some(draft) => {
                    let former = draft.former().map_err(|e| of_disk(&path, &e))?;
                    copy(former, &path, draft)?;
                    Box::new(BufWriter::with_capacity(1 << 18, draft))
                }
                None => Box::new(io::sink()),
            };
            let mut writer = Writer::going_on(&mut out, Written::Csv, config.file.opt_out.plus_tags);
            let counts = self.read(&given, &mut known, &mut writer, passed)?;
            writer.finish().and_then(Write::flush).map_err(|e| of_disk(&path, &e))?;
            Ok(counts)
        })?;
        let refused = counts.invalid > 0 && !self.skip_invalid;
        let changes = !self.dry_run && !refused && counts.new > 0;
        self.tell(&counts, &path, changes, config.lists.contains(&path))?;
        if refused && !self.dry_run {
            let message =
                "nothing was imported, for some entries are invalid\nhint: correct them, or leave them out with --skip-invalid";
            return Err(Failure::new(Exit::Data, message));
        }
        if let Some(draft) = draft.filter(|_| changes) {
            let model = config.lists.iter().find(|list| list.exists());
            draft.put(model.map(PathBuf::as_path)).map_err(|e| of_disk(&path, &e))?;
        }
        // Also where all stands there already, for then it holds as little.
        if !self.dry_run && !config.lists.contains(&path) && path.exists() {
            talk(&not_read(config, &path));
        }
        Ok(if refused { Exit::Data } else { Exit::Ok })
    }

    fn target(&self, config: &Config) -> Result<PathBuf, Failure> {
        let path = match &self.into {
            Some(path) => path.clone(),
            None => config.lists.iter().find(|path| optout::is_table(path)).cloned().unwrap_or_else(|| {
                config.lists.first().map_or_else(|| "imported.csv".into(), |list| list.with_file_name("imported.csv"))
            }),
        };
        if optout::is_table(&path) {
            // By the name that it has there it is known as one that is read.
            return Ok(config.lists.iter().find(|list| place(list) == place(&path)).cloned().unwrap_or(path));
        }
        let message =
            format!("{} is not a .csv file\nhint: --into imported.csv; `list add` writes into .toml lists", path.display());
        Err(Failure::new(Exit::Usage, message))
    }

    /// How many bytes will be read; 0: nobody knows.
    fn size(&self, config: &Config) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
        let own = if self.is_stdin() { 0 } else { length(&self.file) };
        if own == 0 { 0 } else { own + config.all_lists().iter().map(|path| length(path)).sum::<u64>() }
    }

    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// As errors name it.
    fn name(&self) -> &Path {
        if self.is_stdin() { Path::new("standard input") } else { &self.file }
    }

    fn read(
        &self,
        given: &Attributes,
        known: &mut Known,
        writer: &mut Writer<impl Write>,
        passed: &AtomicU64,
    ) -> Result<Counts, Failure> {
        let mut counts = Counts::default();
        let source: Box<dyn Read> = match self.is_stdin() {
            true => Box::new(stdin().lock()),
            false => Box::new(File::open(&self.file).map_err(|e| Failure::unreadable(&self.file, &e))?),
        };
        // Stands beside each entry that says nothing of it, so that it can be told where it came from.
        let mut given = given.clone();
        let today = Timestamp::now().strftime("%Y-%m-%d").to_string();
        let manner = Manner { form: self.format.meant(), columns: self.columns.clone() };
        let name = self.name();
        given.source.get_or_insert_with(|| format!("{}, imported {today}", shown_name(name)));
        let read = optout::read_foreign(name, Counted { source, passed }, &manner, &mut |line, found| {
            match found {
                Found::Other => counts.other += 1,
                Found::Wrong(message) => {
                    counts.invalid += 1;
                    if counts.shown.len() < SHOWN {
                        counts.shown.push((line, message));
                    }
                }
                Found::Entry(subject, mut attributes) => {
                    fill(&mut attributes, &given);
                    if !known.add(&subject, &attributes) {
                        counts.known += 1;
                        return Ok(());
                    }
                    counts.new += 1;
                    writer.write(&subject, &attributes)?;
                }
            }
            Ok(())
        });
        counts.provider = read.map_err(|ended| match ended {
            Ended::By(fault) => Failure::new(Exit::Data, fault),
            Ended::Taker(error) => {
                Failure::new(Exit::Io, format_args!("write the list: {error}\nhint: see that the disk has room"))
            }
        })?;
        if counts.new + counts.known + counts.other + counts.invalid == 0 {
            let message = format!("{}: holds no entries\nhint: say how it is written, as in --format csv", name.display());
            return Err(Failure::new(Exit::Data, message));
        }
        Ok(counts)
    }

    fn tell(&self, counts: &Counts, path: &Path, changes: bool, in_force: bool) -> io::Result<()> {
        let Counts { new, known, other, invalid, shown, provider } = counts;
        let mut out = stdout().lock();
        let name = self.name().display();
        if self.json {
            let shown: Vec<_> = shown.iter().map(|(line, message)| json!({"line": line, "message": message})).collect();
            let told = json!({
                "file": name.to_string(),
                "provider": provider.map(|provider| provider.to_string()),
                "into": path.display().to_string(),
                "new": new, "known": known, "no_opt_outs": other, "invalid": invalid, "invalid_entries": shown,
                "imported": changes,
                // Whether the relay reads what it was imported into.
                "in_force": in_force,
            });
            return writeln!(out, "{told}");
        }
        for (line, message) in shown {
            writeln!(out, "{name}:{line}: {message}")?;
        }
        if *invalid as usize > shown.len() {
            writeln!(out, "... and {} more that are invalid", *invalid as usize - shown.len())?;
        }
        let of = provider.map(|provider| format!(", of {provider}")).unwrap_or_default();
        let other = if *other > 0 { format!(", {other} that let mail pass and are none") } else { String::new() };
        writeln!(out, "{name}{of}: {new} new, {known} known{other}, {invalid} invalid")?;
        if changes {
            writeln!(out, "{}: {} added", path.display(), some(*new, "opt-out"))?;
        }
        Ok(())
    }
}

/// Where a file lies, or will.
fn place(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = || Some(fs::canonicalize(folder).ok()?.join(path.file_name()?));
    fs::canonicalize(path).ok().or_else(beside).unwrap_or_else(|| path.to_owned())
}

/// Only the last part: where it lay on somebody's machine is nothing to keep.
fn shown_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Everything that stands in the lists in force, and in the one that is to grow.
fn known(config: &Config, path: &Path, passed: &AtomicU64) -> Result<Known, Failure> {
    let mut known = Known::default();
    let mut lists = config.all_lists();
    if !lists.iter().any(|list| list == path) {
        lists.push(path.to_owned());
    }
    // One that is named, and not there yet or empty, is what is to be created.
    let has_some = |list: &Path| fs::metadata(list).is_ok_and(|meta| meta.len() > 0);
    for list in lists.iter().filter(|list| *list != path || has_some(list)) {
        let file = File::open(list).map_err(|e| Failure::unreadable(list, &e))?;
        optout::read_from(list, Counted { source: file, passed }, &mut |_, subject, attributes| {
            known.add(&subject, &attributes);
        })
        .map_err(|fault| Failure::of_list(&fault))?;
    }
    Ok(known)
}

/// What stood there stays in front. A table with columns of its own is somebody else's.
fn copy(former: Option<File>, path: &Path, draft: &mut Draft) -> Result<(), Failure> {
    let names = COLUMNS.join(",");
    let Some(former) = former else {
        return writeln!(draft, "{names}").map_err(|e| of_disk(path, &e));
    };
    let mut former = BufReader::with_capacity(1 << 20, former);
    let mut first = Vec::new();
    former.by_ref().take(4096).read_until(b'\n', &mut first).map_err(|e| of_disk(path, &e))?;
    let is_empty = first.is_empty();
    if !is_empty && String::from_utf8_lossy(&first).trim_end() != names {
        let message = format!(
            "{} has columns of its own, so it stays as it is\nhint: name another list, as in --into imported.csv",
            path.display()
        );
        return Err(Failure::new(Exit::Data, message));
    }
    let mut last = Last { out: draft, byte: b'\n' };
    let copied = writeln!(last, "{names}").and_then(|()| io::copy(&mut former, &mut last));
    copied.and_then(|_| if last.byte == b'\n' { Ok(()) } else { last.write_all(b"\n") }).map_err(|e| of_disk(path, &e))
}

/// Knows what was written last.
struct Last<'a> {
    out: &'a mut Draft,
    byte: u8,
}

impl Write for Last<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.byte = bytes[..count].last().copied().unwrap_or(self.byte);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn of_disk(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::ResourceBusy => {
            Failure::new(Exit::Later, format_args!("{shown} was changed meanwhile, so nothing was imported\nhint: try it again"))
        }
        _ => Failure::new(
            Exit::Io,
            format_args!("write {shown}: {error}; nothing was imported\nhint: see that its folder can be written and has room"),
        ),
    }
}

/// What is written there is not in force, and what to do about it.
fn not_read(config: &Config, path: &Path) -> String {
    let base = config.path.parent().unwrap_or(Path::new(""));
    let names = config.file.opt_out.lists.iter().map(|list| list.display().to_string());
    let own = std::iter::once(path.strip_prefix(base).unwrap_or(path).display().to_string());
    let names: Vec<_> = names.chain(own).map(|name| format!("{name:?}")).collect();
    format!(
        "{} is not among `opt_out.lists`, so the relay does not read it\nhint: write lists = [{}] under [opt_out] in {}, and restart the relay",
        path.display(),
        names.join(", "),
        config.path.display()
    )
}

//! `list export`: the lists in force, written down for others. Never changes a list.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write, stdout};
use std::path::PathBuf;

use jiff::Timestamp;

use super::super::progress::with_bar;
use super::super::{Done, Exit, Failure, talk};
use super::form::Target;
use super::{files, object};
use crate::config::Config;
use crate::disk::Counted;
use crate::optout::{self, Writer};

const EXAMPLES: &str = "Examples:
  optout-relay list export --output all.csv
  optout-relay list export --format hashes --output for-the-agency.txt
  optout-relay list export --format postfix --output recipient_access
  optout-relay list export --format json | grep example.org";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Export {
    /// How the entries are written
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Target::Csv)]
    format: Target,
    /// Only the entries of this list; several times: of these. If not given, all in force
    #[arg(long = "list", value_name = "FILE")]
    lists: Vec<PathBuf>,
    /// Into this file instead of standard output; one that is there stays as it is
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Default)]
struct Counts {
    written: u64,
    over: u64,
    no_place: u64,
    widened: u64,
}

impl Export {
    pub fn run(&self, config: &Config) -> Done {
        let Some(path) = &self.output else {
            let counts = self.write(config, &mut stdout().lock())?;
            self.tell(&counts);
            return Ok(Exit::Ok);
        };
        let mut out = File::create_new(path).map_err(|e| self.unwritten(e))?;
        let counts = self.write(config, &mut out).inspect_err(|_| {
            // Half of a list is worse than none: it would be taken for all.
            let _ = fs::remove_file(path);
        })?;
        self.tell(&counts);
        Ok(Exit::Ok)
    }

    fn unwritten(&self, error: io::Error) -> Failure {
        match &self.output {
            Some(path) => Failure::new(Exit::Io, format_args!("write {}: {error}", path.display())),
            None => error.into(),
        }
    }

    fn write(&self, config: &Config, out: &mut dyn Write) -> Result<Counts, Failure> {
        let unwritten = |error: io::Error| self.unwritten(error);
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let counts = match self.format.meant() {
            Some(written) => {
                // Those who take lists for good know no end and no senders.
                let whole = written == optout::Written::Csv;
                let mut writer = Writer::new(&mut out, written, config.file.opt_out.plus_tags).map_err(unwritten)?;
                let now = Timestamp::now();
                let counts = self.each(config, &mut |counts, entry| {
                    let attributes = &entry.attributes;
                    if !whole && attributes.until.is_some_and(|until| until < now) {
                        counts.over += 1;
                    } else if !writer.write(&entry.subject, attributes)? {
                        counts.no_place += 1;
                    } else {
                        counts.written += 1;
                        counts.widened += u64::from(!whole && (attributes.until.is_some() || !attributes.senders.is_empty()));
                    }
                    Ok(())
                })?;
                writer.finish().map_err(unwritten)?;
                counts
            }
            None => self.each(config, &mut |counts, entry| {
                counts.written += 1;
                writeln!(out, "{}", object(entry.path, entry.line.into(), &entry.subject, &entry.attributes))
            })?,
        };
        out.flush().map_err(unwritten)?;
        Ok(counts)
    }

    fn each(&self, config: &Config, take: &mut dyn FnMut(&mut Counts, Entry<'_>) -> io::Result<()>) -> Result<Counts, Failure> {
        let mut counts = Counts::default();
        let (paths, total) = files(config, &self.lists);
        with_bar(total, |passed| {
            for path in &paths {
                let file = File::open(path).map_err(|e| Failure::unreadable(path, &e))?;
                let mut taken = Ok(());
                optout::read_from(path, Counted { source: file, passed }, &mut |line, subject, attributes| {
                    if taken.is_ok() {
                        taken = take(&mut counts, Entry { path, line, subject, attributes });
                    }
                })
                .map_err(|fault| Failure::of_list(&fault))?;
                taken.map_err(|e| self.unwritten(e))?;
            }
            Ok(counts)
        })
    }

    fn tell(&self, counts: &Counts) {
        if let Some(path) = &self.output {
            talk(&format!("{}: entries written: {}", path.display(), counts.written));
        }
        if counts.over > 0 {
            talk(&format!("left out, for they have ended: {}", counts.over));
        }
        if counts.no_place > 0 {
            talk(&format!("left out, for this format has no place for their kind: {}", counts.no_place));
        }
        if counts.widened > 0 {
            talk(&format!(
                "written without their senders or their end, for this format cannot say so; there they hold for all mail and for good: {}",
                counts.widened
            ));
        }
    }
}

struct Entry<'a> {
    path: &'a std::path::Path,
    line: u32,
    subject: optout::Subject,
    attributes: optout::Attributes,
}

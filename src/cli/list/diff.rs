//! `list diff`: what stands in one list and not in the other. Never holds a list in memory, only the digests of its entries.

use std::fs::{self, File};
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use super::super::progress::with_bar;
use super::super::{Done, Exit, Failure, talk};
use super::form::{Form, column};
use super::{files, line, object};
use crate::config::Config;
use crate::disk::Counted;
use crate::optout::{self, Attributes, Column, Ended, Found, Known, Manner, Subject};

const EXAMPLES: &str = "Examples:
  optout-relay list diff sendgrid.csv                  what the provider knows and we do not, and the other way round
  optout-relay list diff old.toml new.toml
  optout-relay list diff export.csv --only-new";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Diff {
    /// One list, also as another program has written it
    #[arg(value_name = "LIST")]
    one: PathBuf,
    /// The other; if not given, all lists in force
    #[arg(value_name = "OTHER")]
    other: Option<PathBuf>,
    /// How LIST is written, if not as it looks
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Form::Auto)]
    format: Form,
    /// A column of LIST that has no name that is known by itself: FIELD=NAME
    #[arg(long = "column", value_name = "FIELD=NAME", value_parser = column)]
    columns: Vec<Column>,
    /// Compare whom the entries name, not until when, for which senders and with which action they hold
    #[arg(long)]
    names_only: bool,
    /// Leave out what stands only in OTHER
    #[arg(long)]
    only_new: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// How a difference is told to people and to programs.
const ONLY_IN_LIST: (char, &str) = ('+', "only_in_list");
const ONLY_IN_OTHER: (char, &str) = ('-', "only_in_other");

/// A side of the comparison: one list in any form, or lists of our own.
struct Side {
    paths: Vec<PathBuf>,
    manner: Manner,
}

type Each<'a> = dyn FnMut(&Path, u64, Subject, Attributes) -> std::io::Result<()> + 'a;

impl Diff {
    /// Exit 0 where both name the same, 1 where not.
    pub fn run(&self, config: &Config) -> Done {
        let one =
            Side { paths: vec![self.one.clone()], manner: Manner { form: self.format.meant(), columns: self.columns.clone() } };
        let other = match &self.other {
            Some(path) => Side { paths: vec![path.clone()], manner: Manner::default() },
            None => Side { paths: files(config, &[]).0, manner: Manner::default() },
        };
        if !self.only_new {
            one.can_be_read_twice().and_then(|()| other.can_be_read_twice())?;
        }
        let mut out = BufWriter::with_capacity(1 << 16, stdout().lock());
        // Each is read as often as it is asked.
        let rounds = if self.only_new { 1 } else { 2 };
        let total = rounds * (one.size() + other.size());
        let (mut wrong, mut differ) = (0, 0);
        with_bar(total, |passed| -> Result<(), Failure> {
            if !self.only_new {
                differ += self.missing(&other, &one, ONLY_IN_OTHER, passed, &mut out, &mut wrong)?;
            }
            differ += self.missing(&one, &other, ONLY_IN_LIST, passed, &mut out, &mut wrong)?;
            Ok(())
        })?;
        out.flush()?;
        if wrong > 0 {
            let message = format!(
                "invalid entries, which were not compared: {wrong}\nhint: `optout-relay list import LIST --dry-run` names them"
            );
            return Err(Failure::new(Exit::Data, message));
        }
        if differ == 0 && !self.json {
            talk("no difference");
        }
        Ok(if differ == 0 { Exit::Ok } else { Exit::No })
    }

    /// Prints what `from` has and `than` has not; returns how many there are.
    fn missing(
        &self,
        from: &Side,
        than: &Side,
        (sign, word): (char, &str),
        passed: &AtomicU64,
        out: &mut impl Write,
        wrong: &mut u64,
    ) -> Result<u64, Failure> {
        let (mut known, mut count) = (Known::default(), 0);
        than.each(passed, &mut 0, &mut |_, _, subject, attributes| {
            known.add(&subject, &self.compared(&attributes));
            Ok(())
        })?;
        from.each(passed, wrong, &mut |path, at, subject, attributes| {
            // Also what stands there twice is told once.
            if !known.add(&subject, &self.compared(&attributes)) {
                return Ok(());
            }
            count += 1;
            if self.json {
                let mut told = object(path, at, &subject, &attributes);
                told["difference"] = word.into();
                writeln!(out, "{told}")
            } else {
                writeln!(out, "{sign} {}", line(path, at, &subject, &attributes))
            }
        })?;
        Ok(count)
    }

    fn compared(&self, attributes: &Attributes) -> Attributes {
        if self.names_only { Attributes::default() } else { attributes.clone() }
    }
}

impl Side {
    /// A pipe is empty the second time, and nothing would be missing in it.
    fn can_be_read_twice(&self) -> Result<(), Failure> {
        let pipe = self.paths.iter().find(|path| fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()));
        pipe.map_or(Ok(()), |path| {
            let message =
                format!("{} can be read only once\nhint: write it into a file first, or use --only-new", path.display());
            Err(Failure::new(Exit::Usage, message))
        })
    }

    fn size(&self) -> u64 {
        self.paths.iter().map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum()
    }

    fn each(&self, passed: &AtomicU64, wrong: &mut u64, take: &mut Each<'_>) -> Result<(), Failure> {
        for path in &self.paths {
            let file = File::open(path).map_err(|e| Failure::unreadable(path, &e))?;
            optout::read_foreign(path, Counted { source: file, passed }, &self.manner, &mut |line, found| match found {
                Found::Entry(subject, attributes) => take(path, line, subject, attributes),
                Found::Wrong(_) => {
                    *wrong += 1;
                    Ok(())
                }
                Found::Other => Ok(()),
            })
            .map_err(|ended| match ended {
                Ended::By(fault) => Failure::of_list(&fault),
                Ended::Taker(error) => error.into(),
            })?;
        }
        Ok(())
    }
}

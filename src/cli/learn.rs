//! `learn`: learns from notices in files, says what it sees in them and why, and settles what waits for a person. Safe while
//! the relay runs, which reads what was learned within a second.

use std::fs::File;
use std::io::{self, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;

use super::paint::Table;
use super::{Done, Exit, Failure, json_line, talk};
use crate::config::Config;
use crate::learn::{
    Book, BookError, Entry, Intake, Learned, Lesson, NotLearned, Phrases, Quarantine, Scribe, Seen, Settled, about, decide, line,
    recognise_all,
};
use crate::ledger::{self, Lesson as Event};
use crate::mail::{Address, Order, clean};
use crate::orders::{Caps, Orders};

/// No notice is larger; in bytes.
const MAX_SIZE: u64 = 10 << 20;

const EXAMPLES: &str = "Examples:
  optout-relay learn notice.eml
  optout-relay learn --dry-run notice.eml            what would be learned, and why
  optout-relay learn --json < notice.eml
  optout-relay learn quarantine show";

const SHOW_EXAMPLES: &str = "Examples:
  optout-relay learn quarantine show
  optout-relay learn quarantine show --json";

const ACCEPT_EXAMPLES: &str = "Examples:
  optout-relay learn quarantine accept 3f2a9c01b7e4        the id that `learn quarantine show` prints first";

const REJECT_EXAMPLES: &str = "Examples:
  optout-relay learn quarantine reject 3f2a9c01b7e4 77b0e4d2c1aa";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// Notices or reports, each a whole mail (.eml); - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// Say what would be learned, and learn nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a file
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// What waits for a person to decide
    #[command(subcommand, after_help = SHOW_EXAMPLES)]
    Quarantine(Wanted),
}

#[derive(Debug, clap::Subcommand)]
pub enum Wanted {
    /// Print what waits, and why
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// One JSON object an entry
        #[arg(long)]
        json: bool,
    },
    /// Learn it all the same
    #[command(after_help = ACCEPT_EXAMPLES)]
    Accept {
        /// As `show` prints it
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// One JSON object an entry
        #[arg(long)]
        json: bool,
    },
    /// Turn it down, for good
    #[command(after_help = REJECT_EXAMPLES)]
    Reject {
        /// As `show` prints it
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// One JSON object an entry
        #[arg(long)]
        json: bool,
    },
}

pub fn run(config: &Config, arguments: &Arguments) -> Done {
    match &arguments.command {
        Some(Command::Quarantine(Wanted::Show { json })) => show(config, *json),
        Some(Command::Quarantine(Wanted::Accept { ids, json })) => accept(config, ids, *json),
        Some(Command::Quarantine(Wanted::Reject { ids, json })) => reject(config, ids, *json),
        None => learn(config, arguments),
    }
}

/// Exit 1 where nothing was learned from any of them.
fn learn(config: &Config, arguments: &Arguments) -> Done {
    let phrases = phrases(config)?;
    let mut scribe = if arguments.dry_run { None } else { Some(scribe(config)?) };
    let (mut exit, mut out) = (Exit::No, stdout().lock());
    let index = Index::open(config);
    for path in &arguments.files {
        let mail = read(path)?;
        let (seen, name) = (recognise_all(&mail, &phrases), path.display());
        for seen in seen.iter().filter(|_| !arguments.json) {
            writeln!(out, "{name}: {}", clean(&told(seen), 400))?;
        }
        let (wishes, now) = (&config.learning.wishes, Timestamp::now());
        let lessons = seen.iter().flat_map(|seen| decide(seen, |order| index.buyers(order), wishes, Intake::Command, now));
        let lessons: Vec<_> = lessons.collect();
        let learned = match &mut scribe {
            None => Learned(lessons.into_iter().map(would).collect()),
            Some(scribe) => settle(config, scribe, lessons, Intake::Command)?,
        };
        if arguments.json {
            let seen: Vec<_> = seen.iter().map(|seen| clean(&told(seen), 400)).collect();
            let settled: Vec<_> = learned.0.iter().map(|settled| of_settled(settled, arguments.dry_run)).collect();
            let object = json!({ "file": path, "seen": seen, "settled": settled, "dry_run": arguments.dry_run });
            json_line(&mut out, &object)?;
        }
        for settled in learned.0.iter().filter(|_| !arguments.json) {
            writeln!(out, "{name}: {}{}", if arguments.dry_run { "would be " } else { "" }, clean(&settled.to_string(), 400))?;
        }
        if learned.is_something() {
            exit = Exit::Ok;
        }
    }
    Ok(exit)
}

/// What the mail is taken for, and by what.
fn told(seen: &Seen) -> String {
    match seen {
        Seen::OptedOut(notice) => {
            let names = |texts: Vec<String>| if texts.is_empty() { "none named".to_owned() } else { texts.join(", ") };
            let buyers = names(notice.addresses.iter().map(ToString::to_string).collect());
            let orders = names(notice.orders.iter().map(ToString::to_string).collect());
            let (from, by) = (&notice.sender, &notice.evidence);
            let forwarded = if notice.forwarded.is_some() { ", forwarded" } else { "" };
            let vouched = notice.results.iter().filter(|result| result.passed).map(|result| result.authserv.as_str());
            let vouched = names(vouched.map(str::to_owned).collect());
            format!(
                "a notice from {from}{forwarded}, known by {by}; buyer: {buyers}; order: {orders}; DKIM or DMARC pass: {vouched}"
            )
        }
        Seen::Report(report) => {
            let named = report.recipients.iter().map(|reported| format!("{} ({})", reported.address, reported.why));
            format!("a report about {}", named.collect::<Vec<_>>().join(", "))
        }
        Seen::OtherNotice(what) | Seen::Unknown(what) => what.clone(),
    }
}

fn would(lesson: Lesson) -> Settled {
    match lesson {
        Lesson::Learn(entry) => Settled::Learned(entry, 0),
        Lesson::Ask(entry, why) => Settled::Asked(entry, "a new entry".into(), why),
        Lesson::Nothing(why) => Settled::Nothing(why),
    }
}

/// As programs are told of it.
fn of_settled(settled: &Settled, dry_run: bool) -> serde_json::Value {
    let (event, entry, id) = match settled {
        Settled::Learned(entry, _) => ("learned", Some(entry), None),
        Settled::Known(entry) => ("known", Some(entry), None),
        Settled::Asked(entry, id, _) => ("quarantined", Some(entry), Some(id).filter(|_| !dry_run)),
        Settled::Nothing(_) => ("nothing", None, None),
    };
    let entry = entry.map(|entry| entry.subject.to_string());
    json!({ "event": event, "entry": entry, "id": id, "words": clean(&settled.to_string(), 400) })
}

fn show(config: &Config, json: bool) -> Done {
    let (quarantine, mut table) = (Quarantine::new(config.quarantine()), Table::new(stdout().lock()));
    for waiting in quarantine.all().map_err(|fault| Failure::of_list(&fault))? {
        let Entry { subject, attributes } = &waiting.entry;
        let source = attributes.source.as_deref().unwrap_or_default();
        if json {
            let (kind, entry) = (subject.kind().to_string(), subject.to_string());
            let object = json!({ "id": waiting.id, "kind": kind, "entry": entry, "source": source, "why": waiting.why });
            table.object(&object)?;
            continue;
        }
        table.row(&[&waiting.id, &subject.to_string(), &clean(source, 400), &clean(&waiting.why, 400)])?;
    }
    table.end()?;
    Ok(Exit::Ok)
}

fn accept(config: &Config, ids: &[String], json: bool) -> Done {
    let (quarantine, mut scribe) = (Quarantine::new(config.quarantine()), scribe(config)?);
    for id in ids {
        let mut entry = quarantine.get(id).map_err(|fault| Failure::of_list(&fault))?.entry;
        // A person vouches for it.
        entry.attributes.verified = Some(true);
        let lesson = Lesson::Learn(entry.clone());
        let settled = scribe.settle(vec![(vec![lesson], false)]).map_err(|NotLearned| not_written())?;
        note(config, &[about(&entry, Event::Accepted, Intake::Command.to_string())])?;
        quarantine.take_out(id).map_err(|e| Failure::new(Exit::Io, format_args!("take {id} out of the quarantine: {e}")))?;
        for settled in settled.into_iter().flatten() {
            if json {
                json_line(&mut stdout(), &json!({ "id": id, "done": "accepted", "settled": of_settled(&settled, false) }))?;
            } else {
                writeln!(stdout(), "{id}: {}", clean(&settled.to_string(), 400))?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn reject(config: &Config, ids: &[String], json: bool) -> Done {
    let quarantine = Quarantine::new(config.quarantine());
    for id in ids {
        let entry = quarantine.get(id).map_err(|fault| Failure::of_list(&fault))?.entry;
        note(config, &[about(&entry, Event::Rejected, Intake::Command.to_string())])?;
        quarantine.reject(id).map_err(|e| Failure::new(Exit::Io, format_args!("turn {id} down: {e}")))?;
        if json {
            json_line(&mut stdout(), &json!({ "id": id, "done": "rejected", "entry": entry.subject.to_string() }))?;
        } else {
            writeln!(stdout(), "{id}: rejected, {}", entry.subject)?;
        }
    }
    Ok(Exit::Ok)
}

fn settle(config: &Config, scribe: &mut Scribe, lessons: Vec<Lesson>, intake: Intake) -> Result<Learned, Failure> {
    let settled = scribe.settle(vec![(lessons, true)]).map_err(|NotLearned| not_written())?;
    let settled: Vec<_> = settled.into_iter().flatten().collect();
    let lines: Vec<_> = settled.iter().filter_map(|settled| line(settled, intake)).collect();
    note(config, &lines)?;
    Ok(Learned(settled))
}

fn note(config: &Config, lines: &[ledger::Learning]) -> Result<(), Failure> {
    ledger::append(&config.logs(), lines).map_err(|e| Failure::new(Exit::Io, format_args!("write learned.jsonl: {e}")))
}

fn not_written() -> Failure {
    Failure::new(Exit::Io, "nothing more was learned; the reason stands above")
}

fn scribe(config: &Config) -> Result<Scribe, Failure> {
    let tags = config.file.opt_out.plus_tags;
    let book = Book::open(&config.learned(), tags).map_err(|error| match error {
        BookError::List(fault) => Failure::of_list(&fault),
        BookError::Disk(error) => Failure::new(Exit::Io, format_args!("open {}: {error}", config.learned().display())),
    })?;
    let (quarantine, max_per_day) = (Quarantine::new(config.quarantine()), config.file.learn.max_per_day);
    Ok(Scribe { book, quarantine, lists: None, spool: None, max_per_day, tags })
}

fn phrases(config: &Config) -> Result<Arc<Phrases>, Failure> {
    let Some(path) = &config.notices else { return Ok(Arc::new(Phrases::compiled())) };
    let text =
        std::fs::read_to_string(path).map_err(|e| Failure::new(Exit::NoInput, format_args!("read {}: {e}", path.display())))?;
    Phrases::parse(path, &text).map(Arc::new).map_err(|fault| Failure::of_config(&fault))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |e: io::Error| Failure::new(Exit::NoInput, format_args!("read {}: {e}", path.display()));
    let mut mail = Vec::new();
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(stdin()) } else { Box::new(File::open(path).map_err(failed)?) };
    source.take(MAX_SIZE + 1).read_to_end(&mut mail).map_err(failed)?;
    if mail.len() as u64 > MAX_SIZE {
        return Err(Failure::new(Exit::Data, format_args!("{}: is larger than any notice", path.display())));
    }
    Ok(mail)
}

/// The index of orders, where no running relay has it. The index goes first: the runtime waits for its writer.
struct Index(Option<(Orders, tokio::runtime::Runtime)>);

impl Index {
    fn open(config: &Config) -> Self {
        let path = config.orders();
        if !path.exists() || config.file.learn.max_orders == 0 {
            return Self(None);
        }
        let caps = Caps { entries: config.file.learn.max_orders, age: config.file.learn.max_order_age };
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return Self(None) };
        let guard = runtime.enter();
        let opened = Orders::open(&path, caps);
        drop(guard);
        match opened {
            Ok((orders, _)) => Self(Some((orders, runtime))),
            Err(_) => {
                talk("the index of orders is in use by the relay, which will find the buyers of orders by itself");
                Self(None)
            }
        }
    }

    fn buyers(&self, order: Order) -> Vec<Address> {
        self.0.as_ref().map(|(orders, _)| orders.recipients(order)).unwrap_or_default()
    }
}

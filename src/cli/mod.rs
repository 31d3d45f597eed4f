//! The command line: one file a command. The only place that prints: data on stdout, talk on stderr.

mod caller;
mod check;
mod circle;
mod completions;
mod doctor;
mod explain;
mod learn;
mod list;
mod log;
mod man;
mod paint;
mod password;
mod progress;
mod serve;
mod spool;
mod syslog;
mod trial;
mod user;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use serde::Serialize;

use crate::config::Config;
use crate::disk::EditError;
use crate::optout::{self, Loaded};
use crate::place::Fault;

/// Exit codes (sysexits.h), and 1 for "the answer is no".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; or: yes.
    Ok = 0,
    /// No.
    No = 1,
    /// The command line.
    Usage = 64,
    /// A list, the users, or an address.
    Data = 65,
    /// A file that is not there.
    NoInput = 66,
    /// An address to listen on, or a relay that answers there.
    Unavailable = 69,
    /// Reading or writing.
    Io = 74,
    /// Something is in use, or mail is held; try again later.
    Later = 75,
    /// The configuration.
    Config = 78,
}

impl Exit {
    fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "Done; or the answer is yes.",
            Self::No => "The answer is no.",
            Self::Usage => "The command line is wrong.",
            Self::Data => "A list, the users or an address is wrong.",
            Self::NoInput => "A file is not there.",
            Self::Unavailable => "An address cannot be listened on, or no relay answers there.",
            Self::Io => "Something could not be read or written.",
            Self::Later => "Something is in use, or mail is held; try again later.",
            Self::Config => "The configuration is wrong.",
        }
    }
}

/// Why a command ended without doing its job.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

/// `upstream.tls_verify = false`, said at each start.
const TRUSTS_ANYBODY: &str = "upstream.tls_verify is false: the mail host need not prove who it is, so whoever stands in the way can read the mail and the password\nhint: set upstream.ca to the certificate of the authority that vouches for the host, and delete upstream.tls_verify";

type Done = Result<Exit, Failure>;

const EXAMPLES: &str = "Examples:
  optout-relay                                run, by config/relay.toml or /etc/optout-relay/relay.toml
  optout-relay --config relay.toml check      is all that is written there sound?
  optout-relay doctor                         does all that it needs work?
  optout-relay explain buyer@example.org      would mail to this buyer be forwarded?
  optout-relay list add buyer@example.org     from now on it is not
  optout-relay log --address buyer@example.org

`optout-relay help COMMAND` tells more of each, with examples.";

const SERVE_EXAMPLES: &str = "Examples:
  optout-relay serve
  optout-relay --config relay.toml serve
  OPTOUT_RELAY_LOG__LEVEL=debug optout-relay serve";

/// An SMTP relay that keeps mail from everybody who has opted out.
#[derive(Debug, Parser)]
#[command(name = "optout-relay", version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration [default: config/relay.toml, then /etc/optout-relay/relay.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay (also without a command)
    #[command(after_help = SERVE_EXAMPLES)]
    Serve,
    /// Read configuration, lists and users as the relay does, and say what is wrong
    Check(check::Arguments),
    /// Look at all that the relay needs, and say what to do about what is wrong; no mail is sent
    Doctor(doctor::Arguments),
    /// Say whether mail to an address would be forwarded, and by which rule
    Explain(explain::Arguments),
    /// Send a test mail through the relay that runs, and say step by step what becomes of it
    Try(trial::Arguments),
    /// Show and change the opt-outs
    List(list::Arguments),
    /// Learn opt-outs from notices in files, and settle what waits for a person
    Learn(learn::Arguments),
    /// Answer questions from the logs: what was not sent and why, to whom, when; and whether the logs are whole
    Log(log::Arguments),
    /// Show held mail, try it now, drop it
    #[command(subcommand)]
    Spool(spool::Command),
    /// Show and change who may log in
    User(user::Arguments),
    /// Print what a shell needs to complete this command line
    Completions(completions::Arguments),
    /// Write the manual pages
    Man(man::Arguments),
}

/// The commands as they are parsed, for whoever makes something of them.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the command line, runs the command, prints what went wrong.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell where even this cannot be printed.
            let _ = error.print();
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            return ExitCode::from(exit as u8);
        }
    };
    let exit = run(&arguments).unwrap_or_else(|failure| {
        if failure.exit != Exit::Ok {
            talk(&format!("optout-relay: {}", failure.message));
        }
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(arguments: &Arguments) -> Done {
    let load = || Config::load(arguments.config.as_deref(), environment());
    let config = || load().map_err(|fault| Failure::of_config(&fault));
    match &arguments.command {
        None | Some(Command::Serve) => serve::run(config()?),
        Some(Command::Check(arguments)) => check::run(&config()?, arguments),
        Some(Command::Doctor(arguments)) => doctor::run(load(), arguments),
        Some(Command::Explain(arguments)) => explain::run(&config()?, arguments),
        Some(Command::Try(arguments)) => trial::run(&config()?, arguments),
        Some(Command::List(arguments)) => list::run(&config()?, arguments),
        Some(Command::Learn(arguments)) => learn::run(&config()?, arguments),
        Some(Command::Log(arguments)) => log::run(&config()?, arguments),
        Some(Command::Spool(command)) => spool::run(&config()?, command),
        Some(Command::User(arguments)) => user::run(&config()?, arguments),
        // Of ourselves, so they need none.
        Some(Command::Completions(arguments)) => completions::run(arguments),
        Some(Command::Man(arguments)) => man::run(arguments),
    }
}

/// Variables that are text; `OPTOUT_RELAY_…` ones always are.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The lists in force, as the relay reads them; millions of entries take a while.
fn loaded(config: &Config) -> Result<Loaded, Fault> {
    let lists = config.all_lists();
    let total = lists.iter().map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum();
    progress::with_bar(total, |passed| optout::load_counted(&lists, config.file.opt_out.plus_tags, passed))
}

impl Failure {
    fn new(exit: Exit, message: impl Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    fn of_config(fault: &Fault) -> Self {
        Self::new(Exit::Config, fault)
    }

    /// A list that is not there is no input, one that is wrong is bad data.
    fn of_list(fault: &Fault) -> Self {
        let exit = if Path::new(&fault.path).exists() { Exit::Data } else { Exit::NoInput };
        Self::new(exit, fault)
    }

    fn of_edit(error: &EditError) -> Self {
        match error {
            EditError::Broken(fault) => Self::of_list(fault),
            EditError::Write(..) => Self::new(Exit::Io, error),
        }
    }
}

/// A reader that hangs up (`| head`) ends the command, and is no trouble.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::BrokenPipe { Exit::Ok } else { Exit::Io };
        Self::new(exit, format_args!("write to standard output: {error}"))
    }
}

/// One object for programs, in a line of its own.
fn json_line(out: &mut impl Write, object: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, object)?;
    out.write_all(b"\n")
}

/// A line for people.
fn talk(text: &str) {
    // There is nobody else to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

//! `user`: who may log in. Adds users, gives another password, removes and lists them. Never shows a password or its hash.

use std::io::{BufWriter, Write, stdout};
use std::path::Path;

use super::paint::Table;
use super::{Done, Exit, Failure, json_line, password, talk};
use crate::config::Config;
use crate::place::shown;
use crate::users::{self, Added, Hash, SENDERS_HINT};

const EXAMPLES: &str = "Examples:
  optout-relay user add feedback-tool --senders '*@shop-a.example'
  optout-relay user --admin add anna        may log in at the admin page
  optout-relay user list";

const REMOVE_EXAMPLES: &str = "Examples:
  optout-relay user remove feedback-tool
  optout-relay user --admin remove anna";

const LIST_EXAMPLES: &str = "Examples:
  optout-relay user list
  optout-relay user --admin list --json";

const ADD_EXAMPLES: &str = "Examples:
  optout-relay user add feedback-tool --senders '*@shop-a.example'
  optout-relay user add feedback-tool --replace        another password
  optout-relay user --admin add anna
  optout-relay user add feedback-tool < password.txt";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Those who may log in at the admin page ([admin] users), instead of the tools ([listen] users)
    #[arg(long, global = true)]
    admin: bool,
    /// One JSON object a user
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Add a user, and ask for the password: twice at a terminal, otherwise the first line of standard input
    #[command(after_help = ADD_EXAMPLES)]
    Add(Add),
    /// Take a user out
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// As it stands in the file
        name: String,
    },
    /// Print all users: name, and as whom each may send
    #[command(after_help = LIST_EXAMPLES)]
    List,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// As the tool is to give it
    name: String,
    /// An envelope sender that the user may have, as in *@shop-a.example; without it: any
    #[arg(long, value_name = "GLOB")]
    senders: Vec<String>,
    /// Give a user who is there already another password, and other senders where some are named
    #[arg(long)]
    replace: bool,
}

pub fn run(config: &Config, arguments: &Arguments) -> Done {
    let (users, line) = if arguments.admin {
        (config.admin.as_ref().map(|page| &page.users), "users = \"admins.toml\" under [admin]")
    } else {
        (config.users.as_ref(), "users = \"users.toml\" under [listen]")
    };
    let Some(path) = users else {
        let place = config.path.display();
        return Err(Failure::new(Exit::Config, format_args!("no file of users is named\nhint: write {line} in {place}")));
    };
    match &arguments.command {
        Command::Add(add) => add.run(path, arguments.json),
        Command::Remove { name } => remove(path, name, arguments.json),
        Command::List => list(path, arguments.json),
    }
}

impl Add {
    fn run(&self, path: &Path, json: bool) -> Done {
        let Self { name, senders, replace } = self;
        self.refuse_unsound()?;
        // Nobody is to type a password twice for nothing.
        let stands = path.exists() && read(path)?.iter().any(|user| user.name == *name);
        if stands && !replace {
            return Ok(self.stands(path));
        }
        let password = password::ask(name)?;
        let hash = Hash::of(password.as_bytes())
            .ok_or_else(|| Failure::new(Exit::Unavailable, "the system gives no random numbers, or not enough memory"))?;
        let (done, words) = match users::add(path, name, &hash, senders, *replace).map_err(|e| Failure::of_edit(&e))? {
            Added::New => ("added", "added"),
            Added::Replaced => ("replaced", "has another password now"),
            Added::Stands => return Ok(self.stands(path)),
        };
        tell(path, name, done, words, json)
    }

    fn refuse_unsound(&self) -> Result<(), Failure> {
        if let Some((message, hint)) = users::name_fault(&self.name) {
            return Err(Failure::new(Exit::Data, format_args!("{message}\nhint: {hint}")));
        }
        match self.senders.iter().find(|glob| users::sender_glob(glob).is_none()) {
            Some(glob) => Err(Failure::new(Exit::Data, format_args!("{} names no sender\nhint: {SENDERS_HINT}", shown(glob)))),
            None => Ok(()),
        }
    }

    fn stands(&self, path: &Path) -> Exit {
        talk(&format!("{}: stands already, user {}\nhint: --replace gives another password", path.display(), self.name));
        Exit::No
    }
}

fn tell(path: &Path, name: &str, done: &str, words: &str, json: bool) -> Done {
    let mut out = stdout().lock();
    match json {
        true => json_line(&mut out, &serde_json::json!({ "file": path, "user": name, "done": done }))?,
        false => writeln!(out, "{}: {words}, user {name}", path.display())?,
    }
    Ok(Exit::Ok)
}

fn remove(path: &Path, name: &str, json: bool) -> Done {
    read(path)?;
    if users::remove(path, name).map_err(|e| Failure::of_edit(&e))? {
        return tell(path, name, "removed", "removed", json);
    }
    talk(&format!("{}: {} is no user\nhint: `optout-relay user list` tells who is", path.display(), shown(name)));
    Ok(Exit::No)
}

fn list(path: &Path, json: bool) -> Done {
    let mut table = Table::new(BufWriter::new(stdout().lock()));
    for user in read(path)? {
        if json {
            // Null: as whom they like.
            table.object(&serde_json::json!({ "user": user.name, "senders": user.senders }))?;
            continue;
        }
        // Who has no senders may send as whom `*` names.
        let senders = user.senders.map_or_else(|| "*".to_owned(), |senders| senders.join(" "));
        table.row(&[&user.name, &senders])?;
    }
    table.end()?;
    Ok(Exit::Ok)
}

fn read(path: &Path) -> Result<Vec<users::Entry>, Failure> {
    users::read(path).map_err(|fault| Failure::of_list(&fault))
}

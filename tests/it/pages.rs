//! README and `docs/`: every command is run and every configuration read, every link leads somewhere, every key is one.
//!
//! The info string of a block says what it is, as in <code>```toml blacklist.toml</code>; one that says nothing fails:
//!
//! | info string | what is done |
//! |---|---|
//! | `toml` | read as a `relay.toml` |
//! | `toml blacklist.toml`, `text blacklist.txt`, `csv blacklist.csv`, `toml users.toml` | read as that file |
//! | `json` | parsed |
//! | `sh` | each line is run in a shop with a relay: it ends well, or says no (exit 1) |
//! | `console` | what stands behind `$ ` is run, and says what stands below it |
//! | `… not-run: REASON` | nothing, but `optout-relay` must know the commands in it |
//!
//! Pages are read from above, each in a shop of its own, where `unsubscribes.csv` lies, as SendGrid exports it. Its relay is asked for as `localhost:2525` and `localhost:8025`; `ID` and
//! `NUMBER:HASH` in a command are those of a held message and of the newest record. In what a command says `…` is anything, and a line
//! of it any lines; times, ids and hashes are those of another day.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use optout_relay::config::Config;
use optout_relay::{optout, users};
use regex_lite::{Captures, Regex};
use tempfile::TempDir;

use crate::config::shipped_keys;
use crate::process::{Process, told};
use crate::rig::{Client, PATIENCE};

/// What a person types who is asked for a password.
const TYPED: &str = "a long secret\n";

/// What a mail provider has sent.
const UNSUBSCRIBES: &str = "email,created\nanna@example.net,1764028800\nopted-out@example.com,1764028800\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Page {
    path: PathBuf,
    name: String,
    blocks: Vec<Block>,
    /// Without the blocks.
    prose: String,
}

struct Block {
    /// Page and line of its fence.
    place: String,
    info: String,
    text: String,
}

/// README and all of `docs/`.
fn pages() -> Vec<Page> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = docs.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect();
    paths.sort();
    paths.insert(0, root().join("README.md"));
    paths.into_iter().map(Page::read).collect()
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut blocks, mut prose, mut open): (Vec<Block>, _, Option<Block>) = (Vec::new(), String::new(), None);
        for (at, line) in text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(info)) => {
                    let place = format!("{name}:{}", at + 1);
                    open = Some(Block { place, info: info.trim().to_owned(), text: String::new() });
                }
                (Some(_), Some(rest)) => {
                    assert_eq!(rest, "", "{name}:{}: a fence within a block", at + 1);
                    blocks.extend(open.take());
                }
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, None) => {
                    assert!(!line.starts_with("~~~"), "{name}:{}: fences here are ```", at + 1);
                    prose += &format!("{line}\n");
                }
            }
        }
        assert!(open.is_none(), "{name}: a block that does not end");
        Self { path, name, blocks, prose }
    }

    /// What stands in `` ` ``.
    fn code(&self) -> Vec<String> {
        let code = Regex::new("`([^`]+)`").unwrap();
        code.captures_iter(&self.prose).map(|found| found[1].replace('\n', " ")).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let letter = |c: char| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        };
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().chars().filter_map(letter).collect()).collect()
    }
}

/// What an info string asks for.
enum Kind<'a> {
    Relay,
    List(&'a str),
    Users,
    Json,
    Lines,
    Dialogue,
    NotRun,
}

impl Block {
    fn kind(&self) -> Result<Kind<'_>, String> {
        let (language, rest) = self.info.split_once(' ').unwrap_or((&self.info, ""));
        Ok(match (language, rest) {
            (_, reason) if reason.starts_with("not-run: ") => Kind::NotRun,
            ("toml", "") => Kind::Relay,
            ("toml", "users.toml") => Kind::Users,
            ("toml", file @ "blacklist.toml") | ("text", file @ "blacklist.txt") | ("csv", file @ "blacklist.csv") => {
                Kind::List(file)
            }
            ("json", "") => Kind::Json,
            ("sh", "") => Kind::Lines,
            ("console", "") => Kind::Dialogue,
            _ => return Err(format!("a block must say what it is, and does not by {:?}: see tests/it/pages.rs", self.info)),
        })
    }

    /// Its commands, continued lines made one, each with what it is to say.
    fn commands(&self) -> Result<Vec<(String, String)>, String> {
        let mut commands: Vec<(String, String)> = Vec::new();
        let mut goes_on = false;
        for line in self.text.lines() {
            let is_dialogue = self.info.starts_with("console");
            let command = if is_dialogue { line.strip_prefix("$ ") } else { Some(line) };
            match (command, commands.last_mut()) {
                _ if line.trim().is_empty() && !is_dialogue => {}
                (_, Some((last, _))) if goes_on => *last += line,
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, Some((_, said))) => *said += &format!("{line}\n"),
                (None, None) => return Err("does not begin with a command".into()),
            }
            let last = commands.last_mut().map(|(command, _)| command);
            goes_on = last.as_ref().is_some_and(|command| command.ends_with('\\'));
            if let (true, Some(command)) = (goes_on, last) {
                command.pop();
            }
        }
        Ok(commands)
    }
}

/// The shop in which a page is read: the shipped configuration with users, a relay that runs, and two mails that came by.
struct Shop {
    folder: TempDir,
    relay: Process,
    desk: SocketAddr,
}

impl Shop {
    /// With a mail host that is away the mail is held.
    fn open(host_is_away: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config");
        std::fs::create_dir(&config).unwrap();
        let shipped = |name: &str| std::fs::read_to_string(root().join("config").join(name)).unwrap();
        let relay = shipped("relay.toml");
        assert_eq!(relay.matches("\n# users = ").count(), 2);
        let write = |name: &str, text: &str| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(config.join(name), text).unwrap();
            std::fs::set_permissions(config.join(name), std::fs::Permissions::from_mode(0o640)).unwrap();
        };
        write("relay.toml", &relay.replace("\n# users = ", "\nusers = "));
        write("blacklist.toml", &shipped("blacklist.toml"));
        write("users.toml", "");
        write("admins.toml", "");
        std::fs::write(folder.path().join("typed"), TYPED).unwrap();
        std::fs::write(folder.path().join("unsubscribes.csv"), UNSUBSCRIBES).unwrap();
        let mut serve = command(folder.path(), "exec optout-relay serve");
        serve.env("OPTOUT_RELAY_HOSTNAME", "relay.test").env("OPTOUT_RELAY_LISTEN__SMTP", "[\"127.0.0.1:0\"]");
        serve.env("OPTOUT_RELAY_ADMIN__LISTEN", "[\"127.0.0.1:0\"]");
        if host_is_away {
            // Nobody listens there any more.
            let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            serve.env("OPTOUT_RELAY_UPSTREAM__URL", format!("smtp://{nobody}"));
        }
        let mut relay = Process::start(&mut serve);
        let desk = relay.says("admin page").rsplit("http://").next().unwrap().trim_end_matches('/').parse().unwrap();
        let shop = Self { folder, relay, desk };
        shop.mail();
        shop
    }

    fn mail(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for (to, reply) in [("opted-out@example.com", "550 "), ("buyer@example.org", "250 ")] {
                let mut client = Client::connect(self.relay.address).await;
                client.expect("220 ").await;
                let last = client.mail("feedback@shop-a.example", &[to], "Subject: How was it?\r\n\r\nTell us.").await;
                assert!(last.starts_with(reply), "{to}: {last}");
                client.expect_to("QUIT", "221 ").await;
            }
        });
    }

    /// Exit code, and what was said on both streams.
    fn run(&self, command_line: &str) -> (i32, String) {
        let mut command = command(self.folder.path(), &format!("exec 2>&1; {}", self.meant(command_line)));
        // Where the relay listens, for commands that go there.
        for (name, address) in [("OPTOUT_RELAY_LISTEN__SMTP", self.relay.address), ("OPTOUT_RELAY_ADMIN__LISTEN", self.desk)] {
            command.env(name, format!("[\"{address}\"]"));
        }
        let (code, said, _) = told(command.output().unwrap());
        (code, said.replace(&self.relay.address.to_string(), "localhost:2525").replace(&self.desk.to_string(), "localhost:8025"))
    }

    /// The command with what is meant by its placeholders.
    fn meant(&self, command_line: &str) -> String {
        let ask = |arguments: &str| told(command(self.folder.path(), &format!("optout-relay {arguments}")).output().unwrap()).1;
        let mut meant = command_line.to_owned();
        for (name, address) in [("localhost:2525", self.relay.address), ("localhost:8025", self.desk)] {
            meant = meant.replace(name, &address.to_string());
        }
        if meant.contains("NUMBER:HASH") {
            let said = ask("log verify --log suppressed");
            meant = meant.replace("NUMBER:HASH", said.trim().rsplit(' ').next().unwrap());
        }
        let id = Regex::new(r"\bID\b").unwrap();
        if id.is_match(&meant) {
            let said = ask("spool show");
            meant = id.replace_all(&meant, said.split(' ').next().filter(|id| !id.is_empty()).unwrap_or(SOME_ID)).into_owned();
        }
        meant
    }
}

/// Of a message that nobody has.
const SOME_ID: &str = "6c4gc4bsc2ee7wnh6";

/// A shell in which `optout-relay` is the binary that is tested.
fn command(folder: &Path, line: &str) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_optout-relay")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(folder).env("PATH", path);
    let typed = std::fs::File::open(folder.join("typed"));
    shell.stdin(typed.map_or_else(|_| Stdio::null(), Stdio::from));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OPTOUT_RELAY_")) {
        shell.env_remove(name);
    }
    shell
}

/// What differs from day to day is called by its kind.
fn normal(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, kind) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
        (r"\d{4}-\d\d-\d\d", "DAY"),
        (r"\b([0-9a-f]{64}|[0-9a-f]{16})\b", "HASH"),
        (r"\b\d+(s|m|h)( \d+(s|m))*\b", "WHILE"),
        (r#""\d+\.\d+""#, "\"SECONDS\""),
        (r"127\.0\.0\.1:\d+", "HOST"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, kind).into_owned();
    }
    let id = |found: &Captures<'_>| {
        let word = &found[0];
        if word.contains(|c: char| c.is_ascii_digit()) { "ID".to_owned() } else { word.to_owned() }
    };
    Regex::new(r"\b[0-9a-z]{17}\b").unwrap().replace_all(&text, id).into_owned()
}

/// Whether a line is what the page says, `…` being anything.
fn fits(line: &str, shown: &str) -> bool {
    let (line, shown) = (line.trim_end(), shown.trim_end());
    let mut parts = shown.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        let is_last = at + 1 == parts.len();
        let found = if is_last { rest.ends_with(part).then(|| rest.len() - part.len()) } else { rest.find(part) };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty()
}

/// The same for all lines, a line of `…` being any lines.
fn all_fit(lines: &[&str], shown: &[&str]) -> bool {
    match shown {
        [] => lines.is_empty(),
        ["…"] => true,
        ["…", rest @ ..] => (0..=lines.len()).any(|skipped| all_fit(&lines[skipped..], rest)),
        [first, rest @ ..] => lines.first().is_some_and(|line| fits(line, first)) && all_fit(&lines[1..], rest),
    }
}

fn says(said: &str, shown: &str) -> bool {
    let (said, shown) = (normal(said), normal(shown));
    all_fit(&said.lines().collect::<Vec<_>>(), &shown.lines().collect::<Vec<_>>())
}

/// It does nothing, or nothing that asking again would alter: what was just changed may take a moment to be in force.
fn may_be_asked_again(line: &str) -> bool {
    let asks = ["optout-relay log", "optout-relay spool show"].iter().any(|start| line.starts_with(start));
    (asks && !line.contains("--output")) || (line.contains("curl ") && ![" -X", " -d "].iter().any(|word| line.contains(word)))
}

/// Runs a command of a page; an error where it does not say what is shown, or where it fails.
fn run(shop: &Shop, line: &str, shown: Option<&str>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let (code, said) = shop.run(line);
        let is_right = match shown {
            // The shell knows it, and the program its arguments; how it ends is shown.
            Some(shown) => says(&said, shown) && ![64, 126, 127].contains(&code),
            None => code <= 1,
        };
        if is_right {
            return Ok(());
        }
        if !may_be_asked_again(line) || begun.elapsed() > PATIENCE {
            let shown = shown.map(|shown| format!("\nbut the page shows:\n{shown}")).unwrap_or_default();
            return Err(format!("`{line}` ends with {code}, and says:\n{said}{shown}"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Many of README's readers have it; `cargo test` must do without, but nobody who examines a change.
fn curl_is_there() -> bool {
    let is_there = Command::new("curl").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    assert!(is_there || std::env::var_os("CI").is_none(), "curl is not there");
    is_there
}

/// What is wrong with a page, and how many blocks of each kind it has.
#[derive(Default)]
struct Found {
    wrong: Vec<String>,
    counts: BTreeMap<&'static str, usize>,
}

/// A page from above, in a shop of its own.
struct Reading<'a> {
    page: &'a Page,
    with_curl: bool,
    shop: Option<Shop>,
    found: Found,
}

impl<'a> Reading<'a> {
    fn of(page: &'a Page, with_curl: bool) -> Found {
        let mut reading = Self { page, with_curl, shop: None, found: Found::default() };
        for block in &page.blocks {
            match reading.block(block) {
                Ok(kind) => *reading.found.counts.entry(kind).or_default() += 1,
                Err(wrong) => reading.found.wrong.push(format!("{}: {wrong}", block.place)),
            }
        }
        if let Some(shop) = &mut reading.shop {
            shop.relay.stop();
        }
        reading.found
    }

    fn block(&mut self, block: &Block) -> Result<&'static str, String> {
        let text = &block.text;
        match block.kind()? {
            Kind::Relay => {
                Config::parse(Path::new("config/relay.toml"), text, std::iter::empty()).map_err(|fault| fault.to_string())?;
                Ok("relay.toml")
            }
            Kind::List(name) => {
                let folder = tempfile::tempdir().unwrap();
                std::fs::write(folder.path().join(name), text).unwrap();
                let mut entries = 0;
                let read = optout::read(&folder.path().join(name), &mut |_, _, _| entries += 1);
                read.map_err(|fault| fault.to_string())?;
                if entries > 0 { Ok("list") } else { Err("no entry".into()) }
            }
            Kind::Users => {
                let users = users::parse(Path::new("users.toml"), text).map_err(|fault| fault.to_string())?;
                if users.is_empty() { Err("no user".into()) } else { Ok("users.toml") }
            }
            Kind::Json => {
                serde_json::from_str::<serde_json::Value>(text).map_err(|error| error.to_string())?;
                Ok("json")
            }
            Kind::Lines => self.commands(block, false).map(|()| "sh"),
            Kind::Dialogue => self.commands(block, true).map(|()| "console"),
            Kind::NotRun => Ok("not run"),
        }
    }

    /// All of them, whatever becomes of the first.
    fn commands(&mut self, block: &Block, is_dialogue: bool) -> Result<(), String> {
        let shop = self.shop.get_or_insert_with(|| Shop::open(self.page.name == "docs/troubles.md"));
        let mut wrong = Vec::new();
        for (line, shown) in block.commands()? {
            if !self.with_curl && line.contains("curl ") {
                // What comes after it may ask what it has done.
                break;
            }
            wrong.extend(run(shop, &line, is_dialogue.then_some(&shown)).err());
            *self.found.counts.entry("command").or_default() += 1;
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

#[test]
fn every_block_is_run_or_read_or_says_why_not() {
    let (pages, with_curl) = (pages(), curl_is_there());
    let found: Vec<Found> = std::thread::scope(|scope| {
        let read: Vec<_> = pages.iter().map(|page| scope.spawn(move || Reading::of(page, with_curl))).collect();
        read.into_iter().map(|page| page.join().unwrap()).collect()
    });
    let (mut wrong, mut counts) = (Vec::new(), BTreeMap::<_, usize>::new());
    for page in found {
        wrong.extend(page.wrong);
        page.counts.into_iter().for_each(|(kind, count)| *counts.entry(kind).or_default() += count);
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    for kind in ["relay.toml", "list", "users.toml", "json", "sh", "console", "command", "not run"] {
        assert!(counts.contains_key(kind), "not one block of the kind {kind}: {counts:?}");
    }
}

/// What the program says of a command line: `None` where it knows all of it.
fn unknown(folder: &Path, line: &str) -> Option<String> {
    // Whatever it is, it finds no configuration, and a command line is read before that.
    let line = line.replacen("optout-relay", "optout-relay --config no-such.toml", 1);
    let line = line.replace("NUMBER:HASH", &format!("1:{}", "0".repeat(64)));
    let line = Regex::new(r"\bID\b").unwrap().replace_all(&line, SOME_ID).into_owned();
    let (code, _, talk) = told(command(folder, &line).output().unwrap());
    // In prose a command may stand without what it needs.
    (code == 64 && !talk.contains("required arguments were not provided")).then_some(talk)
}

#[test]
fn commands_that_are_not_run_are_known_to_the_program() {
    let (folder, mut count, mut wrong) = (tempfile::tempdir().unwrap(), 0, Vec::new());
    let start = Regex::new(r"^(sudo (-u optout-relay )?)?optout-relay( |$)").unwrap();
    for page in pages() {
        let blocks = page.blocks.iter().filter(|block| matches!(block.kind(), Ok(Kind::NotRun)));
        let lines = blocks.flat_map(|block| block.commands().unwrap_or_default()).map(|(line, _)| line);
        for line in lines.chain(page.code()).filter(|line| start.is_match(line)) {
            count += 1;
            let line = start.replace(&line, "optout-relay ").into_owned();
            wrong.extend(unknown(folder.path(), &line).map(|told| format!("{}: `{line}`: {told}", page.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 20, "{count}");
}

#[test]
fn every_link_leads_somewhere() {
    let (pages, link, mut count) = (pages(), Regex::new(r"\]\(([^)\s]+)\)").unwrap(), 0);
    for page in &pages {
        for found in link.captures_iter(&page.prose) {
            let target = &found[1];
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap().join(file) };
            let path = path.canonicalize().unwrap_or_else(|error| panic!("{}: {target}: {error}", page.name));
            assert!(path.starts_with(root().canonicalize().unwrap()), "{}: {target} is not of this project", page.name);
            let there = anchor.is_empty()
                || Page::read(root().join(path.strip_prefix(root().canonicalize().unwrap()).unwrap())).anchors().contains(anchor);
            assert!(there, "{}: {target}: there is no such heading", page.name);
        }
    }
    assert!(count >= 20, "{count}");
    let index = pages.iter().find(|page| page.name == "docs/README.md").unwrap();
    for page in pages.iter().filter(|page| page.name.starts_with("docs/") && page.name != index.name) {
        let name = page.path.file_name().unwrap().to_str().unwrap();
        assert!(index.prose.contains(&format!("]({name})")), "docs/README.md does not name {name}");
    }
}

#[test]
fn every_key_that_is_named_is_one() {
    let keys = shipped_keys();
    let sections: BTreeSet<_> = keys.iter().filter_map(|key| key.rsplit_once('.')).map(|(section, _)| section).collect();
    // Names that merely look like keys.
    const OTHERS: [&str; 3] = ["learn.rs", "log.rs", "admin.rs"];
    let (named, mut count) = (Regex::new(r"^([a-z_.]+)\.([a-z_]+)( = .*)?$").unwrap(), 0);
    for page in pages() {
        for code in page.code() {
            let Some(found) = named.captures(&code) else { continue };
            let key = format!("{}.{}", &found[1], &found[2]);
            if !sections.contains(&found[1]) || OTHERS.contains(&key.as_str()) {
                continue;
            }
            count += 1;
            assert!(keys.contains(&key), "{}: `{code}`: config/relay.toml has no such key", page.name);
        }
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn what_is_shown_is_compared_but_for_times_ids_and_hashes() {
    for (said, shown, expected) in [
        ("a 2026-11-25T08:00:00.5Z b\n", "a 2020-01-01T00:00:00Z b\n", true),
        ("id=6c4gc4bsc2ee7wnh6", "id=1c4gc4bsc2ee7wnh7", true),
        ("id=6c4gc4bsc2ee7wnh6", "id=6c4gc4bsc2ee7wnh", false),
        ("waits for 1m 3s, x", "waits for 5s, x", true),
        ("one\ntwo\nthree\n", "one\n…\n", true),
        ("one\ntwo\nthree\n", "…\nthree\n", true),
        ("one\ntwo\nthree\n", "…\ntwo\n", false),
        ("newest record: 2:afb3", "newest record: 2:…", true),
        ("newest record: 2:afb3", "newest record: 3:…", false),
        ("a b c b", "a…b", true),
        ("1 sent", "2 sent", false),
    ] {
        assert_eq!(says(said, shown), expected, "{said:?} {shown:?}");
    }
}

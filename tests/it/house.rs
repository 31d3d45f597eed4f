//! The floors of the house: who may use whom. Reads the sources and holds every `use crate::…`, every path and every
//! word in them to the table in `src/lib.rs`; what departs from it today stands in [`DEVIATIONS`], each with a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floors, from the ground: a file uses its own room and the floors below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Floor {
    Words,
    Deciders,
    Readers,
    Holders,
    /// Uses what others hold, and is used by the line.
    Learner,
    Line,
    Loops,
    Door,
}

/// Every file of `src` is on one floor; the first line that fits decides. A folder stands for all of its files.
const FLOORS: &[(&str, Floor)] = &[
    ("mail/", Floor::Words),
    ("place.rs", Floor::Words),
    ("place/", Floor::Words),
    ("optout/mod.rs", Floor::Deciders),
    ("optout/entry.rs", Floor::Deciders),
    ("optout/list.rs", Floor::Deciders),
    ("optout/table.rs", Floor::Deciders),
    ("optout/known.rs", Floor::Deciders),
    ("optout/export.rs", Floor::Readers),
    ("optout/foreign/", Floor::Readers),
    ("dsn.rs", Floor::Deciders),
    ("dsn/", Floor::Deciders),
    ("optout/file.rs", Floor::Readers),
    ("optout/file/", Floor::Readers),
    ("optout/edit.rs", Floor::Readers),
    ("optout/conceal.rs", Floor::Readers),
    ("optout/rows.rs", Floor::Readers),
    ("optout/strike.rs", Floor::Readers),
    ("optout/watch.rs", Floor::Holders),
    ("smtp/command.rs", Floor::Deciders),
    ("smtp/parameters.rs", Floor::Deciders),
    ("smtp/auth.rs", Floor::Deciders),
    ("smtp/session.rs", Floor::Deciders),
    ("smtp/reply.rs", Floor::Deciders),
    ("smtp/input.rs", Floor::Deciders),
    ("smtp/mod.rs", Floor::Loops),
    ("smtp/connection.rs", Floor::Loops),
    ("smtp/stream.rs", Floor::Loops),
    ("certificate.rs", Floor::Holders),
    ("admin/", Floor::Loops),
    ("smtp/crowd.rs", Floor::Loops),
    ("smtp/seldom.rs", Floor::Loops),
    ("learn/phrases/file.rs", Floor::Readers),
    ("learn/phrases.rs", Floor::Deciders),
    ("learn/letter.rs", Floor::Deciders),
    ("learn/letter/", Floor::Deciders),
    ("learn/letterbox.rs", Floor::Deciders),
    ("learn/notice.rs", Floor::Deciders),
    ("learn/notice/", Floor::Deciders),
    ("learn/report.rs", Floor::Deciders),
    ("learn/lesson.rs", Floor::Deciders),
    ("learn/book.rs", Floor::Readers),
    ("learn/quarantine.rs", Floor::Readers),
    ("learn/scribe.rs", Floor::Learner),
    ("learn/mod.rs", Floor::Learner),
    ("learn/", Floor::Loops),
    ("orders.rs", Floor::Holders),
    ("memory.rs", Floor::Holders),
    ("metrics.rs", Floor::Deciders),
    ("metrics/", Floor::Deciders),
    ("config/", Floor::Readers),
    ("disk.rs", Floor::Readers),
    ("disk/", Floor::Readers),
    ("users.rs", Floor::Holders),
    ("users/user.rs", Floor::Deciders),
    ("users/", Floor::Readers),
    ("upstream/", Floor::Holders),
    ("spool/schedule.rs", Floor::Deciders),
    ("spool/record.rs", Floor::Readers),
    ("spool/", Floor::Holders),
    ("ledger/chain.rs", Floor::Deciders),
    ("ledger/question.rs", Floor::Deciders),
    ("ledger.rs", Floor::Holders),
    ("ledger/", Floor::Holders),
    ("delivery.rs", Floor::Loops),
    ("relay.rs", Floor::Line),
    ("relay/", Floor::Line),
    ("daemon.rs", Floor::Door),
    ("daemon/", Floor::Door),
    ("cli/", Floor::Door),
    ("main.rs", Floor::Door),
];

/// Where the house is not as it was drawn: the file, whom or which word it uses, and why that stands for now.
const DEVIATIONS: &[(&str, &str, &str)] =
    &[("mail/address.rs", "serde", "`PlusTags` is also a value of the configuration, and derives its spelling")];

/// Whether a file on a floor must not hold the word.
type Forbids = fn(&str, Floor) -> bool;

/// Words that a floor must not hold, wherever they stand outside of comments and tests.
const FORBIDDEN: [(&str, Forbids); 15] = [
    ("tokio", |_, floor| floor <= Floor::Readers),
    ("std::fs", |_, floor| floor <= Floor::Deciders),
    ("File::open", |_, floor| floor <= Floor::Deciders),
    ("now(", |_, floor| floor <= Floor::Deciders),
    ("TcpStream", |_, floor| floor <= Floor::Readers),
    ("TcpListener", |_, floor| floor <= Floor::Readers),
    ("UdpSocket", |_, floor| floor <= Floor::Readers),
    ("serde", |_, floor| floor == Floor::Words),
    ("clap", |file, _| !file.starts_with("cli/")),
    ("lettre", |file, _| !file.starts_with("upstream/")),
    ("print!", |file, _| !file.starts_with("cli/")),
    ("println!", |file, _| !file.starts_with("cli/")),
    ("dbg!", |_, _| true),
    ("stdout", |file, _| !file.starts_with("cli/")),
    ("stderr", |file, _| !file.starts_with("cli/")),
];

struct House {
    /// The files by their path below `src`: code only, without comments and tests.
    files: BTreeMap<String, String>,
}

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let (mut files, mut folders) = (BTreeMap::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(folder).unwrap();
            let (below, plain): (Vec<PathBuf>, Vec<_>) =
                entries.map(|entry| entry.unwrap().path()).partition(|path| path.is_dir());
            folders.extend(below);
            for path in plain.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, code(&std::fs::read_to_string(path).unwrap()));
            }
        }
        // `lib.rs` is the map: it names everybody.
        files.remove("lib.rs").expect("there is no lib.rs");
        Self { files }
    }

    /// The file in which the thing behind a path of names is written: `["optout", "Lists"]` is in `optout/watch.rs`.
    fn home(&self, path: &[&str]) -> String {
        let room = path[0];
        let single = format!("{room}.rs");
        let below = |name: &str| Some(format!("{room}/{name}.rs")).filter(|file| self.files.contains_key(file));
        let front = [single, format!("{room}/mod.rs")].into_iter().find(|file| self.files.contains_key(file));
        let front = front.unwrap_or_else(|| panic!("there is no room `{room}`"));
        let Some(item) = path.get(1) else { return front };
        let exported = paths_after(&self.files[&front], "pub use ")
            .into_iter()
            .find(|export| export.last().is_some_and(|last| last == item));
        below(item).or_else(|| below(exported?.first()?)).unwrap_or(front)
    }

    /// Whom a file uses, by `crate::…`, by `super::…`, or by the name of a room that it has imported.
    fn used_by(&self, file: &str) -> BTreeSet<String> {
        let code = &self.files[file];
        let room = file.split_once('/').map(|(room, _)| room);
        let mut used = BTreeSet::new();
        for path in paths_after(code, "crate::") {
            let path: Vec<_> = path.iter().map(String::as_str).filter(|name| *name != "self").collect();
            used.insert(self.home(&path));
            if let [room] = path[..] {
                let called = paths_after(code, &format!("{room}::"));
                used.extend(called.iter().map(|called| self.home(&[room, &called[0]])));
            }
        }
        for path in paths_after(code, "super::") {
            let room = room.unwrap_or_else(|| panic!("{file}: what is above it?"));
            used.insert(self.home(&[room, &path[0]]));
        }
        used.remove(file);
        used
    }
}

fn floor(file: &str) -> Floor {
    let found = FLOORS.iter().find(|(place, _)| file == *place || (place.ends_with('/') && file.starts_with(place)));
    found.unwrap_or_else(|| panic!("{file} is on no floor: give it one in tests/it/house.rs and in the map in src/lib.rs")).1
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// Without comments, and without the tests at the end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let bare = |line: &str| match line.match_indices("//").find(|(at, _)| line[..*at].trim_end().len() < *at || *at == 0) {
        Some((at, _)) => line[..at].to_owned(),
        None => line.to_owned(),
    };
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

/// The paths that begin behind `start`, groups in braces taken apart: `a::{b, c::D}` is `[a, b]` and `[a, c, D]`.
fn paths_after(code: &str, start: &str) -> Vec<Vec<String>> {
    let begins = |at: &usize| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'));
    let places = code.match_indices(start).map(|(at, _)| at).filter(begins);
    places.flat_map(|at| tree(&mut code[at + start.len()..].chars().peekable())).collect()
}

fn tree(code: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Vec<Vec<String>> {
    if code.next_if_eq(&'{').is_some() {
        let mut all = Vec::new();
        loop {
            while code.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
            if code.next_if_eq(&'}').is_some() || code.peek().is_none() {
                return all;
            }
            all.extend(tree(code));
        }
    }
    let mut name = String::new();
    while let Some(c) = code.next_if(|c| c.is_alphanumeric() || *c == '_') {
        name.push(c);
    }
    if name.is_empty() {
        // Nothing that is a name, as in a cast or a glob: nothing is used by it.
        code.next();
        return Vec::new();
    }
    let mut ahead = code.clone();
    if ahead.next() == Some(':') && ahead.next() == Some(':') {
        *code = ahead;
        let rest = tree(code);
        if !rest.is_empty() {
            return rest.into_iter().map(|path| [vec![name.clone()], path].concat()).collect();
        }
    }
    vec![vec![name]]
}

/// Whether `file` may use `other` as the house was drawn.
fn may_use(file: &str, other: &str) -> bool {
    let (mine, theirs) = (floor(file), floor(other));
    // Also in one room: a decider that calls a holder is none.
    let one_another = !matches!(mine, Floor::Holders | Floor::Loops) || room(file) == room(other);
    theirs < mine || (theirs == mine && one_another)
}

#[test]
fn a_file_uses_its_own_room_and_the_floors_below() {
    let house = House::read();
    let (mut wrong, mut uses) = (BTreeSet::new(), 0);
    for file in house.files.keys() {
        let used = house.used_by(file);
        uses += used.len();
        wrong.extend(used.into_iter().filter(|other| !may_use(file, other)).map(|other| (file.clone(), other)));
    }
    assert_holds(&wrong, |used| used.ends_with(".rs"));
    // A reader that has gone blind finds nothing wrong.
    assert!(house.files.len() >= 41 && uses >= 110, "read {} files with {uses} uses", house.files.len());
}

#[test]
fn no_floor_holds_a_word_that_is_not_its_own() {
    let house = House::read();
    let mut wrong = BTreeSet::new();
    for (file, code) in &house.files {
        let forbidden = FORBIDDEN.iter().filter(|(word, forbids)| forbids(file, floor(file)) && code.contains(word));
        wrong.extend(forbidden.map(|(word, _)| (file.clone(), (*word).to_owned())));
    }
    assert_holds(&wrong, |used| !used.ends_with(".rs"));
    for (word, home) in [("tokio", "smtp/connection.rs"), ("lettre", "upstream/"), ("stdout", "cli/"), ("clap", "cli/")] {
        let stands = house.files.iter().any(|(file, code)| file.starts_with(home) && code.contains(word));
        assert!(stands, "`{word}` stands nowhere in {home}: is it read at all?");
    }
}

/// What is wrong is a deviation that is known, and every known one is still there.
fn assert_holds(wrong: &BTreeSet<(String, String)>, concerns: fn(&str) -> bool) {
    let known: BTreeSet<_> = DEVIATIONS.iter().filter(|(_, used, _)| concerns(used)).collect();
    let known: BTreeSet<_> = known.iter().map(|(file, used, _)| ((*file).to_owned(), (*used).to_owned())).collect();
    let new: Vec<_> = wrong.difference(&known).collect();
    assert!(new.is_empty(), "these use what stands above them: {new:#?}");
    let gone: Vec<_> = known.difference(wrong).collect();
    assert!(gone.is_empty(), "put right, so take it out of DEVIATIONS: {gone:#?}");
}

#[test]
fn paths_are_taken_apart() {
    let code = code("use crate::a::{self, b, c::{D, E}};\nlet x = crate::f::g(1); // crate::not\n//! crate::nor\n");
    let found: Vec<_> = paths_after(&code, "crate::").iter().map(|path| path.join(" ")).collect();
    assert_eq!(found, ["a self", "a b", "a c D", "a c E", "f g"]);
}

#[test]
fn every_line_of_the_table_is_a_file() {
    let house = House::read();
    for (place, _) in FLOORS {
        // Rooms that are planned, and single files that may grow into rooms.
        let there = house.files.keys().any(|file| file.starts_with(place));
        assert!(there, "{place} has a floor but does not exist");
    }
}

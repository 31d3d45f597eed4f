//! The lists, entry by entry. Never holds more of them than a page.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::answer::{Asked, Named, No, Said, json};
use crate::admin::Desk;
use crate::admin::changes::{self, Removed};
use crate::admin::gate::Who;
use crate::optout::{self, Action, Attributes, EntryError, Subject};
use crate::place::Fault;

/// Entries of one request: each is a line in the log of actions before it is done.
const AT_ONCE: usize = 100;

/// Entries of a page, where nobody says how many, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 10_000;

/// One at a time reads the lists.
#[derive(Clone)]
pub struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    after: usize,
    limit: Option<usize>,
    contains: String,
    kind: String,
    list: String,
}

#[derive(Serialize)]
struct Page {
    entries: Vec<Entry>,
    /// To be given as `after` for the page that follows; null on the last one.
    next: Option<usize>,
}

#[derive(Serialize)]
struct Entry {
    list: String,
    line: u32,
    kind: String,
    entry: String,
    since: Option<String>,
    until: Option<String>,
    reason: Option<String>,
    source: Option<String>,
    action: Option<Action>,
    senders: Vec<String>,
    note: Option<String>,
    verified: Option<bool>,
}

pub async fn list(State(desk): State<Arc<Desk>>, Extension(turn): Extension<Turn>, Asked(asked): Asked<Question>) -> Response {
    let lists = desk.config.all_lists();
    // Whoever waits for a turn is told by the gate when that takes too long; nobody closes it.
    let turn = turn.0.acquire_owned().await;
    let read = spawn_blocking(move || {
        let _turn = turn;
        page(&lists, &asked)
    });
    match read.await {
        Ok(Ok(page)) => json(StatusCode::OK, &page),
        Ok(Err(fault)) => No::new(StatusCode::SERVICE_UNAVAILABLE, fault.to_string()).into_response(),
        Err(_) => No::new(StatusCode::SERVICE_UNAVAILABLE, "the lists cannot be read").into_response(),
    }
}

/// Entries are counted through all lists, in order; what stands behind the page is not read, where the form of the list allows it.
fn page(lists: &[PathBuf], asked: &Question) -> Result<Page, Fault> {
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let contains = asked.contains.to_lowercase();
    let (mut entries, mut at, mut next, full) = (Vec::new(), 0, None, Cell::new(false));
    for path in lists {
        let name = path.display().to_string();
        let is_wanted = asked.list.is_empty() || asked.list == name || path.ends_with(&asked.list);
        let file = File::open(path).map_err(|error| Fault::unreadable(path, &error))?;
        let read = optout::read_from(path, UntilFull { file, full: &full }, &mut |line, subject, attributes| {
            at += 1;
            if full.get() || at <= asked.after || !is_wanted {
                return;
            }
            let (kind, value) = (subject.kind().to_string(), subject.to_string());
            if (!asked.kind.is_empty() && asked.kind != kind) || !value.contains(&contains) {
                return;
            }
            if entries.len() == limit {
                // The last one of the page: there is at least this one behind it.
                full.set(true);
                return;
            }
            next = Some(at);
            entries.push(entry(&name, line, kind, value, attributes));
        });
        // A list that was not read to its end may end oddly.
        if full.get() {
            return Ok(Page { entries, next });
        }
        read?;
    }
    Ok(Page { entries, next: None })
}

/// A file that ends where nobody wants more of it.
struct UntilFull<'a> {
    file: File,
    full: &'a Cell<bool>,
}

impl Read for UntilFull<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.full.get() { Ok(0) } else { self.file.read(buffer) }
    }
}

fn entry(list: &str, line: u32, kind: String, entry: String, about: Attributes) -> Entry {
    let Attributes { since, until, reason, source, action, senders, note, verified, .. } = about;
    let until = until.map(|until| until.to_string());
    Entry { list: list.to_owned(), line, kind, entry, since, until, reason, source, action, senders, note, verified }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct New {
    entries: Vec<String>,
    #[serde(default)]
    reason: String,
    action: Option<Action>,
    until: Option<String>,
    #[serde(default)]
    senders: Vec<String>,
    note: Option<String>,
}

#[derive(Serialize)]
struct Added {
    added: Vec<String>,
    known: usize,
    list: String,
}

pub async fn add(State(desk): State<Arc<Desk>>, who: Who, Said(new): Said<New>) -> Response {
    let (subjects, attributes) = match meant(new) {
        Ok(meant) => meant,
        Err(no) => return no.into_response(),
    };
    let asked = subjects.len();
    match changes::add(&desk, &who, subjects, attributes, "API").await {
        Ok((added, list)) => {
            let status = if added.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
            let known = asked - added.len();
            let added = added.iter().map(Subject::to_string).collect();
            json(status, &Added { added, known, list: list.display().to_string() })
        }
        Err(not) => No::from(not).into_response(),
    }
}

/// All of it or nothing: one entry that is none refuses the request.
fn meant(new: New) -> Result<(Vec<Subject>, Attributes), No> {
    let New { entries, reason, action, until, senders, note } = new;
    if entries.is_empty() || entries.len() > AT_ONCE {
        let hint = "for more, use `optout-relay list add`";
        return Err(No::bad(format!("`entries` names {}, and may name 1 to {AT_ONCE}", entries.len())).hint(hint));
    }
    let no = |error: EntryError| {
        let hint = error.hint().unwrap_or("nothing was added; correct it and send all of it again");
        No::bad(error.to_string()).hint(hint)
    };
    let subjects = entries.iter().map(|entry| Subject::guess(entry)).collect::<Result<_, _>>().map_err(no)?;
    let until = until.map(|until| optout::until(&until)).transpose().map_err(no)?;
    let senders = optout::senders(senders.iter().map(String::as_str)).map_err(no)?;
    Ok((subjects, Attributes { reason: Some(reason), action, until, senders, note, ..Attributes::default() }))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Because {
    reason: String,
}

#[derive(Serialize)]
struct Gone {
    entry: String,
    /// Mail to this address does not leave even so.
    still_suppressed: bool,
}

pub async fn remove(State(desk): State<Arc<Desk>>, who: Who, Named(name): Named, Asked(because): Asked<Because>) -> Response {
    let subject = match Subject::guess(&name) {
        Ok(subject) => subject,
        Err(error) => return No::bad(error.to_string()).into_response(),
    };
    if because.reason.trim().is_empty() {
        let hint = "as in ?reason=asked%20to%20be%20mailed%20again: an opt-out that was taken away is asked about later";
        return No::bad("nothing was removed: say why").hint(hint).into_response();
    }
    let entry = subject.to_string();
    match changes::remove(&desk, &who, subject, &because.reason).await {
        Ok(Removed { was_there: true, still_out }) => json(StatusCode::OK, &Gone { entry, still_suppressed: still_out }),
        Ok(Removed { still_out, .. }) => {
            let no =
                No::new(StatusCode::NOT_FOUND, format!("nothing was removed: {entry} stands in no list that is edited here"));
            let hint = "another entry keeps mail from it: /api/v1/check tells which";
            (if still_out { no.hint(hint) } else { no }).into_response()
        }
        Err(not) => No::from(not).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(page: &Page) -> Vec<&str> {
        page.entries.iter().map(|entry| entry.entry.as_str()).collect()
    }

    #[test]
    fn pages_follow_each_other_through_all_lists() {
        let folder = tempfile::tempdir().unwrap();
        let lists = [("a.toml", "addresses = [\"1@x.example\", \"2@x.example\"]\n"), ("b.txt", "3@x.example\ny.example\n")];
        let lists: Vec<_> = lists
            .iter()
            .map(|(name, text)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            })
            .collect();
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = page(&lists, &Question { after, limit: Some(1), ..Question::default() }).unwrap();
            seen.extend(names(&page).iter().map(|name| (*name).to_owned()));
            match page.next {
                Some(next) => after = next,
                None => break,
            }
        }
        assert_eq!(seen, ["1@x.example", "2@x.example", "3@x.example", "y.example"]);
        let domains = page(&lists, &Question { kind: "domain".into(), ..Question::default() }).unwrap();
        assert_eq!(names(&domains), ["y.example"]);
        let found = page(&lists, &Question { contains: "2@".into(), list: "a.toml".into(), ..Question::default() }).unwrap();
        assert_eq!((names(&found), found.next), (vec!["2@x.example"], None));
    }

    #[test]
    fn what_stands_behind_a_page_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.txt");
        let many: String = (0..10_000).map(|n| format!("{n}@x.example\n")).collect();
        std::fs::write(&path, many + "no entry at all\n").unwrap();
        let first = page(std::slice::from_ref(&path), &Question { limit: Some(2), ..Question::default() }).unwrap();
        assert_eq!((names(&first), first.next), (vec!["0@x.example", "1@x.example"], Some(2)));
        assert!(page(&[path], &Question { limit: Some(9_999), after: 9_000, ..Question::default() }).is_err());
    }
}

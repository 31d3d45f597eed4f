//! What somebody changes here, from a page or by a program: written down first, then done, and in force when that is told. Never
//! decides who may.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::task::spawn_blocking;

use super::gate::Who;
use super::verdict::verdict;
use super::{About, Desk};
use crate::disk::is_replaceable;
use crate::ledger::Act;
use crate::mail::{Address, Id, ReversePath, clean};
use crate::optout::{self, Attributes, Part, Subject};
use crate::spool::{Forgotten, Request, Wanted};

/// Characters of a reason or a note.
const LONGEST: usize = 500;

/// Why nothing was changed, or not all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// What cannot be written down is not done.
    Unwritten,
    /// There is no list that is edited.
    NoList,
    /// The disk, or a list that cannot be read.
    Failed(String),
    /// It stands on the disk, and the list that is in force is another one.
    NotInForce,
}

impl NotDone {
    /// As a sentence of its own.
    pub fn sentence(&self) -> String {
        let text = self.to_string();
        let (first, rest) = text.split_at(text.len().min(1));
        format!("{}{rest}.", first.to_ascii_uppercase())
    }
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwritten => f.write_str(
                "nothing was done: actions.jsonl cannot be written, and what is done here must be on record; the relay's log tells why",
            ),
            Self::NoList => f.write_str("no list of opt_out.lists is a .toml file that the relay may write, and only those are edited"),
            Self::Failed(why) => write!(f, "it could not be written: {why}"),
            Self::NotInForce => f.write_str(
                "it is written down but NOT in force: a list cannot be read, and the former one stays in force; the relay's log tells where",
            ),
        }
    }
}

/// An opt-out was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// It stood in a list that is edited.
    pub was_there: bool,
    /// Mail to this address does not leave even so: by another entry, or by one that is not edited here.
    pub still_out: bool,
}

/// Opts them out; those who were not known yet, and the list in which they stand now. Since when, and by whom, comes on top of
/// `attributes`.
pub async fn add(
    desk: &Desk,
    who: &Who,
    subjects: Vec<Subject>,
    attributes: Attributes,
    by: &str,
) -> Result<(Vec<Subject>, PathBuf), NotDone> {
    // A service may often not write where its configuration lies.
    let list = desk.config.lists.iter().find(|path| optout::is_editable(path) && is_replaceable(path));
    let list = list.cloned().ok_or(NotDone::NoList)?;
    let reason = attributes.reason.as_deref().map(on_one_line).unwrap_or_default();
    for subject in &subjects {
        let about = About { address: &subject.to_string(), reason: &reason, ..About::default() };
        desk.note(who, Act::OptOutAdded, about).await.map_err(|_| NotDone::Unwritten)?;
    }
    let attributes = Attributes {
        since: Some(Timestamp::now().strftime("%Y-%m-%d").to_string()),
        source: Some(format!("{by}, {}", clean(&who.name, 100))),
        reason: Some(reason).filter(|reason| !reason.is_empty()),
        note: attributes.note.as_deref().map(on_one_line).filter(|note| !note.is_empty()),
        ..attributes
    };
    let (path, names) = (list.clone(), subjects.iter().map(Subject::to_string).collect::<Vec<_>>().join(" "));
    let added = match spawn_blocking(move || optout::add(&path, &subjects, &attributes)).await {
        Ok(Ok(added)) => added,
        Ok(Err(error)) => return Err(failed(desk, who, &names, &error.to_string()).await),
        Err(_) => return Err(failed(desk, who, &names, "the writer failed").await),
    };
    in_force(desk, &[Part::Written]).await?;
    Ok((added, list))
}

/// Takes an opt-out out of all lists that are edited.
pub async fn remove(desk: &Desk, who: &Who, subject: Subject, reason: &str) -> Result<Removed, NotDone> {
    let (name, reason) = (subject.to_string(), on_one_line(reason));
    let about = About { address: &name, reason: &reason, ..About::default() };
    desk.note(who, Act::OptOutRemoved, about).await.map_err(|_| NotDone::Unwritten)?;
    let (lists, learned, tags) = (desk.config.lists.clone(), desk.config.learned(), desk.config.file.opt_out.plus_tags);
    let address = if let Subject::Address(address) = &subject { Some(address.clone()) } else { None };
    let strike = move || {
        let learned = Some(learned.as_path()).filter(|learned| learned.exists());
        optout::strike(&lists, learned, &subject, tags, Timestamp::now())
    };
    let struck = match spawn_blocking(strike).await {
        Ok(Ok(struck)) => struck,
        Ok(Err(error)) => return Err(failed(desk, who, &name, &error.to_string()).await),
        Err(_) => return Err(failed(desk, who, &name, "the writer failed").await),
    };
    in_force(desk, &[Part::Written, Part::Learned]).await?;
    let still_out = |address: &Address| verdict(desk, address, &ReversePath::Null, Timestamp::now()).suppressed;
    Ok(Removed { was_there: struck.was_there(), still_out: address.as_ref().is_some_and(still_out) })
}

/// Has a held message tried now, or all; how many that are.
pub async fn retry(desk: &Desk, who: &Who, which: Option<Id>) -> Result<usize, NotDone> {
    let id = which.map_or_else(|| "all".to_owned(), |id| id.to_string());
    desk.note(who, Act::HeldRetried, About { id: &id, ..About::default() }).await.map_err(|_| NotDone::Unwritten)?;
    // Also where the host was not there just now: somebody wants it to be asked.
    desk.relay.spool.ask_again();
    Ok(desk.relay.spool.hurry(which))
}

/// Throws a held message away. One that is under way is dropped after that, if it still waits then.
pub async fn forget(desk: &Desk, who: &Who, id: Id, reason: &str) -> Result<Forgotten, NotDone> {
    let (name, reason) = (id.to_string(), on_one_line(reason));
    let about = About { id: &name, reason: &reason, ..About::default() };
    desk.note(who, Act::HeldDropped, about).await.map_err(|_| NotDone::Unwritten)?;
    let spool = desk.relay.spool.clone();
    let forget = move || {
        let forgotten = spool.forget(id)?;
        if forgotten == Forgotten::NotYet {
            Request { which: Some(id), wanted: Wanted::Drop }.ask(spool.path())?;
        }
        Ok::<_, std::io::Error>(forgotten)
    };
    let why = match spawn_blocking(forget).await {
        Ok(Ok(forgotten)) => return Ok(forgotten),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the writer failed".to_owned(),
    };
    tracing::error!(%id, "admin page: held mail cannot be dropped: {why}");
    let _ = desk.note(who, Act::Failed, About { id: &name, reason: &why, ..About::default() }).await;
    Err(NotDone::Failed(why))
}

/// What was written is read, and mail is judged by it from here on.
async fn in_force(desk: &Desk, parts: &[Part]) -> Result<(), NotDone> {
    for part in parts {
        Arc::clone(&desk.relay.lists).renew(*part).await;
    }
    let is_stale = |part: &Part| desk.relay.lists.is_stale_in(*part);
    if parts.iter().any(is_stale) { Err(NotDone::NotInForce) } else { Ok(()) }
}

async fn failed(desk: &Desk, who: &Who, address: &str, why: &str) -> NotDone {
    tracing::error!("admin page: a list could not be changed: {why}");
    let _ = desk.note(who, Act::Failed, About { address, reason: why, ..About::default() }).await;
    NotDone::Failed(why.to_owned())
}

/// A reason as people write it, on one line.
fn on_one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

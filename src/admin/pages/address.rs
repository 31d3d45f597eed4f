//! One address: what would become of mail to it, by which rule, and what became of it so far; its opt-out is added and taken away here.
//! Never judges by itself: it asks the relay's own judge.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::events::Shown;
use super::{Frame, page, tell};
use crate::admin::Desk;
use crate::admin::changes::{self, Removed};
use crate::admin::gate::Signed;
use crate::admin::sessions::Session;
use crate::admin::verdict::{Rule, Verdict, verdict};
use crate::ledger::{Question, Whom};
use crate::mail::{Address, ReversePath};
use crate::optout::{Action, Attributes, Subject};

/// Lines of the history.
const LINES: usize = 50;

/// Bytes of the logs that are read for it at most; most are passed over without reading.
const BUDGET: u64 = 512 << 20;

#[derive(Template)]
#[template(path = "address.html")]
struct View {
    frame: Frame,
    asked: String,
    from: String,
    problem: Option<String>,
    answer: Option<Answer>,
}

struct Answer {
    address: String,
    /// Mail to it does not leave.
    is_out: bool,
    words: &'static str,
    facts: Vec<(&'static str, String)>,
    history: Option<Vec<Shown>>,
    is_cut: bool,
    actions: [&'static str; 3],
}

/// What is asked.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    address: String,
    /// From whom; empty: from somebody whom no entry names.
    #[serde(default)]
    from: String,
}

pub async fn show(State(desk): State<Arc<Desk>>, Query(asked): Query<Asked>, session: Session) -> Response {
    let (text, now) = (asked.address.trim(), Timestamp::now());
    let (mut problem, mut answer) = (None, None);
    let from = asked.from.trim();
    let sender = if from.is_empty() { Ok(ReversePath::Null) } else { Address::parse(from).map(ReversePath::Address) };
    match (Address::parse(text), sender) {
        _ if text.is_empty() => {}
        (Ok(address), Ok(sender)) => answer = Some(about(&desk, &address, &sender, now).await),
        (Err(error), _) => problem = Some(format!("{text} is no address: {error}.")),
        (_, Err(error)) => problem = Some(format!("{from} is no address: {error}.")),
    }
    page(&View {
        frame: Frame::new(&desk, &session, "Address", "/address"),
        asked: text.to_owned(),
        from: from.to_owned(),
        problem,
        answer,
    })
}

async fn about(desk: &Desk, address: &Address, sender: &ReversePath, now: Timestamp) -> Answer {
    let verdict = verdict(desk, address, sender, now);
    let question = Question { about: Some(Whom::new(address, desk.config.file.opt_out.plus_tags)), ..Question::default() };
    let found = desk.ask(move |index| index.search(&["suppressed", "learned", "sent"], &question, LINES, BUDGET)).await;
    let found = found.and_then(|found| found.inspect_err(|error| tracing::warn!("the logs cannot be read: {error}")).ok());
    let is_cut = found.as_ref().is_some_and(|found| found.is_cut);
    let history = found.map(|found| found.lines.iter().map(|line| Shown::of(line, now)).collect());
    let (is_out, words, facts) = (verdict.suppressed, verdict.words, facts(verdict));
    Answer { address: address.to_string(), is_out, words, facts, history, is_cut, actions: ["reject", "drop", "bounce"] }
}

/// What there is to say of the entry that decides.
fn facts(verdict: Verdict) -> Vec<(&'static str, String)> {
    let Some(Rule { kind, value, file, line, since, until, reason, source, senders, note }) = verdict.rule else {
        return Vec::new();
    };
    let senders = Some(senders.join(" ")).filter(|senders| !senders.is_empty());
    let facts = [
        ("rule", Some(format!("{kind} {value}"))),
        ("stands in", Some(format!("{file}, line {line}"))),
        ("action", verdict.action.map(|action| action.to_string())),
        ("since", since),
        ("until", until),
        ("reason", reason),
        ("source", source),
        ("only from", senders),
        ("note", note),
    ];
    facts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

fn place(address: &str) -> String {
    format!("/address?address={}", utf8_percent_encode(address, NON_ALPHANUMERIC))
}

pub async fn add(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    let (text, reason) = (form.get("address"), form.get("reason"));
    let to = place(text);
    let said = |is_good, words: String| tell(&desk, &form.session, is_good, words, &to);
    let subject = match Subject::guess(text) {
        Ok(subject) => subject,
        Err(error) => return said(false, format!("Nothing was added: {error}. {}", error.hint().unwrap_or_default())),
    };
    let action = match form.get("action") {
        "" => None,
        action => match action.parse::<Action>() {
            Ok(action) => Some(action),
            Err(_) => return said(false, "Nothing was added: there is no such action.".into()),
        },
    };
    let attributes = Attributes { reason: Some(reason.to_owned()), action, ..Attributes::default() };
    match changes::add(&desk, &form.who, vec![subject], attributes, "admin page").await {
        Ok((added, list)) => {
            let is_new = !added.is_empty();
            let words = if is_new { "has opted out: mail to it does not leave from now on" } else { "stood in the list already" };
            said(true, format!("{text} {words} ({}).", list.display()))
        }
        Err(not) => said(false, not.sentence()),
    }
}

pub async fn remove(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    let (text, reason) = (form.get("address"), form.get("reason"));
    let to = place(text);
    let said = |is_good, words: String| tell(&desk, &form.session, is_good, words, &to);
    let subject = match Subject::guess(text) {
        Ok(subject) => subject,
        Err(error) => return said(false, format!("Nothing was removed: {error}.")),
    };
    if reason.is_empty() {
        return said(false, "Nothing was removed: say why. An opt-out that was taken away is asked about later.".into());
    }
    let Removed { was_there, still_out } = match changes::remove(&desk, &form.who, subject, reason).await {
        Ok(removed) => removed,
        Err(not) => return said(false, not.sentence()),
    };
    match (was_there, still_out) {
        (true, false) => said(true, format!("{text} is mailed again from now on.")),
        (true, true) => said(false, format!("The entry was removed, but another rule still keeps mail from {text}: see below.")),
        (false, true) => said(
            false,
            format!("Nothing was removed: {text} is kept from mail by the rule below, which this page does not edit."),
        ),
        (false, false) => said(false, format!("Nothing was removed: {text} stands in no list.")),
    }
}

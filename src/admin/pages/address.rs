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
use crate::admin::gate::Signed;
use crate::admin::sessions::Session;
use crate::admin::{About, Desk};
use crate::ledger::{Act, Question, Whom};
use crate::mail::{Address, ReversePath, clean};
use crate::optout::{self, Action, Attributes, Context, Part, Subject, Title, Verdict};

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
    let (is_out, words, facts) = verdict(desk, address, sender, now);
    let question = Question { about: Some(Whom::new(address, desk.config.file.opt_out.plus_tags)), ..Question::default() };
    let found = desk.ask(move |index| index.search(&["suppressed", "learned", "sent"], &question, LINES, BUDGET)).await;
    let found = found.and_then(|found| found.inspect_err(|error| tracing::warn!("the logs cannot be read: {error}")).ok());
    let is_cut = found.as_ref().is_some_and(|found| found.is_cut);
    let history = found.map(|found| found.lines.iter().map(|line| Shown::of(line, now)).collect());
    Answer { address: address.to_string(), is_out, words, facts, history, is_cut, actions: ["reject", "drop", "bounce"] }
}

fn verdict(
    desk: &Desk,
    address: &Address,
    sender: &ReversePath,
    now: Timestamp,
) -> (bool, &'static str, Vec<(&'static str, String)>) {
    if desk.relay.learner.letterbox.asked(address).is_some() {
        return (true, "goes nowhere: it is learned from (learn.address)", Vec::new());
    }
    let list = desk.relay.lists.current_shared();
    let context = Context { sender, now, title: Title::Is(""), policy: &desk.relay.policy, orders: &[] };
    let (is_out, words, suppression) = match optout::judge(&list, address, &context) {
        Verdict::Clear(_) => return (false, "is forwarded", Vec::new()),
        Verdict::Observed(_, suppression) => {
            (false, "is forwarded, because opt_out.mode is observe; the opt-out is only logged", suppression)
        }
        Verdict::Exempted(_, suppression) => (false, "is forwarded, because of opt_out.exempt_subjects", suppression),
        Verdict::Open(suppression) | Verdict::OptedOut(suppression) => (true, "is suppressed", suppression),
    };
    let (rule, action) = (&suppression.rule, suppression.action);
    let mut facts = vec![
        ("rule", format!("{} {}", rule.kind, rule.value())),
        ("stands in", format!("{}, line {}", rule.file.display(), rule.line)),
        ("action", action.to_string()),
    ];
    let about = rule.attributes;
    let until = about.until.map(|until| until.to_string());
    let senders = Some(about.senders.join(" ")).filter(|senders| !senders.is_empty());
    for (name, text) in [
        ("since", &about.since),
        ("until", &until),
        ("reason", &about.reason),
        ("source", &about.source),
        ("only from", &senders),
        ("note", &about.note),
    ] {
        facts.extend(text.iter().map(|text| (name, text.clone())));
    }
    (is_out, words, facts)
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
    let Some(list) = desk.config.lists.iter().find(|path| optout::is_editable(path)).cloned() else {
        return said(false, "Nothing was added: no list of opt_out.lists is a .toml file, and only those are edited.".into());
    };
    if desk.note(&form.who, Act::OptOutAdded, About { address: text, reason, ..About::default() }).await.is_err() {
        return said(false, UNWRITTEN.into());
    }
    let attributes = Attributes {
        since: Some(Timestamp::now().strftime("%Y-%m-%d").to_string()),
        reason: Some(clean_text(reason)).filter(|reason| !reason.is_empty()),
        source: Some(format!("admin page, {}", clean(&form.who.name, 100))),
        action,
        ..Attributes::default()
    };
    let (path, subjects) = (list.clone(), vec![subject]);
    let added =
        tokio::task::spawn_blocking(move || optout::add(&path, &subjects, &attributes).map(|added| !added.is_empty())).await;
    match added {
        Ok(Ok(is_new)) => {
            desk.relay.lists.clone().renew(Part::Written).await;
            let words = if is_new { "has opted out: mail to it does not leave from now on" } else { "stood in the list already" };
            said(true, format!("{text} {words} ({}).", list.display()))
        }
        Ok(Err(error)) => failed(&desk, &form, text, &error.to_string(), &to).await,
        Err(_) => failed(&desk, &form, text, "the writer failed", &to).await,
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
    if desk.note(&form.who, Act::OptOutRemoved, About { address: text, reason, ..About::default() }).await.is_err() {
        return said(false, UNWRITTEN.into());
    }
    let (lists, learned, tags) = (desk.config.lists.clone(), desk.config.learned(), desk.config.file.opt_out.plus_tags);
    let strike = move || {
        let learned = Some(learned.as_path()).filter(|learned| learned.exists());
        optout::strike(&lists, learned, &subject, tags, Timestamp::now())
    };
    match tokio::task::spawn_blocking(strike).await {
        Ok(Ok(struck)) => {
            desk.relay.lists.clone().renew(Part::Written).await;
            desk.relay.lists.clone().renew(Part::Learned).await;
            let rest =
                Address::parse(text).ok().is_some_and(|address| verdict(&desk, &address, &ReversePath::Null, Timestamp::now()).0);
            match (struck.was_there(), rest) {
                (true, false) => said(true, format!("{text} is mailed again from now on.")),
                (true, true) => {
                    said(false, format!("The entry was removed, but another rule still keeps mail from {text}: see below."))
                }
                (false, true) => said(
                    false,
                    format!("Nothing was removed: {text} is kept from mail by the rule below, which this page does not edit."),
                ),
                (false, false) => said(false, format!("Nothing was removed: {text} stands in no list.")),
            }
        }
        Ok(Err(error)) => failed(&desk, &form, text, &error.to_string(), &to).await,
        Err(_) => failed(&desk, &form, text, "the writer failed", &to).await,
    }
}

/// What cannot be written down is not done.
pub const UNWRITTEN: &str =
    "Nothing was done: actions.jsonl cannot be written, and what is done here must be on record. The relay's log tells why.";

async fn failed(desk: &Desk, form: &Signed, address: &str, why: &str, to: &str) -> Response {
    tracing::error!("admin page: a list could not be changed: {why}");
    let _ = desk.note(&form.who, Act::Failed, About { address, reason: why, ..About::default() }).await;
    tell(desk, &form.session, false, format!("The list could not be changed: {why}"), to)
}

/// A reason as people write it, on one line.
fn clean_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

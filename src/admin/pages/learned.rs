//! What was learned from notices, and what waits for a person to decide. Never learns by itself.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;

use super::events::Shown;
use super::{Frame, page, tell};
use crate::admin::changes::NotDone;
use crate::admin::gate::Signed;
use crate::admin::sessions::Session;
use crate::admin::{About, Desk};
use crate::learn::{Intake, Lesson, Quarantine, about};
use crate::ledger::{self, Act, Question};
use crate::place::Fault;

/// Lines of what was learned; entries that wait.
const LINES: usize = 50;

/// Bytes of the log that are read at most.
const BUDGET: u64 = 64 << 20;

#[derive(Template)]
#[template(path = "learned.html")]
struct View {
    frame: Frame,
    waiting: Vec<Waiting>,
    more: usize,
    problem: Option<String>,
    events: Option<Vec<Shown>>,
}

struct Waiting {
    id: String,
    subject: String,
    why: String,
    source: String,
    since: String,
}

pub async fn show(State(desk): State<Arc<Desk>>, session: Session) -> Response {
    let (quarantine, now) = (Quarantine::new(desk.config.quarantine()), Timestamp::now());
    let all = tokio::task::spawn_blocking(move || quarantine.all()).await;
    let (all, problem) = match all {
        Ok(Ok(all)) => (all, None),
        Ok(Err(fault)) => (Vec::new(), Some(fault.to_string())),
        Err(_) => (Vec::new(), Some("the reader failed".to_owned())),
    };
    let more = all.len().saturating_sub(LINES);
    let waiting = all.into_iter().take(LINES).map(|waiting| {
        let attributes = waiting.entry.attributes;
        Waiting {
            id: waiting.id,
            subject: waiting.entry.subject.to_string(),
            why: waiting.why,
            source: attributes.source.unwrap_or_default(),
            since: attributes.since.unwrap_or_default(),
        }
    });
    let waiting = waiting.collect();
    let found = desk.ask(|index| index.search(&["learned"], &Question::default(), LINES, BUDGET)).await.and_then(Result::ok);
    let events = found.map(|found| found.lines.iter().map(|line| Shown::of(line, now)).collect());
    page(&View { frame: Frame::new(&desk, &session, "Learned opt-outs", "/learned"), waiting, more, problem, events })
}

pub async fn accept(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    decide(&desk, &form, Act::LearnedAccepted).await
}

pub async fn reject(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    decide(&desk, &form, Act::LearnedRejected).await
}

async fn decide(desk: &Desk, form: &Signed, act: Act) -> Response {
    let said = |is_good, words: String| tell(desk, &form.session, is_good, words, "/learned");
    let (quarantine, id) = (Quarantine::new(desk.config.quarantine()), form.get("id").to_owned());
    let read = {
        let (quarantine, id) = (quarantine.clone(), id.clone());
        tokio::task::spawn_blocking(move || quarantine.get(&id))
            .await
            .unwrap_or_else(|_| Err(Fault::of_file("".as_ref(), "the reader failed")))
    };
    let mut entry = match read {
        Ok(waiting) => waiting.entry,
        Err(fault) => return said(false, format!("Nothing was decided: {fault}")),
    };
    let subject = entry.subject.to_string();
    if desk.note(&form.who, act, About { address: &subject, id: &id, ..About::default() }).await.is_err() {
        return said(false, NotDone::Unwritten.sentence());
    }
    let event = if act == Act::LearnedAccepted { ledger::Lesson::Accepted } else { ledger::Lesson::Rejected };
    if act == Act::LearnedAccepted {
        // A person vouches for it.
        entry.attributes.verified = Some(true);
        if desk.relay.learner.weigh(vec![Lesson::Learn(entry.clone())], Intake::Command).await.is_err() {
            return said(false, "It could not be learned; the relay's log tells why. It waits still.".into());
        }
    }
    if desk.relay.ledger.learned(&[about(&entry, event, Intake::Command.to_string())]).await.is_err() {
        return said(false, "learned.jsonl cannot be written; the relay's log tells why.".into());
    }
    let settle = move || if act == Act::LearnedAccepted { quarantine.take_out(&id) } else { quarantine.reject(&id) };
    match tokio::task::spawn_blocking(settle).await {
        Ok(Ok(())) if act == Act::LearnedAccepted => {
            said(true, format!("{subject} has opted out: mail to it does not leave from now on."))
        }
        Ok(Ok(())) => said(true, format!("{subject} was turned down; the same notice does not ask again.")),
        Ok(Err(error)) => said(false, format!("The quarantine could not be changed: {error}.")),
        Err(_) => said(false, "The quarantine could not be changed: the writer failed.".into()),
    }
}

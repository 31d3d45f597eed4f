//! The suppression log, with filters, page by page, the newest first. Never reads a log whole at once.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::events::Shown;
use super::{Frame, page, shown};
use crate::admin::Desk;
use crate::admin::sessions::Session;
use crate::ledger::{Question, Whom, moment};
use crate::mail::Address;

/// Lines of a page.
const LINES: usize = 50;

/// Bytes that are read for a page at most; whoever wants more asks for the next.
const BUDGET: u64 = 96 << 20;

/// What is asked; empty: any.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    address: String,
    sender: String,
    rule: String,
    action: String,
    since: String,
    until: String,
    before: String,
}

#[derive(Template)]
#[template(path = "log.html")]
struct View {
    frame: Frame,
    asked: Asked,
    problem: Option<String>,
    events: Option<Vec<Shown>>,
    older: Option<String>,
    looked_back_to: Option<String>,
    actions: [(&'static str, &'static str); 3],
}

pub async fn show(State(desk): State<Arc<Desk>>, Query(asked): Query<Asked>, session: Session) -> Response {
    let now = Timestamp::now();
    let (mut problem, mut events, mut older, mut looked_back_to) = (None, None, None, None);
    match asked.question(&desk, now) {
        Err(words) => problem = Some(words),
        Ok(question) => {
            let answer = desk.ask(move |index| index.search(&["suppressed"], &question, LINES, BUDGET)).await;
            match answer {
                None => {}
                Some(Ok(answer)) => {
                    let last = answer.lines.last().map(|line| line.seq).filter(|seq| *seq > 0);
                    let next = if answer.looked_back_to.is_some() { answer.next } else { last };
                    older = next.filter(|_| answer.is_cut).map(|before| asked.place(before));
                    looked_back_to = answer.looked_back_to.map(shown);
                    events = Some(answer.lines.iter().map(|line| Shown::of(line, now)).collect());
                }
                Some(Err(error)) => problem = Some(format!("The log cannot be read: {error}.")),
            }
        }
    }
    let actions = [("reject", "rejected"), ("drop", "dropped"), ("bounce", "bounced")];
    let frame = Frame::new(&desk, &session, "Suppression log", "/log");
    page(&View { frame, asked, problem, events, older, looked_back_to, actions })
}

impl Asked {
    fn question(&self, desk: &Desk, now: Timestamp) -> Result<Question, String> {
        let text = |text: &str| Some(text.trim().to_lowercase()).filter(|text| !text.is_empty());
        let time = |text: &str| match text.trim() {
            "" => Ok(None),
            text => moment(text, now)
                .map(Some)
                .ok_or_else(|| format!("{text} is no time: as in 2026-11-25, or 7d for seven days ago.")),
        };
        let about = match self.address.trim() {
            "" => None,
            text => {
                let address = Address::parse(text).map_err(|error| format!("{text} is no address: {error}."))?;
                Some(Whom::new(&address, desk.config.file.opt_out.plus_tags))
            }
        };
        // A part of a sender is enough, as a person types it.
        let sender = text(&self.sender).map(|part| if part.contains(['*', '?']) { part } else { format!("*{part}*") });
        Ok(Question {
            since: time(&self.since)?,
            until: time(&self.until)?,
            about,
            sender,
            rule: text(&self.rule),
            action: text(&self.action),
            id: None,
            before: self.before.parse().ok(),
        })
    }

    /// The page before this number of the log.
    fn place(&self, before: u64) -> String {
        let mut place = format!("/log?before={before}");
        for (name, text) in [
            ("address", &self.address),
            ("sender", &self.sender),
            ("rule", &self.rule),
            ("action", &self.action),
            ("since", &self.since),
            ("until", &self.until),
        ] {
            if !text.is_empty() {
                place += &format!("&{name}={}", utf8_percent_encode(text, NON_ALPHANUMERIC));
            }
        }
        place
    }
}

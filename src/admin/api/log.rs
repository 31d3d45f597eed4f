//! What the logs say, the newest first. Never reads them whole where it can be told that something is not there.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::{Asked, No, json};
use super::check::address;
use crate::admin::Desk;
use crate::ledger::{self, Line, Whom, moment};
use crate::mail::PlusTags;
use crate::optout::Action;

/// Records of a page, where nobody says how many, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// Bytes that are read for one page at most.
const BUDGET: u64 = 512 << 20;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    log: Log,
    address: String,
    since: String,
    until: String,
    action: Option<Action>,
    rule: String,
    sender: String,
    id: String,
    before: Option<u64>,
    limit: Option<usize>,
}

/// Each has numbers of its own, by which its pages follow each other.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Log {
    #[default]
    Suppressed,
    Learned,
    Sent,
}

#[derive(Serialize)]
struct Page<'a> {
    records: Vec<Record<'a>>,
    /// To be given as `before` for the page that follows; null on the last one.
    next: Option<u64>,
    /// The search ended here, because it had read enough: there may be more on the page that follows.
    looked_back_to: Option<String>,
}

/// A record; what it does not have is left out.
#[derive(Serialize)]
struct Record<'a> {
    seq: u64,
    time: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    action: &'a str,
    address: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sender: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    client: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    helo: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    list: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reply: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    intake: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    upstream: &'a str,
}

#[derive(Serialize)]
struct Rule<'a> {
    file: &'a str,
    line: u32,
    kind: &'a str,
    value: &'a str,
}

pub async fn search(State(desk): State<Arc<Desk>>, Asked(asked): Asked<Question>) -> Response {
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let log = match asked.log {
        Log::Suppressed => "suppressed",
        Log::Learned => "learned",
        Log::Sent => "sent",
    };
    let question = match meant(asked, desk.config.file.opt_out.plus_tags, Timestamp::now()) {
        Ok(question) => question,
        Err(no) => return no.into_response(),
    };
    let Some(found) = desk.ask(move |index| index.search(&[log], &question, limit, BUDGET)).await else {
        let no = No::new(StatusCode::SERVICE_UNAVAILABLE, "the logs are being read for the first time; try again");
        return no.into_response();
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!("the logs cannot be read: {error}");
            return No::new(StatusCode::SERVICE_UNAVAILABLE, "the logs cannot be read; the relay's log tells why")
                .into_response();
        }
    };
    let last = found.lines.last().filter(|_| found.is_cut).map(|line| line.seq);
    let looked_back_to = found.looked_back_to.map(|time| time.to_string());
    let records = found.lines.iter().map(record).collect();
    json(StatusCode::OK, &Page { records, next: found.next.or(last), looked_back_to })
}

fn meant(asked: Question, tags: PlusTags, now: Timestamp) -> Result<ledger::Question, No> {
    let time = |name: &str, text: &str| match text.trim() {
        "" => Ok(None),
        text => moment(text, now).map(Some).ok_or_else(|| {
            No::bad(format!("`{name}` is no time")).hint("2026-11-25, 2026-11-25T08:00:00Z, or 7d for seven days ago")
        }),
    };
    let about = match asked.address.trim() {
        "" => None,
        text => Some(Whom::new(&address("address", text)?, tags)),
    };
    let given = |text: &str| Some(text.trim().to_lowercase()).filter(|text| !text.is_empty());
    Ok(ledger::Question {
        since: time("since", &asked.since)?,
        until: time("until", &asked.until)?,
        about,
        sender: given(&asked.sender),
        rule: given(&asked.rule),
        action: asked.action.map(|action| action.to_string()),
        id: Some(asked.id).filter(|id| !id.is_empty()),
        before: asked.before,
    })
}

fn record(line: &Line) -> Record<'_> {
    Record {
        seq: line.seq,
        time: &line.time,
        event: &line.event,
        action: &line.action,
        address: line.about(),
        sender: &line.sender,
        client: &line.client,
        helo: &line.helo,
        message_id: line.message_id.as_deref(),
        id: &line.id,
        rule: line.rule.as_ref().map(|rule| Rule { file: &rule.file, line: rule.line, kind: &rule.kind, value: &rule.value }),
        reason: line.reason.as_deref(),
        source: line.source.as_deref(),
        since: line.since.as_deref(),
        list: &line.list,
        reply: &line.reply,
        intake: &line.intake,
        order: line.order.as_deref(),
        upstream: &line.upstream,
    }
}

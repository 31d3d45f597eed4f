//! Mail that is held. Never shows what stands in it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::answer::{Asked, Named, No, json};
use crate::admin::Desk;
use crate::admin::changes;
use crate::admin::gate::Who;
use crate::mail::Id;
use crate::spool::{self, Forgotten, Record};

/// Messages of a page, where nobody says how many, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    after: String,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Page {
    messages: Vec<Held>,
    /// To be given as `after` for the page that follows; null on the last one.
    next: Option<String>,
}

/// A message, or why nothing can be said of it.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Held {
    /// Whole.
    Readable(Box<Message>),
    /// Its record is not.
    Broken {
        /// Of the message.
        id: String,
        /// Why.
        error: String,
    },
}

/// Its envelope, and how it goes.
#[derive(Serialize)]
pub struct Message {
    id: String,
    arrived: String,
    sender: String,
    client: String,
    helo: String,
    size: u64,
    attempts: u32,
    in_flight: bool,
    next_attempt: String,
    recipients: Vec<Recipient>,
}

#[derive(Serialize)]
struct Recipient {
    address: String,
    /// `waiting`, `sent`, `deferred`, `bounced` or `suppressed`.
    status: &'static str,
    reply: Option<String>,
}

pub async fn list(State(desk): State<Arc<Desk>>, Asked(asked): Asked<Question>) -> Response {
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let after = match asked.after.as_str() {
        "" => None,
        text => match id(text) {
            Ok(id) => Some(id),
            Err(no) => return no.into_response(),
        },
    };
    let folder = desk.config.spool();
    let read = spawn_blocking(move || {
        let records = spool::records_after(&folder, after)?;
        let mut held: Vec<_> = records.take(limit + 1).map(|(id, record)| (id, held(id, record))).collect();
        let is_cut = held.len() > limit;
        held.truncate(limit);
        let next = held.last().filter(|_| is_cut).map(|(id, _)| id.to_string());
        Ok::<_, std::io::Error>(Page { messages: held.into_iter().map(|(_, held)| held).collect(), next })
    });
    match read.await {
        Ok(Ok(page)) => json(StatusCode::OK, &page),
        Ok(Err(error)) => No::new(StatusCode::SERVICE_UNAVAILABLE, format!("the spool cannot be read: {error}")).into_response(),
        Err(_) => No::new(StatusCode::SERVICE_UNAVAILABLE, "the spool cannot be read").into_response(),
    }
}

/// As programs are told of it.
pub fn held(id: Id, record: Result<Record, String>) -> Held {
    let record = match record {
        Ok(record) => record,
        Err(error) => return Held::Broken { id: id.to_string(), error },
    };
    let envelope = &record.envelope;
    let recipients = envelope.recipients.iter().zip(&record.outcomes).map(|(recipient, outcome)| Recipient {
        address: recipient.address.to_string(),
        status: outcome.as_ref().map_or("waiting", |outcome| outcome.word()),
        reply: outcome.as_ref().map(|outcome| outcome.status().to_string()),
    });
    Held::Readable(Box::new(Message {
        id: id.to_string(),
        arrived: record.arrived.to_string(),
        sender: envelope.sender.to_string(),
        client: envelope.client.ip.to_string(),
        helo: envelope.client.helo.to_string(),
        size: record.size,
        attempts: record.attempts,
        in_flight: record.in_flight(),
        next_attempt: record.next.to_string(),
        recipients: recipients.collect(),
    }))
}

#[derive(Serialize)]
struct Done {
    id: String,
    done: &'static str,
}

pub async fn retry(State(desk): State<Arc<Desk>>, who: Who, Named(name): Named) -> Response {
    let id = match id(&name) {
        Ok(id) => id,
        Err(no) => return no.into_response(),
    };
    match changes::retry(&desk, &who, Some(id)).await {
        Ok(1..) => json(StatusCode::ACCEPTED, &Done { id: id.to_string(), done: "retried" }),
        Ok(0) => No::new(StatusCode::NOT_FOUND, format!("{id} does not wait")).hint(GONE).into_response(),
        Err(not) => No::from(not).into_response(),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Because {
    reason: String,
}

pub async fn forget(State(desk): State<Arc<Desk>>, who: Who, Named(name): Named, Asked(because): Asked<Because>) -> Response {
    let id = match id(&name) {
        Ok(id) => id,
        Err(no) => return no.into_response(),
    };
    match changes::forget(&desk, &who, id, &because.reason).await {
        Ok(Forgotten::Now) => json(StatusCode::OK, &Done { id: id.to_string(), done: "dropped" }),
        // If it still waits then.
        Ok(Forgotten::NotYet) => json(StatusCode::ACCEPTED, &Done { id: id.to_string(), done: "dropped_after_attempt" }),
        Ok(Forgotten::Before) => No::new(StatusCode::NOT_FOUND, format!("{id} is not held")).hint(GONE).into_response(),
        Err(not) => No::from(not).into_response(),
    }
}

const GONE: &str = "it was delivered, given up or dropped, or is under way just now; the log tells";

fn id(text: &str) -> Result<Id, No> {
    Id::parse(text)
        .ok_or_else(|| No::bad("this is no id of a message").hint("an id has 17 letters and digits; /api/v1/spool tells them"))
}

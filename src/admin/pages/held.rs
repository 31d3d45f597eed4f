//! Mail that waits: for whom, why, until when; tried now or dropped. Never shows what is in a mail.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::{Frame, ago, number, page, plural, tell};
use crate::admin::gate::Signed;
use crate::admin::sessions::Session;
use crate::admin::{Desk, changes};
use crate::mail::{Id, Outcome};
use crate::spool::{self, Forgotten, Record};

/// Mails of a page.
const MAILS: usize = 50;

#[derive(Template)]
#[template(path = "held.html")]
struct View {
    frame: Frame,
    count: String,
    mails: Vec<Held>,
    after: Option<String>,
    is_first: bool,
}

struct Held {
    id: String,
    sender: String,
    came: String,
    next: String,
    tried: String,
    size: String,
    recipients: Vec<(String, String)>,
    /// It cannot be read; why.
    broken: Option<String>,
}

/// The page behind this id.
#[derive(Debug, Deserialize)]
pub struct Asked {
    #[serde(default)]
    after: String,
}

pub async fn show(State(desk): State<Arc<Desk>>, Query(asked): Query<Asked>, session: Session) -> Response {
    let (folder, now, after) = (desk.config.spool(), Timestamp::now(), Id::parse(&asked.after));
    let read = move || {
        let mails = spool::records_after(&folder, after)?.take(MAILS + 1);
        Ok::<_, std::io::Error>(mails.map(|(id, record)| Held::of(id, record, now)).collect::<Vec<_>>())
    };
    let read = tokio::task::spawn_blocking(read).await.unwrap_or_else(|_| Err(std::io::Error::other("the reader failed")));
    let mut mails = match read {
        Ok(mails) => mails,
        Err(error) => {
            tracing::error!("admin page: the spool cannot be read: {error}");
            return tell(&desk, &session, false, format!("The spool cannot be read: {error}."), "/");
        }
    };
    let is_cut = mails.len() > MAILS;
    mails.truncate(MAILS);
    let after = mails.last().filter(|_| is_cut).map(|held| held.id.clone());
    let frame = Frame::new(&desk, &session, "Held mail", "/held");
    page(&View { frame, count: plural(desk.relay.spool.len(), "mail"), mails, after, is_first: asked.after.is_empty() })
}

impl Held {
    fn of(id: Id, record: Result<Record, String>, now: Timestamp) -> Self {
        let nothing = String::new;
        let record = match record {
            Ok(record) => record,
            Err(why) => {
                let (sender, came, next, tried, size) = (nothing(), nothing(), nothing(), nothing(), nothing());
                return Self { id: id.to_string(), sender, came, next, tried, size, recipients: Vec::new(), broken: Some(why) };
            }
        };
        let recipients = record.envelope.recipients.iter().zip(&record.outcomes).map(|(recipient, outcome)| {
            let said = match outcome {
                None => "not tried yet".to_owned(),
                Some(Outcome::Deferred(status)) => format!("waits: {status}"),
                Some(Outcome::Delivered(status)) => format!("delivered: {status}"),
                Some(Outcome::Refused(status)) => format!("refused: {status}"),
                Some(Outcome::Suppressed { .. }) => "suppressed: has opted out meanwhile".to_owned(),
            };
            (recipient.address.to_string(), said)
        });
        Self {
            id: id.to_string(),
            sender: if record.is_report() { "<> (a report)".into() } else { record.envelope.sender.as_str().to_owned() },
            came: ago(record.arrived, now),
            next: if record.in_flight() {
                "is tried now".into()
            } else if record.next <= now {
                "is tried as soon as the mail host is there".into()
            } else {
                format!("is tried again {}", ago(record.next, now))
            },
            tried: match record.attempts {
                0 => "not tried yet".into(),
                1 => "tried once".into(),
                more => format!("tried {} times", number(more)),
            },
            size: number(record.size),
            recipients: recipients.collect(),
            broken: None,
        }
    }
}

pub async fn retry(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    let id = form.get("id");
    let which = match id {
        "all" => None,
        id => match Id::parse(id) {
            Some(id) => Some(id),
            None => return tell(&desk, &form.session, false, "There is no such mail.", "/held"),
        },
    };
    let count = match changes::retry(&desk, &form.who, which).await {
        Ok(count) => count,
        Err(not) => return tell(&desk, &form.session, false, not.sentence(), "/held"),
    };
    let words = if count == 0 {
        "Nothing waits: it is under way, or gone.".into()
    } else {
        format!("{} to be tried now.", plural(count, "mail"))
    };
    tell(&desk, &form.session, count > 0, words, "/held")
}

pub async fn drop(State(desk): State<Arc<Desk>>, form: Signed) -> Response {
    let Some(id) = Id::parse(form.get("id")) else {
        return tell(&desk, &form.session, false, "There is no such mail.", "/held");
    };
    let (is_good, words) = match changes::forget(&desk, &form.who, id, form.get("reason")).await {
        Ok(Forgotten::Now) => (true, format!("{id} was dropped: nobody gets it, and its sender is not told.")),
        Ok(Forgotten::Before) => (false, format!("{id} is held no more: it was delivered, given up or dropped.")),
        Ok(Forgotten::NotYet) => (false, format!("{id} is under way just now, and dropped if it still waits after that.")),
        Err(not) => (false, not.sentence()),
    };
    tell(&desk, &form.session, is_good, words, "/held")
}

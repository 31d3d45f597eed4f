//! How it goes: the host, the list, what waits, what was done by day, what went wrong. Never changes anything.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Frame, ago, number, page, plural, shown};
use crate::admin::chart::{Chart, HEIGHT, WIDTH, chart};
use crate::admin::sessions::Session;
use crate::admin::{Desk, Problem};
use crate::learn::Quarantine;
use crate::ledger::Day;
use crate::optout::Mode;
use crate::spool;

/// Days of the charts.
const DAYS: i32 = 30;

#[derive(Template)]
#[template(path = "status.html")]
struct Status {
    frame: Frame,
    version: &'static str,
    started: String,
    host: String,
    host_state: State3,
    host_words: &'static str,
    is_observing: bool,
    entries: String,
    list_since: String,
    fingerprint: String,
    files: Vec<(String, String)>,
    held: usize,
    held_words: String,
    has_room: bool,
    quarantine: usize,
    charts: Option<Charts>,
    problems: Vec<(Problem, String)>,
}

struct Charts {
    sent: Chart,
    suppressed: Chart,
    today: Day,
    week: Day,
}

/// How it goes with something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State3 {
    Good,
    Bad,
}

pub async fn show(State(desk): State<Arc<Desk>>, session: Session) -> Response {
    let now = Timestamp::now();
    let relay = &desk.relay;
    let (host_state, host_words) = if relay.upstream.refuses_login() {
        (State3::Bad, "refuses the login; mail is held until the password is right")
    } else if relay.spool.host_is_away() {
        (State3::Bad, "cannot be reached; mail is held and tried again")
    } else {
        (State3::Good, "takes mail")
    };
    let today = TimeZone::UTC.to_datetime(now).date();
    let charts = desk.ask(|index| index.days()).await.map(|days| {
        let sum = |from| days.range(from..=today).fold(Day::default(), |sum, (_, day)| sum.with(day));
        Charts {
            sent: chart(&days, today, DAYS, |day| vec![("sent", day.sent)]),
            suppressed: chart(&days, today, DAYS, |day| {
                vec![("reject", day.rejected), ("drop", day.dropped), ("bounce", day.bounced), ("out", day.let_out)]
            }),
            today: sum(today),
            week: sum(today.checked_sub(jiff::Span::new().days(6)).unwrap_or(today)),
        }
    });
    let (folder, quarantine) = (desk.config.spool(), Quarantine::new(desk.config.quarantine()));
    let (oldest, waiting) = tokio::task::spawn_blocking(move || {
        let first = spool::records(&folder, None).ok().and_then(|mut records| records.next());
        (first.and_then(|(_, record)| Some(record.ok()?.arrived)), quarantine.count())
    })
    .await
    .unwrap_or_default();
    let list = relay.lists.current_shared();
    let held = relay.spool.len();
    let held_words = oldest.filter(|_| held > 0).map(|oldest| format!("the oldest came {}", ago(oldest, now)));
    let files = list.files().iter().chain(list.learned_files());
    let problems = desk.problems.all().into_iter().take(10).map(|problem| {
        let when = ago(problem.time, now);
        (problem, when)
    });
    page(&Status {
        frame: Frame::new(&desk, &session, "Status", "/"),
        version: env!("CARGO_PKG_VERSION"),
        started: ago(desk.started, now),
        host: relay.upstream.name().to_owned(),
        host_state,
        host_words,
        is_observing: relay.policy.mode == Mode::Observe,
        entries: number(list.len()),
        list_since: format!("{} ({} UTC)", ago(relay.lists.since(), now), shown(relay.lists.since())),
        fingerprint: list.fingerprint().to_owned(),
        files: files.map(|file| (file.path.display().to_string(), plural(file.entries, "entry"))).collect(),
        held,
        held_words: held_words.unwrap_or_default(),
        has_room: relay.spool.has_room(),
        quarantine: waiting,
        charts,
        problems: problems.collect(),
    })
}

//! What programs ask while they watch over the relay: whether it answers, whether it takes mail, and its numbers. Never changes anything.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;

use super::Desk;
use crate::metrics::{Form, Reading, text};
use crate::relay::Relay;

/// Every address of it.
pub fn all() -> Router<Arc<Desk>> {
    Router::new().route("/healthz", get(health)).route("/readyz", get(ready)).route("/metrics", get(metrics))
}

/// It answers, so it lives.
async fn health() -> Response {
    plain(StatusCode::OK, "ok\n".to_owned())
}

fn plain(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// Whether mail is taken. A host that is away is no reason against it: mail is held meanwhile.
async fn ready(State(desk): State<Arc<Desk>>) -> Response {
    let relay = &desk.relay;
    let state = Means {
        stops: relay.stop.is_cancelled(),
        listeners: relay.metrics.listening(),
        has_room: relay.spool.has_room(),
        is_writable: relay.spool.is_writable().await,
    };
    let reasons = state.against();
    let mut told = if reasons.is_empty() { "ready\n".to_owned() } else { format!("not ready: {}\n", reasons.join("; ")) };
    for note in notes(relay) {
        told.push_str("note: ");
        told.push_str(note);
        told.push('\n');
    }
    plain(if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, told)
}

/// What mail needs to be taken. The lists are always there: without them the relay does not start, and a list that is broken later
/// leaves the last good one in force.
struct Means {
    stops: bool,
    listeners: u64,
    has_room: bool,
    is_writable: bool,
}

impl Means {
    fn against(&self) -> Vec<&'static str> {
        let checks = [
            (self.stops, "the relay is shutting down"),
            (self.listeners == 0, "nothing listens for mail"),
            (!self.is_writable, "the spool cannot be written, so mail cannot be held"),
            (!self.has_room, "less than delivery.min_free is free on the disk of the spool, so tools hear 452"),
        ];
        checks.into_iter().filter_map(|(holds, why)| holds.then_some(why)).collect()
    }
}

/// What is not well, and keeps no mail from being taken.
fn notes(relay: &Relay) -> Vec<&'static str> {
    let checks = [
        (relay.upstream.refuses_login(), "the mail host refuses the login; mail is taken and held until the password is right"),
        (relay.spool.host_is_away(), "the mail host cannot be reached; mail is taken and held, and tried again"),
        (relay.lists.is_stale(), "a list on disk is broken; the last good one is in force, and the log says where"),
    ];
    checks.into_iter().filter_map(|(holds, what)| holds.then_some(what)).collect()
}

async fn metrics(State(desk): State<Arc<Desk>>, asked: HeaderMap) -> Response {
    let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let form = Form::wanted(accept);
    ([(header::CONTENT_TYPE, form.kind())], text(readings(&desk, Timestamp::now()), form)).into_response()
}

/// What was counted, and what can be read now.
fn readings(desk: &Desk, now: Timestamp) -> Vec<Reading> {
    let relay = &desk.relay;
    let mut all = relay.metrics.readings();
    all.extend([
        Reading::gauges("build", "The relay itself; always 1", vec![(vec![("version", env!("CARGO_PKG_VERSION"))], 1.0)]),
        Reading::gauge("start_time_seconds", "When it was started, since 1970", desk.started.as_second() as f64),
        Reading::gauge(
            "memory_left_bytes",
            "Room for messages that is not taken (listen.max_memory)",
            relay.memory.left() as f64,
        ),
    ]);
    all.extend(of_list(relay, now));
    all.extend(of_spool(relay));
    all.extend(of_host(relay));
    all
}

fn of_list(relay: &Relay, now: Timestamp) -> [Reading; 4] {
    let lists = &relay.lists;
    let list = lists.current();
    let sum = |files: &[crate::optout::Source]| files.iter().map(|file| file.entries).sum::<usize>() as f64;
    let parts = [("written", sum(list.files())), ("learned", sum(list.learned_files()))];
    let entries = parts.into_iter().map(|(part, count)| (vec![("part", part)], count)).collect();
    let age = now.duration_since(lists.since()).as_secs().max(0);
    [
        Reading::gauges("list_entries", "Opt-outs in force, those that people have written and those that were learned", entries),
        Reading::gauge("list_age_seconds", "Since the list in force was read", age as f64),
        Reading::gauge("list_stale", "1 while a list on disk is broken and a former one is in force", is(lists.is_stale())),
        Reading::counter("list_reload_failures", "Changed lists that were not put in force", lists.failures()),
    ]
}

fn of_spool(relay: &Relay) -> [Reading; 4] {
    let spool = &relay.spool;
    let oldest = spool.longest_wait().unwrap_or_default();
    [
        Reading::gauge("spool_messages", "Messages that are held", spool.len() as f64),
        Reading::gauge("spool_oldest_seconds", "How long the message has waited that waits longest", oldest.as_secs_f64()),
        Reading::gauge("spool_free_bytes", "Free on the disk of the spool", spool.free() as f64),
        Reading::gauge(
            "spool_has_room",
            "1 while more is free than delivery.min_free; else tools hear 452",
            is(spool.has_room()),
        ),
    ]
}

fn of_host(relay: &Relay) -> [Reading; 3] {
    let pool = relay.upstream.pool();
    let states = [("busy", pool.busy), ("idle", pool.idle)];
    let connections = states.into_iter().map(|(state, count)| (vec![("state", state)], count as f64)).collect();
    let is_up = !relay.spool.host_is_away() && !relay.upstream.refuses_login();
    [
        Reading::gauge(
            "upstream_up",
            "0 while the mail host cannot be reached or refuses the login; mail is held then",
            is(is_up),
        ),
        Reading::gauges("upstream_connections", "Connections to the mail host", connections),
        Reading::gauge("upstream_connections_max", "Connections that may be at work at once", pool.max as f64),
    ]
}

fn is(so: bool) -> f64 {
    f64::from(u8::from(so))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_is_missing_is_a_reason() {
        let well = || Means { stops: false, listeners: 1, has_room: true, is_writable: true };
        assert!(well().against().is_empty());
        for (state, word) in [
            (Means { stops: true, ..well() }, "shutting down"),
            (Means { listeners: 0, ..well() }, "listens"),
            (Means { has_room: false, ..well() }, "min_free"),
            (Means { is_writable: false, ..well() }, "written"),
        ] {
            let against = state.against();
            assert!(against.len() == 1 && against[0].contains(word), "{against:?}");
        }
    }
}

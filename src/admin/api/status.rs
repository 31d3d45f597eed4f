//! How it goes. Never changes anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::answer::json;
use crate::admin::Desk;
use crate::optout::{Mode, Source};

#[derive(Serialize)]
struct Status<'a> {
    version: &'static str,
    started: String,
    read_only: bool,
    mode: Mode,
    host: Host<'a>,
    list: List<'a>,
    spool: Spool,
    sessions: u64,
}

#[derive(Serialize)]
struct Host<'a> {
    name: &'a str,
    /// `up`, `away` or `login_refused`.
    state: &'static str,
}

#[derive(Serialize)]
struct List<'a> {
    entries: usize,
    fingerprint: &'a str,
    since: String,
    /// A list on disk is broken, and a former one is in force.
    stale: bool,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    entries: usize,
    learned: bool,
}

#[derive(Serialize)]
struct Spool {
    messages: usize,
    oldest_seconds: u64,
    has_room: bool,
    free_bytes: u64,
}

pub async fn show(State(desk): State<Arc<Desk>>) -> Response {
    let relay = &desk.relay;
    let list = relay.lists.current_shared();
    let file = |learned| move |file: &Source| File { path: file.path.display().to_string(), entries: file.entries, learned };
    let state = match () {
        () if relay.upstream.refuses_login() => "login_refused",
        () if relay.spool.host_is_away() => "away",
        () => "up",
    };
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        started: desk.started.to_string(),
        read_only: desk.read_only,
        mode: relay.policy.mode,
        host: Host { name: relay.upstream.name(), state },
        list: List {
            entries: list.len(),
            fingerprint: list.fingerprint(),
            since: relay.lists.since().to_string(),
            stale: relay.lists.is_stale(),
            files: list.files().iter().map(file(false)).chain(list.learned_files().iter().map(file(true))).collect(),
        },
        spool: Spool {
            messages: relay.spool.len(),
            oldest_seconds: relay.spool.longest_wait().unwrap_or_default().as_secs(),
            has_room: relay.spool.has_room(),
            free_bytes: relay.spool.free(),
        },
        sessions: relay.metrics.inside(),
    };
    json(StatusCode::OK, &status)
}

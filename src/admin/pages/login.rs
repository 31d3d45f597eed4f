//! In and out. Never tells whether it was the name or the password that was wrong.

use std::sync::Arc;
use std::time::Instant;

use askama::Template;
use axum::Extension;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::page;
use crate::admin::door::Peer;
use crate::admin::gate::{self, Refused, Signed, Who, cookie, form};
use crate::admin::{About, Desk};
use crate::ledger::Act;

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    next: String,
    name: String,
    wrong: Option<&'static str>,
    /// Nobody could log in.
    is_nobody: bool,
    users: String,
}

/// Where somebody wanted to go.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    #[serde(default)]
    next: String,
}

pub async fn show(State(desk): State<Arc<Desk>>, Query(wanted): Query<Wanted>) -> Response {
    shown(&desk, wanted.next, String::new(), None)
}

fn shown(desk: &Desk, next: String, name: String, wrong: Option<&'static str>) -> Response {
    let users = desk.config.admin.as_ref().map(|door| door.users.display().to_string()).unwrap_or_default();
    page(&Login { next, name, wrong, is_nobody: desk.users.is_empty(), users })
}

pub async fn enter(State(desk): State<Arc<Desk>>, Extension(peer): Extension<Peer>, request: Request) -> Response {
    let fields = match form(request).await {
        Ok(fields) => fields,
        Err(response) => return response,
    };
    let get = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let (name, password, next) = (get("name"), get("password"), get("next"));
    let user = match gate::login(&desk, peer.ip, &name, &password).await {
        Ok(user) => user,
        Err(refused) => {
            let (status, why) = match refused {
                Refused::Wrong => (StatusCode::UNAUTHORIZED, "The name or the password is wrong."),
                Refused::Busy => (StatusCode::SERVICE_UNAVAILABLE, "Too many are logging in just now. Try again."),
            };
            let mut response = shown(&desk, next, name, Some(why));
            *response.status_mut() = status;
            return response;
        }
    };
    let who = Who { name: user.name().into(), ip: peer.ip };
    if desk.note(&who, Act::LoggedIn, About::default()).await.is_err() {
        return gate::no(
            StatusCode::SERVICE_UNAVAILABLE,
            "actions.jsonl cannot be written, so nobody is let in; the relay's log tells why",
        );
    }
    match desk.sessions.begin(user, Instant::now()) {
        Some(secret) => ([cookie(peer, Some(&secret))], Redirect::to(ours(&next))).into_response(),
        None => gate::no(StatusCode::SERVICE_UNAVAILABLE, "the system gives no random numbers"),
    }
}

/// A place on this page, and not on another site.
fn ours(next: &str) -> &str {
    let is_ours =
        next.starts_with('/') && !next[1..].starts_with(['/', '\\']) && next.bytes().all(|byte| byte.is_ascii_graphic());
    if is_ours { next } else { "/" }
}

pub async fn leave(State(desk): State<Arc<Desk>>, Extension(peer): Extension<Peer>, form: Signed) -> Response {
    desk.sessions.end(&form.session);
    ([cookie(peer, None)], Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for (next, goes) in [
            ("/log?address=a%40b", "/log?address=a%40b"),
            ("", "/"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nSet-Cookie: b", "/"),
        ] {
            assert_eq!(ours(next), goes, "{next:?}");
        }
    }
}

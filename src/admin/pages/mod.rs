//! The pages: one file a page. Each asks the rooms for values, and gives them to a template. Never writes HTML by itself.

mod address;
mod events;
mod held;
mod learned;
mod log;
mod login;
mod probe;
mod status;

use std::fmt::Display;
use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use jiff::{SignedDuration, Timestamp};

use super::sessions::{Session, Told};
use super::{Desk, gate};

/// Every page, by its address.
pub fn all() -> Router<Arc<Desk>> {
    Router::new()
        .route("/", get(status::show))
        .route("/address", get(address::show))
        .route("/address/add", post(address::add))
        .route("/address/remove", post(address::remove))
        .route("/log", get(log::show))
        .route("/held", get(held::show))
        .route("/held/retry", post(held::retry))
        .route("/held/drop", post(held::drop))
        .route("/learned", get(learned::show))
        .route("/learned/accept", post(learned::accept))
        .route("/learned/reject", post(learned::reject))
        .route("/test", get(probe::show).post(probe::send))
        .route("/login", get(login::show).post(login::enter))
        .route("/logout", post(login::leave))
        .route("/static/style.css", get(|| asset("text/css; charset=utf-8", include_str!("../html/style.css"))))
        .route("/static/script.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../html/script.js"))))
        .fallback(|| async { gate::no(StatusCode::NOT_FOUND, "there is no such page") })
}

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

/// What stands around every page.
pub struct Frame {
    /// Of the page.
    pub title: &'static str,
    /// The part of the menu that is marked.
    pub here: &'static str,
    /// Who is logged in.
    pub user: String,
    /// For forms.
    pub form: Arc<str>,
    /// What they are told once.
    pub told: Option<Told>,
    /// Nothing can be changed.
    pub read_only: bool,
}

impl Frame {
    /// For somebody who is logged in.
    pub fn new(desk: &Desk, session: &Session, title: &'static str, here: &'static str) -> Self {
        Self {
            title,
            here,
            user: session.user.name().to_owned(),
            form: session.form.clone(),
            told: desk.sessions.hear(session),
            read_only: desk.read_only,
        }
    }
}

/// A page as it is sent.
pub fn page(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!("a page of the admin page cannot be written: {error}");
            gate::no(StatusCode::INTERNAL_SERVER_ERROR, "this page cannot be written; the relay's log tells why")
        }
    }
}

/// Tells somebody what came of it, on the page where they go now.
pub fn tell(desk: &Desk, session: &Session, is_good: bool, text: impl Into<String>, to: &str) -> Response {
    desk.sessions.tell(session, Told { is_good, text: text.into() });
    Redirect::to(to).into_response()
}

/// How long ago, or until then, in words.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    let between = now.duration_since(time);
    let seconds = between.abs().as_secs();
    let words = match seconds {
        0..60 => return if between < SignedDuration::ZERO { "in a moment".into() } else { "just now".into() },
        60..3600 => plural(seconds / 60, "minute"),
        3600..172_800 => plural(seconds / 3600, "hour"),
        _ => plural(seconds / 86_400, "day"),
    };
    if between < SignedDuration::ZERO { format!("in {words}") } else { format!("{words} ago") }
}

/// `1 day`, `2 days`
pub fn plural(count: impl Display, noun: &str) -> String {
    let count = number(count);
    let noun = match noun.strip_suffix('y') {
        _ if count == "1" => noun.to_owned(),
        Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
        _ => format!("{noun}s"),
    };
    format!("{count} {noun}")
}

/// A number that counts, with a comma at every thousand.
pub fn number(count: impl Display) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A moment as it is shown: day and time, UTC.
pub fn shown(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_written_for_people() {
        for (count, text) in [(0_u64, "0"), (999, "999"), (1000, "1,000"), (10_000_000, "10,000,000")] {
            assert_eq!(number(count), text);
        }
        let now: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        for (time, text) in [
            ("2026-11-25T11:59:30Z", "just now"),
            ("2026-11-25T11:58:00Z", "2 minutes ago"),
            ("2026-11-25T11:00:00Z", "1 hour ago"),
            ("2026-11-20T11:00:00Z", "5 days ago"),
            ("2026-11-25T12:30:00Z", "in 30 minutes"),
            ("2026-11-25T12:00:30Z", "in a moment"),
        ] {
            assert_eq!(ago(time.parse().unwrap(), now), text);
        }
        assert_eq!(shown(now), "2026-11-25 12:00:00");
    }
}

//! The same for programs: JSON in, JSON out, under `/api/v1`. Never does what a page could not do, never by a cookie.

mod answer;
mod check;
mod log;
mod opt_outs;
mod spool;
mod status;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::Value;

pub use answer::told;
pub use spool::held;

use super::Desk;
use super::pages::{Frame, page};
use super::sessions::Session;

/// What can be asked, by OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi.json");

/// Bytes of a body.
const BODY: usize = 1 << 20;

/// Every address of it; those behind the prefix are in the description too.
pub fn all() -> Router<Arc<Desk>> {
    Router::new()
        .route("/api", get(show))
        .route("/api/openapi.json", get(description))
        .route("/api/v1/status", get(status::show))
        .route("/api/v1/check", get(check::show))
        .route("/api/v1/opt-outs", get(opt_outs::list).post(opt_outs::add))
        .route("/api/v1/opt-outs/{entry}", delete(opt_outs::remove))
        .route("/api/v1/log", get(log::search))
        .route("/api/v1/spool", get(spool::list))
        .route("/api/v1/spool/{id}", delete(spool::forget))
        .route("/api/v1/spool/{id}/retry", post(spool::retry))
        .layer(axum::Extension(opt_outs::Turn::default()))
        .layer(DefaultBodyLimit::max(BODY))
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

/// The description for people.
#[derive(Template)]
#[template(path = "api.html")]
struct Described {
    frame: Frame,
    questions: Vec<Question>,
}

struct Question {
    method: String,
    path: String,
    summary: String,
    about: String,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    place: String,
    about: String,
    required: bool,
}

async fn show(State(desk): State<Arc<Desk>>, session: Session) -> Response {
    page(&Described { frame: Frame::new(&desk, &session, "API", "/api"), questions: questions(DESCRIPTION) })
}

fn questions(description: &str) -> Vec<Question> {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let described: Value = serde_json::from_str(description).unwrap_or_default();
    let paths = described["paths"].as_object().into_iter().flatten();
    let operations = paths.flat_map(|(path, methods)| {
        methods.as_object().into_iter().flatten().map(move |(method, operation)| (method, path, operation))
    });
    let question = |(method, path, operation): (&String, &String, &Value)| Question {
        method: method.to_ascii_uppercase(),
        path: path.clone(),
        summary: text(operation, "summary"),
        about: text(operation, "description"),
        parameters: fields(&described, operation)
            .map(|(name, place, about, required)| Parameter { name, place, about, required })
            .collect(),
    };
    operations.map(question).collect()
}

/// Parameters, and the fields of a body: name, place, description, and whether they must be given.
fn fields<'d>(described: &'d Value, operation: &'d Value) -> impl Iterator<Item = (String, String, String, bool)> + 'd {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let parameters = parameters.map(move |one| {
        (text(one, "name"), text(one, "in"), text(one, "description"), one["required"].as_bool().unwrap_or_default())
    });
    let name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str();
    let schema = name.and_then(|name| described.pointer(name.strip_prefix('#')?)).unwrap_or(&Value::Null);
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|names| names.iter().any(|other| other == name));
    let body = schema["properties"].as_object().into_iter().flatten();
    parameters.chain(body.map(move |(name, one)| (name.clone(), "body".to_owned(), text(one, "description"), is_required(name))))
}

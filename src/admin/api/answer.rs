//! What programs hear: values as JSON, refusals as `{"error": …, "hint": …}`; and how what they say is read. Never panics at it.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::changes::NotDone;
use crate::admin::gate::Why;
use crate::mail::clean;

/// A refusal.
#[derive(Debug, Serialize)]
pub struct No {
    #[serde(skip)]
    status: StatusCode,
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl No {
    /// With what is wrong.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), hint: None }
    }

    /// What was asked is wrong in itself.
    pub fn bad(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// What to do.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl From<NotDone> for No {
    fn from(not: NotDone) -> Self {
        let status = match not {
            NotDone::NoList => StatusCode::CONFLICT,
            NotDone::Unwritten | NotDone::Failed(_) | NotDone::NotInForce => StatusCode::SERVICE_UNAVAILABLE,
        };
        let no = Self::new(status, not.to_string());
        if not == NotDone::NoList {
            no.hint("add one in a folder that the relay may write, as in lists = [\"blacklist.toml\", \"/var/lib/optout-relay/desk.toml\"]")
        } else {
            no
        }
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        json(self.status, &self)
    }
}

/// A value.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => (status, [(header::CONTENT_TYPE, "application/json")], text + "\n").into_response(),
        // Texts and numbers always make JSON.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A refusal that came up before anybody here was asked, in the same form.
pub fn told(response: Response) -> Response {
    let status = response.status();
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let why = response.extensions().get::<Why>().map(|why| why.0.clone());
    let why = why.unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_lowercase());
    let why = if status == StatusCode::NOT_FOUND { "there is no such address; /api/openapi.json names all".into() } else { why };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let mut told = json(status, &No::new(status, why));
    told.headers_mut().extend(std::mem::take(&mut parts.headers));
    *told.extensions_mut() = parts.extensions;
    told
}

/// What stands behind the `?`.
pub struct Asked<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = No;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, No> {
        let asked = Query::try_from_uri(&parts.uri);
        asked.map(|Query(asked)| Self(asked)).map_err(|error| No::bad(clean(&error.body_text(), 400)).hint(SEE))
    }
}

/// The part of the address that is a name.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = No;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, No> {
        let name = Path::<String>::from_request_parts(parts, state).await;
        name.map(|Path(name)| Self(name)).map_err(|error| No::bad(clean(&error.body_text(), 400)))
    }
}

/// A body in JSON.
pub struct Said<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Said<T> {
    type Rejection = No;
    async fn from_request(request: Request<Body>, state: &S) -> Result<Self, No> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let no = No::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON");
            return Err(no.hint("send it with Content-Type: application/json"));
        }
        let body = Bytes::from_request(request, state).await;
        let body = body.map_err(|error| No::new(error.status(), clean(&error.body_text(), 400)))?;
        let said = serde_json::from_slice(&body);
        said.map(Self).map_err(|error| No::bad(format!("the body cannot be used: {}", clean(&error.to_string(), 400))).hint(SEE))
    }
}

const SEE: &str = "/api/openapi.json tells what can be said";

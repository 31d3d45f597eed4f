//! What every request must pass: the name by which we are called, who asks, whether they may. Never answers a question itself.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::timeout;

use super::door::Peer;
use super::sessions::Session;
use super::{Desk, api, is_bare, name_in};
use crate::mail::clean;
use crate::users::{Login, User};

/// For an answer, whatever it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A page loads what is ours, and nothing else; nobody frames it, and its forms go to us.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every answer says.
const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex")),
];

/// The cookie with the secret of a session. One that only TLS carries has a name that no other site can set.
fn cookie_name(peer: Peer) -> &'static str {
    if peer.is_encrypted { "__Host-optout-relay" } else { "optout-relay" }
}

/// What may be asked for, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// Anybody.
    Open,
    /// Programs on this machine, or with a login of their own.
    Machines,
    /// Programs with a login of their own: a cookie is none, so no page of another site can act for somebody.
    Api,
    /// People who are logged in.
    Pages,
}

fn room(path: &str) -> Room {
    match path {
        // What can be asked is no secret.
        "/login" | "/healthz" | "/readyz" | "/api/openapi.json" => Room::Open,
        "/metrics" => Room::Machines,
        path if path.starts_with("/static/") => Room::Open,
        path if path.starts_with("/api/") => Room::Api,
        _ => Room::Pages,
    }
}

/// Every request comes by here.
pub async fn gate(State(desk): State<Arc<Desk>>, Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    let (is_asset, is_api) = (request.uri().path().starts_with("/static/"), request.uri().path().starts_with("/api/"));
    let answered = timeout(PATIENCE, pass(&desk, peer, request, next)).await;
    let mut response = answered.unwrap_or_else(|_| no(StatusCode::GATEWAY_TIMEOUT, "that took too long; try again"));
    if is_api {
        response = api::told(response);
    }
    let headers = response.headers_mut();
    headers.extend(HEADERS);
    let keep = if is_asset { "max-age=3600" } else { "no-store" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    response
}

async fn pass(desk: &Arc<Desk>, peer: Peer, mut request: Request, next: Next) -> Response {
    if !desk.is_called(request.headers()) {
        let hint =
            "this page is called by another name here: open it as http://localhost or by its address, or name it in admin.hosts";
        return no(StatusCode::MISDIRECTED_REQUEST, hint);
    }
    let (room, changes) = (room(request.uri().path()), !matches!(*request.method(), Method::GET | Method::HEAD));
    // The API as well: a browser that was asked for a password there sends it along whoever has it do so.
    if changes && is_foreign(request.headers(), peer) {
        return no(StatusCode::FORBIDDEN, "this came from a page of another site, and nothing was done");
    }
    if changes && desk.read_only && request.uri().path() != "/login" && request.uri().path() != "/logout" {
        return no(StatusCode::FORBIDDEN, "this page is read-only (admin.read_only), and nothing was done");
    }
    match room {
        Room::Open => {}
        // What a proxy on this machine hands on comes from elsewhere, by our name there.
        Room::Machines if peer.ip.is_loopback() && name_in(request.headers()).is_some_and(|name| is_bare(&name)) => {}
        Room::Machines | Room::Api => match by_header(desk, peer, request.headers()).await {
            Ok(user) => {
                request.extensions_mut().insert(Who { name: user.name().into(), ip: peer.ip });
            }
            Err(response) => return response,
        },
        Room::Pages => match by_cookie(desk, peer, request.headers()) {
            Some(session) => {
                request.extensions_mut().insert(Who { name: session.user.name().into(), ip: peer.ip });
                request.extensions_mut().insert(session);
            }
            None => return to_login(&request),
        },
    }
    next.run(request).await
}

/// Why something was refused, for whoever tells it in another form.
#[derive(Clone, Debug)]
pub struct Why(pub String);

/// A refusal in plain text.
pub fn no(status: StatusCode, why: &str) -> Response {
    let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (status, plain, Extension(Why(why.to_owned())), format!("{why}\n")).into_response()
}

/// Whoever has to log in comes back to where they wanted to go.
fn to_login(request: &Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return no(StatusCode::UNAUTHORIZED, "nobody is logged in here; log in at /login");
    }
    let wanted = request.uri().path_and_query().map_or("/", |wanted| wanted.as_str());
    Redirect::to(&format!("/login?next={}", utf8_percent_encode(wanted, NON_ALPHANUMERIC))).into_response()
}

/// A browser says where a form comes from.
fn is_foreign(headers: &HeaderMap, peer: Peer) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let scheme = if peer.is_encrypted { "https" } else { "http" };
    let ours = |origin: &str| {
        text("host").is_some_and(|host| origin == format!("{scheme}://{host}") || origin == format!("https://{host}"))
    };
    text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
        || text("origin").is_some_and(|origin| !ours(origin))
}

fn by_cookie(desk: &Desk, peer: Peer, headers: &HeaderMap) -> Option<Session> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut secrets = pairs.filter(|(name, _)| *name == cookie_name(peer)).map(|(_, secret)| secret);
    let session = desk.sessions.find(secrets.next()?, Instant::now())?;
    // Who was taken out of the file is out, and so is whoever has another password now.
    desk.users.still_has(&session.user).then_some(session)
}

/// The cookie of a session that begins, or ends where there is no secret.
pub fn cookie(peer: Peer, secret: Option<&str>) -> (HeaderName, String) {
    let (name, secure) = (cookie_name(peer), if peer.is_encrypted { "; Secure" } else { "" });
    let ended = if secret.is_none() { "; Max-Age=0" } else { "" };
    (header::SET_COOKIE, format!("{name}={}; Path=/; HttpOnly; SameSite=Strict{secure}{ended}", secret.unwrap_or_default()))
}

/// Basic (RFC 7617), or Bearer with name and token in one, as in `shop-tool:secret`.
async fn by_header(desk: &Desk, peer: Peer, headers: &HeaderMap) -> Result<Arc<User>, Response> {
    let refuse = |why: &str| {
        let mut response = no(StatusCode::UNAUTHORIZED, why);
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"optout-relay\", charset=\"UTF-8\""));
        response
    };
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| value.split_once(' '));
    let pair = match given {
        Some((scheme, code)) if scheme.eq_ignore_ascii_case("basic") => {
            STANDARD.decode(code.trim()).ok().and_then(|pair| String::from_utf8(pair).ok())
        }
        Some((scheme, pair)) if scheme.eq_ignore_ascii_case("bearer") => Some(pair.trim().to_owned()),
        _ => return Err(refuse("log in: Authorization: Basic, or Bearer NAME:TOKEN")),
    };
    let Some((name, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) else {
        return Err(refuse("this login cannot be read: Authorization: Basic, or Bearer NAME:TOKEN"));
    };
    match login(desk, peer.ip, name, password).await {
        Ok(user) => Ok(user),
        Err(Refused::Wrong) => Err(refuse("the name or the password is wrong")),
        Err(Refused::Busy) => Err(no(StatusCode::SERVICE_UNAVAILABLE, "too many are logging in; try again")),
    }
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The name or the password; which, nobody is told.
    Wrong,
    /// Too many others are being proved.
    Busy,
}

/// Whether it is this password; a wrong one is told in the log, and takes its time.
pub async fn login(desk: &Desk, ip: IpAddr, name: &str, password: &str) -> Result<Arc<User>, Refused> {
    const PAUSE: Duration = Duration::from_secs(1);
    match desk.users.login(name, password.as_bytes()).await {
        Login::Ok(user) => Ok(user),
        Login::Wrong => {
            tracing::warn!(client = %ip, user = clean(name, 100), "a login at the admin page was refused: wrong name or password");
            tokio::time::sleep(PAUSE).await;
            Err(Refused::Wrong)
        }
        Login::Busy => Err(Refused::Busy),
    }
}

/// Who asks, for the log.
#[derive(Clone, Debug)]
pub struct Who {
    /// As they are called in the file of users.
    pub name: Arc<str>,
    /// Where from.
    pub ip: IpAddr,
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| no(StatusCode::UNAUTHORIZED, "nobody is logged in here"))
    }
}

impl<S: Sync> FromRequestParts<S> for Session {
    type Rejection = Response;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| no(StatusCode::UNAUTHORIZED, "nobody is logged in here"))
    }
}

/// A form of one of our own pages, sent by whom it was given to: there is no other way to read one.
#[derive(Debug)]
pub struct Signed {
    /// Who has sent it.
    pub who: Who,
    /// Their session.
    pub session: Session,
    fields: HashMap<String, String>,
}

impl Signed {
    /// A field without the blanks around it; empty where it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |text| text.trim())
    }
}

impl FromRequest<Arc<Desk>> for Signed {
    type Rejection = Response;
    async fn from_request(request: Request, desk: &Arc<Desk>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, desk).await?;
        let who = Who::from_request_parts(&mut parts, desk).await?;
        let fields = form(Request::from_parts(parts, body)).await?;
        if !session.has(fields.get("form").map_or("", String::as_str)) {
            return Err(no(
                StatusCode::FORBIDDEN,
                "this form is not of this session: reload the page and send it again; nothing was done",
            ));
        }
        Ok(Self { who, session, fields })
    }
}

/// The fields of a form, the last of each name.
pub async fn form(request: Request) -> Result<HashMap<String, String>, Response> {
    let Form(fields) = Form::from_request(request, &()).await.map_err(IntoResponse::into_response)?;
    Ok(fields)
}

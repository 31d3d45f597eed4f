//! What would become of mail to somebody. Never changes anything.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::answer::{Asked, No, json};
use crate::admin::Desk;
use crate::admin::verdict::{Verdict, verdict};
use crate::mail::{Address, ReversePath};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    address: String,
    #[serde(default)]
    from: String,
}

#[derive(Serialize)]
struct Answer {
    address: String,
    #[serde(flatten)]
    verdict: Verdict,
}

pub async fn show(State(desk): State<Arc<Desk>>, Asked(asked): Asked<Question>) -> Response {
    let address = match address("address", &asked.address) {
        Ok(address) => address,
        Err(no) => return no.into_response(),
    };
    let sender = match asked.from.trim() {
        "" => ReversePath::Null,
        from => match self::address("from", from) {
            Ok(sender) => ReversePath::Address(sender),
            Err(no) => return no.into_response(),
        },
    };
    let verdict = verdict(&desk, &address, &sender, Timestamp::now());
    json(StatusCode::OK, &Answer { address: address.to_string(), verdict })
}

/// What a parameter names.
pub fn address(parameter: &str, text: &str) -> Result<Address, No> {
    let hint = "a bare address, as in buyer@example.com; + is written as %2B";
    Address::parse(text.trim()).map_err(|error| No::bad(format!("`{parameter}` is no address: {error}")).hint(hint))
}

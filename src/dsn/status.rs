//! The part of a report that machines read: RFC 3464, and RFC 6533 where addresses go beyond ASCII. Never says more than
//! the notices do.

use super::form::field;
use super::{Case, Notice, Occasion, date};
use crate::mail::{Address, embedded, envelope_id, original_recipient};

/// The fields about the message, then those about each recipient (RFC 3464 2.2, 2.3).
pub fn fields(case: &Case<'_>) -> String {
    let field = |name, value: &str| field(name, value, case.ascii);
    let id = case.original.envelope.envid.as_deref().and_then(envelope_id);
    let mut text = id.map(|id| field("Original-Envelope-Id", &id)).unwrap_or_default();
    text += &field("Reporting-MTA", &format!("dns; {}", case.by.hostname));
    text += &field("Arrival-Date", &date(case.arrived));
    for notice in &case.notices {
        text += "\r\n";
        text += &of_recipient(case, notice);
    }
    text
}

fn of_recipient(case: &Case<'_>, notice: &Notice<'_>) -> String {
    let Notice { recipient, status, at } = notice;
    let field = |name, value: &str| field(name, value, case.ascii);
    let mut text = String::new();
    if let Some((kind, address)) = recipient.wish.original.as_deref().and_then(original_recipient) {
        let address = if case.ascii { embedded(&address) } else { address.as_str().into() };
        text += &field("Original-Recipient", &format!("{kind};{address}"));
    }
    text += &field("Final-Recipient", &typed(&recipient.address, case.ascii));
    text += &field("Action", case.occasion.action());
    text += &field("Status", &status.enhanced.to_string());
    if status.by_host {
        text += &field("Remote-MTA", &format!("dns; {}", case.by.upstream));
        text += &field("Diagnostic-Code", &format!("smtp; {status}"));
    }
    if let Some(at) = at {
        text += &field("Last-Attempt-Date", &date(*at));
    }
    if let Occasion::Delayed { until } = case.occasion {
        text += &field("Will-Retry-Until", &date(until));
    }
    text
}

/// An address with its type. In ASCII the type `utf-8` has a form of its own for what it uses itself (RFC 6533 3).
fn typed(address: &Address, ascii: bool) -> String {
    match address.as_str() {
        plain if plain.is_ascii() => format!("rfc822;{plain}"),
        letters if ascii => {
            let quoted: String = letters
                .chars()
                .map(|c| if matches!(c, '+' | '=' | '\\' | ' ') { format!("\\x{{{:X}}}", u32::from(c)) } else { c.into() })
                .collect();
            format!("utf-8;{}", embedded(&quoted))
        }
        letters => format!("utf-8;{letters}"),
    }
}

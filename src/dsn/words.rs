//! The part of a report that people read. Never uses a word of the trade that a shop owner does not know, but for the
//! answer of the mail host as it was given.

use super::form::{shown, wrapped};
use super::{Case, Notice, Occasion, date};
use crate::mail::{OPTED_OUT, Stage, Status};

/// The longest text from outside that is shown in one piece, in bytes.
const MAX_SHOWN: usize = 500;

const STOPS_HERE: &str = "has opted out of your mail. Mail to this recipient stops here: it was not sent.";

/// The subject of the report.
pub fn subject(case: &Case<'_>) -> String {
    let what = match case.occasion {
        Occasion::Failed if case.notices.iter().all(|notice| kept_back(notice)) => "Not sent because of an opt-out",
        Occasion::Failed => "Not delivered",
        Occasion::Delayed { .. } => "Delayed, will be tried again",
        Occasion::Relayed => "Passed on",
    };
    match &case.notices[..] {
        [one] if one.recipient.address.as_str().is_ascii() => format!("{what}: {}", one.recipient.address),
        [_] => what.to_owned(),
        all => format!("{what}: {} recipients", all.len()),
    }
}

/// The whole text.
pub fn text(case: &Case<'_>) -> String {
    let mut text = wrapped("", opening(case));
    text += "\r\nThe message\r\n\r\n";
    text += &about_message(case);
    text += match case.occasion {
        Occasion::Relayed => "\r\nFor whom\r\n\r\n",
        Occasion::Delayed { .. } => "\r\nWho has not got it yet, and why\r\n\r\n",
        Occasion::Failed => "\r\nWho did not get it, and why\r\n\r\n",
    };
    for notice in &case.notices {
        text += &format!("  {}\r\n", shown(notice.recipient.address.as_str(), MAX_SHOWN));
        if opted_out(notice) {
            text += &wrapped("    ", STOPS_HERE);
        } else {
            text += &wrapped("    ", &reason(case, notice.status));
            text += &wrapped("      ", &shown(&notice.status.to_string(), MAX_SHOWN));
        }
    }
    text += "\r\nWhat happens next\r\n\r\n";
    for what in next(case) {
        text += &wrapped("  ", &what);
    }
    text += "\r\n";
    text + &wrapped("", &format!("The mail relay at {} wrote this by itself.", shown(case.by.hostname, 255)))
}

fn opening(case: &Case<'_>) -> &'static str {
    match (case.occasion, &case.notices[..]) {
        (Occasion::Failed, [_]) => "Your message was not delivered to one recipient.",
        (Occasion::Failed, _) => "Your message was not delivered to the recipients below.",
        (Occasion::Delayed { .. }, _) => "Your message has not been delivered yet. You need not do anything.",
        (Occasion::Relayed, _) => "Your message was passed on to the mail host.",
    }
}

fn about_message(Case { original, heading, arrived, .. }: &Case<'_>) -> String {
    let client = &original.envelope.client;
    let (subject, from) = (shown(&heading.subject, MAX_SHOWN), shown(&client.helo, 255));
    let mut text = String::new();
    if !subject.is_empty() {
        text += &format!("  Subject:    {subject}\r\n");
    }
    if let Some(id) = &heading.message_id {
        text += &format!("  Message-ID: <{}>\r\n", shown(id, MAX_SHOWN));
    }
    text += &format!("  Handed in:  {}, by {from} [{}]\r\n", date(*arrived), client.ip);
    text + &format!("  In the log: {}\r\n", original.envelope.id)
}

/// It was kept back for the sake of an opt-out, be it this recipient's own or not.
fn kept_back(notice: &Notice<'_>) -> bool {
    notice.status.stage == Stage::OptOut
}

fn opted_out(notice: &Notice<'_>) -> bool {
    kept_back(notice) && notice.status.text == OPTED_OUT
}

/// What comes before the answer itself.
fn reason(case: &Case<'_>, status: &Status) -> String {
    let (host, for_good) = (shown(case.by.upstream, 255), status.enhanced.0 == 5);
    match (case.occasion, status.by_host) {
        (Occasion::Relayed, _) => format!("The mail host {host} took it, and answered:"),
        (Occasion::Failed, true) if for_good => format!("The mail host {host} refused it, and answered:"),
        (Occasion::Failed, false) if for_good => "It cannot be sent:".to_owned(),
        (Occasion::Failed, _) => "It could not be delivered in time. The last answer was:".to_owned(),
        (Occasion::Delayed { .. }, true) => format!("The mail host {host} does not take it for now, and answered:"),
        (Occasion::Delayed { .. }, false) => "It cannot be sent for now:".to_owned(),
    }
}

fn next(case: &Case<'_>) -> Vec<String> {
    let (mut next, notices) = (Vec::new(), &case.notices);
    match case.occasion {
        Occasion::Delayed { until } => {
            next.push(format!("We go on trying until {}.", date(until)));
            if notices.iter().all(|notice| notice.recipient.wish.notify.of_failure()) {
                next.push("If it has not been delivered by then, you get another message like this one.".to_owned());
            }
        }
        Occasion::Relayed => next.push(
            "The mail host does not tell us whether it arrives. If it does not, the host itself will write to you.".to_owned(),
        ),
        Occasion::Failed => {
            if notices.iter().any(|notice| opted_out(notice)) {
                next.push(
                    "Whoever has opted out gets no more mail from you through this relay. Please do not send it again."
                        .to_owned(),
                );
            }
            if notices.iter().any(|notice| !opted_out(notice)) {
                next.push(
                    "It is not tried again. Look at the answer above and at the address, and send it anew if need be.".to_owned(),
                );
            }
            if case.original.envelope.recipients.len() > notices.len() {
                next.push("All other recipients of the message are not touched by this.".to_owned());
            }
        }
    }
    next
}

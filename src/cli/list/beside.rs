//! What may stand beside an entry, as options of a command line.

use jiff::Timestamp;

use super::super::Failure;
use crate::optout::{self, Action, Attributes};

#[derive(Debug, clap::Args)]
pub struct Beside {
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Where it is known from
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// In force to the end of this day, or up to this moment; without it: for good
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<Timestamp>,
    /// Holds for mail from this sender only, as in *@shop-a.example; several times: from any of them
    #[arg(long = "sender", value_name = "SENDER")]
    senders: Vec<String>,
    /// reject, drop or bounce, instead of `opt_out.action`
    #[arg(long, value_name = "ACTION", value_parser = str::parse::<Action>)]
    action: Option<Action>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

fn until(text: &str) -> Result<Timestamp, String> {
    optout::until(text).map_err(|error| format!("{error}; {}", error.hint().unwrap_or_default()))
}

impl Beside {
    pub fn attributes(&self) -> Result<Attributes, Failure> {
        let senders = optout::senders(self.senders.iter().map(String::as_str)).map_err(|e| Failure::of_entry(&e))?;
        let Self { reason, source, until, action, note, .. } = self;
        Ok(Attributes {
            reason: reason.clone(),
            source: source.clone(),
            until: *until,
            action: *action,
            note: note.clone(),
            senders,
            ..Attributes::default()
        })
    }
}

/// What `given` says where an entry itself says nothing.
pub fn fill(attributes: &mut Attributes, given: &Attributes) {
    let Attributes { since, until, reason, source, action, senders, note, .. } = attributes;
    fn or<T: Clone>(own: &mut Option<T>, given: &Option<T>) {
        if own.is_none() {
            own.clone_from(given);
        }
    }
    or(since, &given.since);
    or(until, &given.until);
    or(reason, &given.reason);
    or(source, &given.source);
    or(action, &given.action);
    or(note, &given.note);
    if senders.is_empty() {
        senders.clone_from(&given.senders);
    }
}

//! How a test mail has ended, by what the relay has said and what stands in its logs and its spool. Never changes one.

use std::ops::ControlFlow;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::super::caller::Said;
use super::Letter;
use crate::config::Config;
use crate::ledger::{self, First, Line, Question, Whom};
use crate::mail::{Id, clean};
use crate::spool::{self, Record};

/// For what is written after the answer.
const SOON: Duration = Duration::from_secs(10);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// The names are public: people script against them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// The host has it.
    Forwarded,
    /// Nobody was mailed, for they have opted out.
    Suppressed,
    /// The relay or the host does not take it, ever.
    Refused,
    /// It went to our own address for notices.
    Learned,
    /// It is on disk, and tried again.
    Held,
    /// The relay cannot take it now.
    Later,
}

/// How, and by what.
pub struct Outcome {
    pub ending: Ending,
    /// Ours, where it is known.
    pub id: Option<String>,
    /// The entry that has decided.
    pub rule: Option<serde_json::Value>,
    /// What the mail host has said.
    pub reply: Option<String>,
    /// For people.
    pub words: String,
}

/// Looks until it is known, or for long enough.
pub fn find(config: &Config, letter: &Letter, heard: &Said, begun: Timestamp) -> Outcome {
    let end = Instant::now() + SOON;
    let id = heard.lines.iter().flat_map(|line| line.split([' ', ',', ';'])).find_map(Id::parse);
    loop {
        let seen = Seen::look(config, letter, id, begun);
        let is_late = Instant::now() >= end;
        if let Some(outcome) = judge(heard, id, &seen, is_late) {
            return outcome;
        }
        std::thread::sleep(LOOK);
    }
}

/// What stands where.
#[derive(Default)]
struct Seen {
    suppressed: Option<Line>,
    sent: Option<Line>,
    held: Option<Record>,
    /// What could not be read.
    blind: Option<String>,
    /// Nobody writes down who was mailed (`log.sent`).
    untold: bool,
    /// It is for `learn.address`.
    is_own: bool,
}

impl Seen {
    fn look(config: &Config, letter: &Letter, id: Option<Id>, begun: Timestamp) -> Self {
        let is_own = config.learning.letterbox.asked(&letter.to).is_some();
        let mut seen = Self { untold: !config.file.log.sent, is_own, ..Self::default() };
        let question = Question {
            // A clock that is put right meanwhile takes no line away.
            since: begun.checked_sub(SignedDuration::from_mins(5)).ok(),
            about: Some(Whom::new(&letter.to, config.file.opt_out.plus_tags)),
            ..Question::default()
        };
        for (name, place) in [("suppressed", &mut seen.suppressed), ("sent", &mut seen.sent)] {
            let read = ledger::search(&config.logs(), &[name], &question, First::Newest, &AtomicU64::new(0), &mut |found| {
                let is_ours = |line: &Line| line.helo == letter.mark || line.message_id.as_ref() == Some(&letter.message_id);
                match found.line.filter(is_ours) {
                    Some(line) => {
                        *place = Some(line);
                        ControlFlow::Break(())
                    }
                    None => ControlFlow::Continue(()),
                }
            });
            if let Err(error) = read {
                seen.blind = Some(format!("{}: {error}", config.logs().display()));
            }
        }
        let folder = config.spool();
        match id.map(|id| spool::records(&folder, Some(id))).transpose() {
            Ok(records) => seen.held = records.and_then(|mut records| records.next()).and_then(|(_, record)| record.ok()),
            Err(error) => seen.blind = Some(format!("{}: {error}", folder.display())),
        }
        seen
    }
}

/// `None`: it may be known in a moment.
fn judge(heard: &Said, id: Option<Id>, seen: &Seen, is_late: bool) -> Option<Outcome> {
    let said = clean(&heard.to_string(), 600);
    let told = |ending, words: String| Outcome { ending, id: id.map(|id| id.to_string()), rule: None, reply: None, words };
    if let Some(line) = seen.suppressed.as_ref().filter(|line| line.event == "suppressed") {
        return Some(suppressed(line));
    }
    if let Some(line) = &seen.sent {
        let let_out = seen.suppressed.as_ref().map(|line| format!("; they have opted out, {}", by(line))).unwrap_or_default();
        let words = format!("{} has taken it: {}{let_out}; id={}", line.upstream, line.reply, line.id);
        let rule = seen.suppressed.as_ref().and_then(rule);
        return Some(Outcome {
            id: Some(line.id.clone()),
            reply: Some(line.reply.clone()),
            rule,
            ..told(Ending::Forwarded, words)
        });
    }
    let blind = seen.blind.as_ref().map(|what| format!(" (this user cannot read {what})")).unwrap_or_default();
    let has_text = |text: &str| heard.lines.iter().any(|line| line.contains(text));
    if heard.code >= 500 || heard.code == 0 {
        return Some(told(Ending::Refused, format!("{said}{blind}")));
    }
    if heard.code >= 400 {
        return Some(told(Ending::Later, format!("{said}; try again, and see the log of the relay{blind}")));
    }
    if let Some(record) = &seen.held {
        let last = record.outcomes.iter().flatten().next().map(|outcome| outcome.status().to_string());
        if last.is_none() && !is_late {
            return None;
        }
        let id = record.envelope.id;
        let because = last.as_deref().unwrap_or("it was not tried yet");
        let words = format!("{because}; it is tried again by itself; `optout-relay spool show {id}` tells when");
        return Some(Outcome { reply: last, ..told(Ending::Held, words) });
    }
    if seen.is_own {
        return Some(told(Ending::Learned, format!("{said}; it went to learn.address, and nobody is mailed")));
    }
    if !is_late && seen.blind.is_none() && !seen.untold {
        return None;
    }
    // Nothing more can be seen: the word of the relay must do.
    Some(if has_text("delivered as ") {
        told(Ending::Forwarded, format!("{said}{blind}"))
    } else if has_text(" and suppressed") {
        told(Ending::Suppressed, format!("{said}{blind}"))
    } else if seen.blind.is_none() && !seen.untold {
        told(Ending::Refused, format!("{said}; then the mail host has refused it for good, and its sender got a report"))
    } else {
        told(Ending::Held, format!("{said}; what became of it then the log of the relay tells{blind}"))
    })
}

fn suppressed(line: &Line) -> Outcome {
    let reason = line.reason.as_ref().map(|reason| format!(", because: {reason}")).unwrap_or_default();
    let source = line.source.as_ref().map(|source| format!(", source: {source}")).unwrap_or_default();
    let words = format!(
        "{} has opted out, {}; action {}{reason}{source}; id={}",
        line.about().unwrap_or_default(),
        by(line),
        line.action,
        line.id
    );
    Outcome { ending: Ending::Suppressed, id: Some(line.id.clone()), rule: rule(line), reply: None, words }
}

fn by(line: &Line) -> String {
    line.rule.as_ref().map_or_else(|| "by a rule that is not told".to_owned(), |rule| format!("by {rule}"))
}

fn rule(line: &Line) -> Option<serde_json::Value> {
    let rule = line.rule.as_ref()?;
    Some(json!({ "file": rule.file, "line": rule.line, "kind": rule.kind, "value": rule.value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: u16, text: &str) -> Said {
        Said { code, lines: vec![text.to_owned()] }
    }

    #[test]
    fn without_logs_the_word_of_the_relay_must_do() {
        let id = Some(Id::new(1, 2));
        let (delivered, held) = (said(250, "2.0.0 delivered as 0"), said(250, "2.0.0 held as 0, and sent on from here"));
        let blind = || Seen { blind: Some("var/log".into()), ..Seen::default() };
        for (heard, ending) in [
            (&delivered, Ending::Forwarded),
            (&held, Ending::Held),
            (&said(250, "2.0.0 taken as 0 and suppressed, nobody is mailed"), Ending::Suppressed),
            (&said(550, "5.7.1 x"), Ending::Refused),
            (&said(451, "4.3.0 x"), Ending::Later),
            (&said(0, "x"), Ending::Refused),
        ] {
            assert_eq!(judge(heard, id, &blind(), false).unwrap().ending, ending, "{heard}");
        }
        let own = Seen { is_own: true, ..Seen::default() };
        assert_eq!(judge(&said(250, "2.0.0 taken as 0; x"), id, &own, false).unwrap().ending, Ending::Learned);
        // Where the logs can be read, their line is waited for, and not for ever.
        for (heard, ending) in [(&delivered, Ending::Forwarded), (&held, Ending::Refused)] {
            assert!(judge(heard, id, &Seen::default(), false).is_none());
            assert_eq!(judge(heard, id, &Seen::default(), true).unwrap().ending, ending);
        }
        let untold = || Seen { untold: true, ..Seen::default() };
        assert_eq!(judge(&delivered, id, &untold(), false).unwrap().ending, Ending::Forwarded);
        assert_eq!(judge(&held, id, &untold(), false).unwrap().ending, Ending::Held);
    }
}

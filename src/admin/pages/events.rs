//! A line of a log as it is shown, in words. Never reads a log.

use jiff::Timestamp;

use super::ago;
use crate::ledger::Line;

/// One line.
#[derive(Debug)]
pub struct Shown {
    /// RFC 3339.
    pub time: String,
    /// As people read it, UTC.
    pub when: String,
    /// So long ago.
    pub ago: String,
    /// How it is marked.
    pub class: &'static str,
    /// What happened, in a word or two.
    pub tag: String,
    /// Whom it is about.
    pub about: String,
    /// From whom the mail was.
    pub sender: String,
    /// What follows, in a sentence each.
    pub words: Vec<String>,
    /// Our id of the message.
    pub id: String,
}

impl Shown {
    /// Of a line of any of the logs.
    pub fn of(line: &Line, now: Timestamp) -> Self {
        let (class, tag) = match (line.event.as_str(), line.action.as_str()) {
            ("suppressed", "reject") => ("suppressed", "rejected".to_owned()),
            ("suppressed", "drop") => ("suppressed", "dropped".to_owned()),
            ("suppressed", "bounce") => ("suppressed", "bounced".to_owned()),
            ("sent", _) => ("sent", "forwarded".to_owned()),
            ("observed" | "exempted", _) => ("let", format!("let out, {}", line.event)),
            (event @ ("learned" | "bound" | "accepted"), _) => ("learned", event.to_owned()),
            (event, _) => ("held", event.to_owned()),
        };
        let mut words = Vec::new();
        words.extend(line.rule.as_ref().map(|rule| format!("By {rule}.")));
        for (name, text) in [
            ("Reason", line.reason.as_deref()),
            ("Source", line.source.as_deref()),
            ("Opted out since", line.since.as_deref()),
            ("Order", line.order.as_deref()),
            ("Learned by", Some(line.intake.as_str())),
            ("Went to", Some(line.upstream.as_str())),
            ("Answer", Some(line.reply.as_str())),
            ("Message-ID", line.message_id.as_deref()),
            ("Tool", Some(line.helo.as_str())),
        ] {
            words.extend(text.filter(|text| !text.is_empty()).map(|text| format!("{name}: {text}")));
        }
        let moment = line.moment();
        Self {
            when: moment.map_or_else(|| line.time.clone(), super::shown),
            ago: moment.map(|moment| ago(moment, now)).unwrap_or_default(),
            time: line.time.clone(),
            class,
            tag,
            about: line.about().unwrap_or_default().to_owned(),
            sender: line.sender.clone(),
            words,
            id: line.id.clone(),
        }
    }
}

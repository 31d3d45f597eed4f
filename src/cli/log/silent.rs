//! Intakes that have seen no notice for long. Never changes a log.

use jiff::Timestamp;

use crate::config::Config;
use crate::ledger::{Line, ends_of};

/// An intake that has seen no notice for so long while mail was sent has probably stopped working.
const SILENT: jiff::SignedDuration = jiff::SignedDuration::from_hours(60 * 24);

/// What `check` says of intakes that are set up and silent. Reads the ends of the logs only.
pub fn silent_intakes(config: &Config, now: Timestamp) -> Vec<String> {
    let learn = &config.file.learn;
    let set_up =
        [("address", !learn.address.is_empty()), ("folder", config.folder.is_some()), ("imap", config.learning.imap.is_some())];
    let set_up: Vec<_> = set_up.into_iter().filter_map(|(intake, is_set_up)| is_set_up.then_some(intake)).collect();
    let logs = config.logs();
    let sent: Vec<Line> = ends_of(&logs, "sent");
    let (Some(first), Some(last)) = (sent.first().and_then(|line| line.moment()), sent.last().and_then(|line| line.moment()))
    else {
        return Vec::new();
    };
    if now.duration_since(last) > SILENT {
        // Nothing was sent that could have had a notice.
        return Vec::new();
    }
    let learned: Vec<Line> = ends_of(&logs, "learned");
    silent(&set_up, &learned, first, now)
}

/// Where nothing at all was learned by an intake, it has been silent since the first mail was sent.
fn silent(set_up: &[&str], learned: &[Line], first_sent: Timestamp, now: Timestamp) -> Vec<String> {
    let last = |intake: &str| learned.iter().filter(|line| line.intake == intake).filter_map(|line| line.moment()).max();
    // One way is enough: whoever has notices come to the mailbox mails none to the address.
    let newest = set_up.iter().filter_map(|intake| last(intake)).max().unwrap_or(first_sent);
    if set_up.is_empty() || now.duration_since(newest) <= SILENT {
        return Vec::new();
    }
    let days = now.duration_since(newest).as_hours() / 24;
    let ways = set_up.join(", ");
    vec![format!(
        "no notice has come in for {days} days while mail was sent (by {ways}); see that the marketplace's notices still reach the relay"
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn learned(intake: &str, time: &str) -> Line {
        Line { intake: intake.into(), time: time.into(), ..Line::default() }
    }

    #[test]
    fn who_has_been_silent_for_long_is_told_of() {
        let (now, first) = (at("2026-11-25T12:00:00Z"), at("2026-01-01T00:00:00Z"));
        let told = |set_up: &[&str], lines: &[Line], first| silent(set_up, lines, first, now).len();
        assert_eq!(told(&["address"], &[], first), 1);
        assert_eq!(told(&["address"], &[], at("2026-11-01T00:00:00Z")), 0);
        assert_eq!(told(&[], &[], first), 0);
        assert_eq!(told(&["address", "imap"], &[learned("imap", "2026-11-20T00:00:00Z")], first), 0);
        assert_eq!(told(&["address", "imap"], &[learned("imap", "2026-09-20T00:00:00Z")], first), 1);
        assert_eq!(told(&["imap"], &[learned("command", "2026-11-20T00:00:00Z")], first), 1);
    }
}

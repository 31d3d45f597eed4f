//! What the tool hears when its message is settled at once. Never does I/O: whether a report is safe on disk is asked for.

use crate::mail::{Id, Outcome, Stage};
use crate::smtp::Reply;

/// The answer, and what must be on disk before it is given.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Say it.
    Say(Reply),
    /// Some got it and others did not, or it was kept back after it had been accepted: the sender gets a report.
    Report {
        /// When the report is on disk.
        then: Reply,
        /// When it cannot be.
        or_else: Reply,
    },
    /// Somebody still waits: the message must be held.
    Hold,
}

impl Answer {
    /// What is said if the disk is well.
    pub fn hoped(self) -> Reply {
        match self {
            Self::Say(reply) | Self::Report { then: reply, .. } => reply,
            Self::Hold => Reply::RECIPIENT_OK,
        }
    }
}

/// 250 never hides that somebody did not get the mail.
pub fn answer(id: Id, outcomes: &[(usize, Outcome)]) -> Answer {
    let (mut delivered, mut loud, mut refused) = (0, 0, Vec::new());
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Deferred(_) => return Answer::Hold,
            Outcome::Delivered(_) => delivered += 1,
            Outcome::Refused(status) => refused.push(status),
            Outcome::Suppressed { silent, .. } => loud += usize::from(!silent),
        }
    }
    // The host's own words tell more than ours.
    let said = refused.iter().find(|status| status.stage != Stage::OptOut).or(refused.first());
    match said {
        Some(status) if delivered == 0 => Answer::Say(Reply::refused(status)),
        Some(status) => {
            let or_else = Reply::partly_refused(status, refused.len() + loud, outcomes.len());
            Answer::Report { then: Reply::delivered(id), or_else }
        }
        None if loud > 0 => {
            let then = if delivered == 0 { Reply::suppressed(id) } else { Reply::delivered(id) };
            Answer::Report { then, or_else: Reply::OPTED_OUT }
        }
        None if delivered == 0 => Answer::Say(Reply::suppressed(id)),
        None => Answer::Say(Reply::delivered(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Status;

    /// One letter a recipient: delivered, host refuses, later, reject, bounce, drop.
    fn told(letters: &str) -> String {
        let status = |stage, code, text| Status::new(stage, code, text);
        let opted_out = || status(Stage::OptOut, 550, "5.7.1 opted out");
        let outcome = |letter| match letter {
            'd' => Outcome::Delivered(status(Stage::Dot, 250, "ok")),
            'h' => Outcome::Refused(status(Stage::Recipient, 551, "5.1.1 who")),
            'l' => Outcome::Deferred(status(Stage::Recipient, 451, "later")),
            'r' => Outcome::Refused(opted_out()),
            'b' => Outcome::Suppressed { status: opted_out(), silent: false },
            _ => Outcome::Suppressed { status: opted_out(), silent: true },
        };
        let outcomes: Vec<_> = letters.chars().map(outcome).enumerate().collect();
        match answer(Id::new(0, 0), &outcomes) {
            Answer::Hold => "hold".into(),
            Answer::Say(reply) => reply.code.to_string(),
            Answer::Report { then, or_else } => format!("report {} or {}", then.code, or_else.code),
        }
    }

    #[test]
    fn the_answer_tells_what_became_of_all() {
        for (letters, expected) in [
            ("d", "250"),
            ("h", "551"),
            ("l", "hold"),
            ("r", "550"),
            ("b", "report 250 or 550"),
            ("x", "250"),
            ("dh", "report 250 or 551"),
            ("dl", "hold"),
            ("hl", "hold"),
            ("dr", "report 250 or 550"),
            ("rh", "551"),
            ("bh", "551"),
            ("db", "report 250 or 550"),
            ("dx", "250"),
            ("hx", "551"),
            ("rb", "550"),
            ("bx", "report 250 or 550"),
            ("dhlrbx", "hold"),
        ] {
            assert_eq!(told(letters), expected, "{letters}");
        }
    }
}

//! What would become of mail to somebody, and by which entry: for pages and for programs. Never judges by itself: it asks the relay's own
//! judge.

use jiff::Timestamp;
use serde::Serialize;

use super::Desk;
use crate::learn::Letterbox;
use crate::mail::{Address, ReversePath};
use crate::optout::{self, Action, Context, OptOutList, Suppression, Title};

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// `forwarded`, `suppressed`, `observed`, `exempted` or `learned_from`.
    pub verdict: &'static str,
    /// Mail to it does not leave.
    pub suppressed: bool,
    /// The same for people: "mail to it …".
    #[serde(skip)]
    pub words: &'static str,
    /// What the recipient gets, where there is an entry.
    pub action: Option<Action>,
    /// The entry that decides.
    pub rule: Option<Rule>,
}

/// An entry, where it stands, and what stands beside it.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// As in the list.
    pub kind: String,
    /// In its comparing form.
    pub value: String,
    /// The list.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// As in the list.
    pub since: Option<String>,
    /// RFC 3339, UTC.
    pub until: Option<String>,
    /// As in the list.
    pub reason: Option<String>,
    /// As in the list.
    pub source: Option<String>,
    /// Only mail from these.
    pub senders: Vec<String>,
    /// As in the list.
    pub note: Option<String>,
}

/// Of a mail from `sender` to `address`, by the lists of this moment.
pub fn verdict(desk: &Desk, address: &Address, sender: &ReversePath, now: Timestamp) -> Verdict {
    let list = desk.relay.lists.current_shared();
    let context = Context { sender, now, title: Title::Is(""), policy: &desk.relay.policy, orders: &[] };
    judged(&list, address, &context, &desk.relay.learner.letterbox)
}

/// The same by a list that somebody has.
pub fn judged(list: &OptOutList, address: &Address, context: &Context<'_>, letterbox: &Letterbox) -> Verdict {
    if letterbox.asked(address).is_some() {
        let words = "goes nowhere: it is learned from (learn.address)";
        return Verdict { verdict: "learned_from", suppressed: true, words, action: None, rule: None };
    }
    let (verdict, suppressed, words, suppression) = match optout::judge(list, address, context) {
        optout::Verdict::Clear(_) => {
            return Verdict { verdict: "forwarded", suppressed: false, words: "is forwarded", action: None, rule: None };
        }
        optout::Verdict::Observed(_, by) => {
            ("observed", false, "is forwarded, because opt_out.mode is observe; the opt-out is only logged", by)
        }
        optout::Verdict::Exempted(_, by) => ("exempted", false, "is forwarded, because of opt_out.exempt_subjects", by),
        optout::Verdict::Open(by) | optout::Verdict::OptedOut(by) => ("suppressed", true, "is suppressed", by),
    };
    Verdict { verdict, suppressed, words, action: Some(suppression.action), rule: Some(rule(&suppression)) }
}

fn rule(Suppression { rule, .. }: &Suppression<'_>) -> Rule {
    let about = rule.attributes;
    Rule {
        kind: rule.kind.to_string(),
        value: rule.value(),
        file: rule.file.display().to_string(),
        line: rule.line,
        since: about.since.clone(),
        until: about.until.map(|until| until.to_string()),
        reason: about.reason.clone(),
        source: about.source.clone(),
        senders: about.senders.clone(),
        note: about.note.clone(),
    }
}

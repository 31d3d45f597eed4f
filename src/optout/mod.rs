//! The judge: may this recipient be mailed? Pure; never does I/O, never asks the clock, never changes a list.

mod edit;
mod entry;
mod file;
mod list;
mod table;
mod watch;

pub use edit::{EditError, add, is_editable, remove};
pub use entry::{Action, Attributes, EntryError, Kind, Subject, hex};
pub use file::{Loaded, load, read};
pub use list::{Builder, OptOutList, Rule, Source, Twin, Twins};
pub use watch::{Lists, watch};

use jiff::Timestamp;

use crate::mail::{Address, ReversePath};

/// What the judge knows of a mail besides its recipient.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Envelope sender: an entry may hold for some senders only.
    pub sender: &'a ReversePath,
    /// The moment of the judgement.
    pub now: Timestamp,
    /// The subject of the mail, as far as it is known.
    pub title: Title<'a>,
    /// What the operator decided.
    pub policy: &'a Policy,
}

/// What is known of a mail's Subject field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Title<'a> {
    /// The header has not come yet: this is RCPT.
    NotYet,
    /// Decoded; empty if there is none.
    Is(&'a str),
}

/// The operator's decisions from `[opt_out]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What an entry without an action of its own does.
    pub action: Action,
    /// Enforce, or only watch.
    pub mode: Mode,
    /// Mail whose subject holds one of these, in any case, passes the opt-outs. Lower case.
    pub exempt_subjects: Vec<String>,
}

/// `opt_out.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Opted-out recipients are suppressed.
    #[default]
    Enforce,
    /// All mail is forwarded; the log says what would have been suppressed.
    Observe,
}

/// The permit to mail one recipient. Only [`judge`] makes one, and the host's side accepts nothing else.
///
/// It borrows the list that it was judged by, so it cannot outlive the moment: mail that waits must be judged again.
#[derive(Clone, Copy, Debug)]
pub struct Cleared<'a> {
    recipient: &'a Address,
    _judged_by: &'a OptOutList,
}

impl<'a> Cleared<'a> {
    /// Who may be mailed.
    pub fn recipient(&self) -> &'a Address {
        self.recipient
    }
}

/// Why a recipient is not mailed.
#[derive(Clone, Copy, Debug)]
pub struct Suppression<'a> {
    /// The entry that decided.
    pub rule: Rule<'a>,
    /// Its own action, or the operator's.
    pub action: Action,
}

/// The judge's answer for one recipient.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// May be mailed.
    Clear(Cleared<'a>),
    /// Opted out, but the operator only watches: may be mailed, goes into the log.
    Observed(Cleared<'a>, Suppression<'a>),
    /// Opted out; the subject may yet exempt the mail. Ask again when it is known.
    Open(Suppression<'a>),
    /// Opted out. Nothing leaves.
    OptedOut(Suppression<'a>),
}

/// Judges one recipient by one list. The first line that fits decides; what cannot be told is not a "no".
///
/// ```
/// use optout_relay::{mail::{Address, PlusTags, ReversePath}, optout::*};
/// let mut list = Builder::new(PlusTags::Ignore);
/// list.add(1, Subject::guess("buyer@example.org")?, Attributes::default());
/// let (list, policy) = (list.finish(), Policy::default());
/// let context = Context { sender: &ReversePath::Null, now: jiff::Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy };
/// let verdict = judge(&list, &Address::parse("Buyer+7@Example.ORG")?, &context);
/// assert!(matches!(verdict, Verdict::OptedOut(_)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn judge<'a>(list: &'a OptOutList, recipient: &'a Address, context: &Context<'_>) -> Verdict<'a> {
    let cleared = Cleared { recipient, _judged_by: list };
    let Some(rule) = list.strictest(recipient, context) else {
        return Verdict::Clear(cleared);
    };
    let suppression = Suppression { rule, action: rule.attributes.action.unwrap_or(context.policy.action) };
    match (context.title, context.policy) {
        (_, Policy { mode: Mode::Observe, .. }) => Verdict::Observed(cleared, suppression),
        (Title::NotYet, policy) if !policy.exempt_subjects.is_empty() => Verdict::Open(suppression),
        (Title::Is(title), policy) if policy.exempts(title) => Verdict::Clear(cleared),
        _ => Verdict::OptedOut(suppression),
    }
}

impl Policy {
    fn exempts(&self, title: &str) -> bool {
        let title = title.to_lowercase();
        self.exempt_subjects.iter().any(|mark| title.contains(mark.as_str()))
    }
}

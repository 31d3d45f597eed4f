//! The judge: may this recipient be mailed? Pure; never does I/O, never asks the clock, never changes a list.

mod conceal;
mod edit;
mod entry;
mod export;
mod file;
mod foreign;
mod known;
mod list;
mod rows;
mod strike;
mod table;
mod watch;

pub use conceal::{Hashed, Older, hash_older};
pub use edit::{Edit, add, can_be_cut, edited, end, is_editable, lines, remove};
pub use entry::{Action, Attributes, EntryError, Evidence, Kind, Subject, hex, senders};
pub use export::{COLUMNS, Writer, Written, hashed};
pub use file::{Loaded, load, load_counted, read, read_from, until};
pub use foreign::{Column, Ended, Form, Found, Manner, Provider, read_foreign};
pub use known::Known;
pub use list::{Builder, OptOutList, Rule, Source, Twin, Twins};
pub use rows::is_table;
pub use strike::{Struck, strike};
pub use watch::{Lists, Part};

use jiff::Timestamp;

use crate::mail::{Address, Order, ReversePath};

/// What the judge knows of a mail besides its recipient.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Envelope sender: an entry may hold for some senders only.
    pub sender: &'a ReversePath,
    /// The moment of the judgement.
    pub now: Timestamp,
    /// The subject of the mail, as far as it is known.
    pub title: Title<'a>,
    /// The orders that the mail names, where the recipient is a buyer: whose orders they are.
    pub orders: &'a [Order],
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
///
/// ```
/// # use optout_relay::{mail::*, optout::*};
/// # let (list, policy) = (Builder::new(PlusTags::Ignore).finish(), Policy::default());
/// # let context = Context { sender: &ReversePath::Null, now: jiff::Timestamp::now(), title: Title::Is(""), policy: &policy, orders: &[] };
/// # let address = Address::parse("buyer@example.org")?;
/// fn mail(permit: Cleared<'_>) {}
/// if let Verdict::Clear(permit) = judge(&list, &address, &context) {
///     mail(permit);
/// }
/// # Ok::<(), AddressError>(())
/// ```
///
/// The same with a permit of one's own making does not compile:
///
/// ```compile_fail,E0451
/// # use optout_relay::{mail::*, optout::*};
/// # let (list, policy) = (Builder::new(PlusTags::Ignore).finish(), Policy::default());
/// # let context = Context { sender: &ReversePath::Null, now: jiff::Timestamp::now(), title: Title::Is(""), policy: &policy, orders: &[] };
/// # let address = Address::parse("buyer@example.org")?;
/// fn mail(permit: Cleared<'_>) {}
/// mail(Cleared { recipient: &address, _judged_by: &list });
/// # Ok::<(), AddressError>(())
/// ```
///
/// Nor does one that is kept while the list is replaced:
///
/// ```compile_fail,E0505
/// # use optout_relay::{mail::*, optout::*};
/// # let (list, policy) = (Builder::new(PlusTags::Ignore).finish(), Policy::default());
/// # let context = Context { sender: &ReversePath::Null, now: jiff::Timestamp::now(), title: Title::Is(""), policy: &policy, orders: &[] };
/// # let address = Address::parse("buyer@example.org")?;
/// fn mail(permit: Cleared<'_>) {}
/// if let Verdict::Clear(permit) = judge(&list, &address, &context) {
///     drop(list);
///     mail(permit);
/// }
/// # Ok::<(), AddressError>(())
/// ```
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
    /// Opted out, but the subject exempts the mail: may be mailed, goes into the log.
    Exempted(Cleared<'a>, Suppression<'a>),
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
/// let context = Context { sender: &ReversePath::Null, now: jiff::Timestamp::UNIX_EPOCH, title: Title::NotYet, policy: &policy, orders: &[] };
/// let recipient = Address::parse("Buyer+7@Example.ORG")?;
/// assert!(matches!(judge(&list, &recipient, &context), Verdict::OptedOut(_)));
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
        (Title::Is(title), policy) if policy.exempts(title) => Verdict::Exempted(cleared, suppression),
        _ => Verdict::OptedOut(suppression),
    }
}

impl Policy {
    fn exempts(&self, title: &str) -> bool {
        let title = title.to_lowercase();
        self.exempt_subjects.iter().any(|mark| title.contains(mark.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::PlusTags;

    /// A list of `entry`, or `entry | action | until | sender`.
    fn list(entries: &[&str]) -> OptOutList {
        let mut list = Builder::new(PlusTags::Ignore);
        for (at, entry) in entries.iter().enumerate() {
            let mut parts = entry.split(" | ");
            let subject = Subject::guess(parts.next().unwrap()).unwrap();
            let mut next = || parts.next().filter(|part| !part.is_empty());
            let action = next().map(|text| text.parse().unwrap());
            let until = next().map(|text| text.parse().unwrap());
            let senders = next().into_iter().map(str::to_owned).collect();
            list.add(at as u32 + 1, subject, Attributes { action, until, senders, ..Attributes::default() });
        }
        list.finish()
    }

    /// `clear`, or the word for the verdict, the line of the rule and the action.
    fn verdict(list: &OptOutList, recipient: &str, sender: &str, title: Title<'_>, policy: &Policy) -> String {
        let recipient = Address::parse(recipient).unwrap();
        let sender = if sender.is_empty() { ReversePath::Null } else { ReversePath::Address(Address::parse(sender).unwrap()) };
        let context = Context { sender: &sender, now: "2026-11-24T12:00:00Z".parse().unwrap(), title, policy, orders: &[] };
        let told = |word: &str, found: Suppression<'_>| format!("{word} {} {}", found.rule.line, found.action);
        match judge(list, &recipient, &context) {
            Verdict::Clear(permit) => {
                assert_eq!(permit.recipient(), &recipient);
                "clear".into()
            }
            Verdict::Observed(_, found) => told("observed", found),
            Verdict::Exempted(_, found) => told("exempted", found),
            Verdict::Open(found) => told("open", found),
            Verdict::OptedOut(found) => told("out", found),
        }
    }

    #[test]
    fn every_kind_of_entry_finds_its_recipients_and_nobody_else() {
        let list = list(&[
            "buyer@example.org",
            "whole.example",
            "*.below.example",
            "promo-*@glob.example",
            "sha256:973dfe463ec85785f5f95af5ba3906eedb2d931c24e69824a89ea65dba4e813b", // test@example.com
            "md5:55502f40dc8b7c769880b10874abc9d0",                                    // test@example.com
            "sha256:2464900e964e316264e11a0f02e9446f496d9c4cf34ba69a5a8b7ef67e63e4c4", // tagged+shop@hash.example
            "md5:9f0c24719cf988604a58040da33462dd",                                    // käufer@bücher.example
        ]);
        for (recipient, expected) in [
            ("Buyer+tag@EXAMPLE.org.", "out 1 reject"),
            ("buyers@example.org", "clear"),
            ("buyer@sub.example.org", "clear"),
            ("anyone@Whole.example", "out 2 reject"),
            ("anyone@sub.whole.example", "clear"),
            ("anyone@a.b.below.example", "out 3 reject"),
            ("anyone@below.example", "clear"),
            ("anyone@notbelow.example", "clear"),
            ("Promo-7@glob.example", "out 4 reject"),
            ("xpromo-7@glob.example", "clear"),
            ("Test@Example.com", "out 5 reject"),
            ("test+tag@example.com", "out 5 reject"),
            ("\"Tagged+Shop\"@Hash.example.", "out 7 reject"),
            ("tagged@hash.example", "clear"),
            ("Käufer@xn--bcher-kva.example", "out 8 reject"),
            ("postmaster", "clear"),
        ] {
            assert_eq!(verdict(&list, recipient, "me@shop.example", Title::NotYet, &Policy::default()), expected, "{recipient}");
        }
    }

    #[test]
    fn the_strictest_entry_that_holds_for_this_mail_decides() {
        let list = list(&[
            "a@x.example | drop",
            "x.example | bounce",
            "*@x.example | reject |  | *@shop-b.example",
            "b@y.example |  | 2026-11-24T12:00:00Z",
            "c@y.example |  | 2026-11-24T11:59:59Z",
            "d@y.example | drop | 2027-01-01T00:00:00Z",
            "d@y.example | drop",
        ]);
        for (recipient, sender, expected) in [
            ("a@x.example", "me@shop-a.example", "out 2 bounce"),
            ("a@x.example", "me@Shop-B.example", "out 3 reject"),
            ("a@x.example", "", "out 3 reject"), // whose mail it is cannot be told
            ("b@y.example", "", "out 4 reject"),
            ("c@y.example", "", "clear"),
            ("d@y.example", "", "out 7 drop"),
        ] {
            let found = verdict(&list, recipient, sender, Title::Is(""), &Policy::default());
            assert_eq!(found, expected, "{recipient} from {sender}");
        }
    }

    #[test]
    fn what_the_operator_decided_is_obeyed() {
        let list = list(&["a@x.example"]);
        let marked = Policy { exempt_subjects: vec!["[important]".into()], action: Action::Drop, ..Policy::default() };
        let watching = Policy { mode: Mode::Observe, ..Policy::default() };
        for (policy, title, expected) in [
            (&marked, Title::NotYet, "open 1 drop"),
            (&marked, Title::Is("Re: [IMPORTANT] your order"), "exempted 1 drop"),
            (&marked, Title::Is("important"), "out 1 drop"),
            (&watching, Title::NotYet, "observed 1 reject"),
            (&watching, Title::Is(""), "observed 1 reject"),
        ] {
            assert_eq!(verdict(&list, "a@x.example", "", title, policy), expected, "{title:?}");
        }
    }
}

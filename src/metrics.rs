//! What is counted while mail goes by: numbers that only grow, an atomic each, made before the first mail. Counting never locks, never allocates,
//! never asks the clock, never decides anything.

mod histogram;
mod text;

use std::sync::Arc;
use std::time::Duration;

pub use prometheus_client::metrics::counter::Counter;

pub use histogram::Histogram;
pub use text::{Form, Kind, Reading, text};

use crate::mail::Outcome;
use crate::optout::{Action, Attributes};

/// A counter for each value of a label: all of them are there from the start, so counting looks nothing up.
#[derive(Debug)]
pub struct Each<const N: usize>([Counter; N]);

impl<const N: usize> Default for Each<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    messages: Counter,
    recipients: Counter,
    turned_away: Each<2>,
    answer: Histogram,
    suppressed: [Each<3>; SOURCES.len()],
    let_out: Each<2>,
    outcomes: Each<3>,
    given_up: Counter,
    attempt: Histogram,
    sessions: Counter,
    sessions_ended: Counter,
    sessions_refused: Each<2>,
    listeners: Counter,
    listeners_closed: Counter,
    learned: Each<6>,
    log_failures: Each<4>,
}

const ACTIONS: [&str; 3] = ["reject", "drop", "bounce"];

/// Where an entry comes from: a list that people write, or the way by which it was learned. Fixed, for a label with the texts of
/// entries would have as many values as there are entries.
const SOURCES: [&str; 8] = ["list", "address", "folder", "imap", "command", "delivery", "order", "other"];

const LET_OUT: [&str; 2] = ["observe", "exempt"];
const OUTCOMES: [&str; 3] = ["delivered", "deferred", "refused"];
const TURNED_AWAY: [&str; 2] = ["later", "never"];
const REFUSED: [&str; 2] = ["unknown_client", "too_many_sessions"];
const LEARNED: [&str; 6] = ["learned", "waiting", "bound", "quarantined", "accepted", "rejected"];
const LOGS: [&str; 4] = ["suppressed", "learned", "sent", "actions"];

/// Where an entry comes from, by its place among those that are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source(usize);

impl Source {
    /// By what stands beside the entry.
    pub fn of(attributes: &Attributes) -> Self {
        let Some(evidence) = &attributes.evidence else { return Self(0) };
        let intake = evidence.intake.as_deref().unwrap_or_default();
        Self(SOURCES.iter().position(|source| *source == intake).unwrap_or(SOURCES.len() - 1))
    }
}

/// Why somebody who has opted out was mailed all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetOut {
    /// `opt_out.mode`
    Observe,
    /// `opt_out.exempt_subjects`
    Exempt,
}

/// Why a client was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// It may not relay here.
    Unknown,
    /// It has as many sessions as one client may have.
    TooMany,
}

impl Metrics {
    /// A message was answered with 250: so many recipients, so long after its final dot.
    pub fn accepted(&self, recipients: usize, took: Duration) {
        self.messages.inc();
        self.recipients.inc_by(recipients as u64);
        self.answer.observe(took);
    }

    /// A message was answered with something else, and stays with the tool.
    pub fn turned_away(&self, code: u16, took: Duration) {
        self.turned_away.0[usize::from(code / 100 == 5)].inc();
        self.answer.observe(took);
    }

    /// Somebody who has opted out is not mailed, and the log has it.
    pub fn suppressed(&self, action: Action, source: Source) {
        let action = match action {
            Action::Reject => 0,
            Action::Drop => 1,
            Action::Bounce => 2,
        };
        self.suppressed[source.0].0[action].inc();
    }

    /// Somebody who has opted out is mailed.
    pub fn let_out(&self, why: LetOut) {
        self.let_out.0[why as usize].inc();
    }

    /// An attempt is over, after so long.
    pub fn attempted<'o>(&self, outcomes: impl Iterator<Item = &'o Outcome>, took: Duration) {
        self.attempt.observe(took);
        for outcome in outcomes {
            match outcome {
                Outcome::Delivered(_) => self.outcomes.0[0].inc(),
                Outcome::Deferred(_) => self.outcomes.0[1].inc(),
                Outcome::Refused(_) => self.outcomes.0[2].inc(),
                // Counted when the log has it.
                Outcome::Suppressed { .. } => continue,
            };
        }
    }

    /// So many recipients are not tried any more.
    pub fn given_up(&self, recipients: usize) {
        self.given_up.inc_by(recipients as u64);
    }

    /// A client came in; it is inside until this goes.
    pub fn session(self: &Arc<Self>) -> Inside {
        self.sessions.inc();
        Inside { counted: self.clone(), of: |metrics| &metrics.sessions_ended }
    }

    /// A client was not let in.
    pub fn no_session(&self, why: NoSession) {
        self.sessions_refused.0[why as usize].inc();
    }

    /// A listener is open until this goes.
    pub fn listener(self: &Arc<Self>) -> Inside {
        self.listeners.inc();
        Inside { counted: self.clone(), of: |metrics| &metrics.listeners_closed }
    }

    /// Listeners that are open now.
    pub fn listening(&self) -> u64 {
        // What ends after it was looked at must not make more of them end than have begun.
        let closed = self.listeners_closed.get();
        self.listeners.get().saturating_sub(closed)
    }

    /// Sessions now.
    pub fn inside(&self) -> u64 {
        let ended = self.sessions_ended.get();
        self.sessions.get().saturating_sub(ended)
    }

    /// So many lines of `learned.jsonl` with this event, by its place in [`Lesson`](crate::ledger::Lesson).
    pub fn learned(&self, event: usize) {
        self.learned.0.get(event).map(Counter::inc);
    }

    /// What counts the failures of one of the logs.
    pub fn failures_of(&self, log: &str) -> Counter {
        LOGS.iter().position(|name| *name == log).map(|at| self.log_failures.0[at].clone()).unwrap_or_default()
    }

    /// All of it, for a scrape.
    pub fn readings(&self) -> Vec<Reading> {
        let mut all = vec![
            Reading::counter("messages_accepted", "Messages answered with 250", self.messages.get()),
            Reading::counter("recipients_accepted", "Recipients of messages that were answered with 250", self.recipients.get()),
            Reading::each("messages_refused", TURNED, &self.turned_away, "for", TURNED_AWAY),
            Reading::histogram("answer_seconds", "From the final dot of a message to its answer", &self.answer),
            Reading::each("let_out", OBSERVED, &self.let_out, "by", LET_OUT),
            Reading::each("outcomes", ENDED, &self.outcomes, "outcome", OUTCOMES),
            Reading::counter("given_up", "Recipients whose mail waited too long and is not tried any more", self.given_up.get()),
            Reading::histogram(
                "attempt_seconds",
                "An attempt at the mail host, waiting for a connection included",
                &self.attempt,
            ),
            Reading::counter("sessions", "Sessions of tools that were begun", self.sessions.get()),
            Reading::gauge("sessions_active", "Sessions of tools now", self.inside() as f64),
            Reading::each("sessions_refused", "Clients that were not let in", &self.sessions_refused, "reason", REFUSED),
            Reading::gauge("listeners", "Addresses on which mail is taken now", self.listening() as f64),
            Reading::each("learned", "Lines of learned.jsonl by what they tell", &self.learned, "event", LEARNED),
            Reading::each("log_write_failures", "Failures to write a log", &self.log_failures, "log", LOGS),
        ];
        let by_both = SOURCES.iter().zip(&self.suppressed).flat_map(|(source, each)| {
            ACTIONS
                .iter()
                .zip(&each.0)
                .map(|(action, count)| (vec![("action", *action), ("source", *source)], count.get() as f64))
        });
        all.push(Reading { name: "suppressed", help: SUPPRESSED, kind: Kind::Counter(by_both.collect()) });
        all
    }
}

const SUPPRESSED: &str = "Recipients who have opted out and were not mailed, by what they got and where the opt-out comes from";
const TURNED: &str = "Messages that stay with the tool after their final dot, for another try or for good";
const OBSERVED: &str = "Recipients who have opted out and were mailed all the same, by opt_out.mode or opt_out.exempt_subjects";
const ENDED: &str = "Recipients by what came of an attempt at the mail host";

impl Reading {
    fn each<const N: usize>(
        name: &'static str,
        help: &'static str,
        each: &Each<N>,
        label: &'static str,
        values: [&'static str; N],
    ) -> Self {
        let counts = values.into_iter().zip(&each.0).map(|(value, count)| (vec![(label, value)], count.get() as f64));
        Self { name, help, kind: Kind::Counter(counts.collect()) }
    }
}

/// Something that began and has not ended.
#[derive(Debug)]
pub struct Inside {
    counted: Arc<Metrics>,
    of: fn(&Metrics) -> &Counter,
}

impl Drop for Inside {
    fn drop(&mut self) {
        (self.of)(&self.counted).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optout::Evidence;

    fn lines(metrics: &Metrics, start: &str) -> Vec<String> {
        let text = text(metrics.readings(), Form::OpenMetrics);
        text.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn a_source_is_one_of_few_whatever_a_list_says() {
        let learned = |intake: Option<&str>| {
            let evidence = Evidence { intake: intake.map(str::to_owned), ..Evidence::default() };
            Source::of(&Attributes { evidence: Some(Box::new(evidence)), source: Some("x".into()), ..Attributes::default() })
        };
        let named = |source: Source| SOURCES[source.0];
        assert_eq!(named(Source::of(&Attributes { source: Some("imap".into()), ..Attributes::default() })), "list");
        for (intake, expected) in [(Some("imap"), "imap"), (Some("order"), "order"), (Some("a\nb"), "other"), (None, "other")] {
            assert_eq!(named(learned(intake)), expected, "{intake:?}");
        }
    }

    #[test]
    fn every_count_is_told_under_its_name() {
        let metrics = Arc::new(Metrics::default());
        metrics.accepted(3, Duration::from_millis(2));
        metrics.turned_away(451, Duration::ZERO);
        metrics.turned_away(550, Duration::ZERO);
        metrics.suppressed(Action::Drop, Source(3));
        metrics.failures_of("sent").inc();
        let (_one, two) = (metrics.session(), metrics.session());
        drop(two);
        for expected in [
            "optout_relay_messages_accepted_total 1",
            "optout_relay_recipients_accepted_total 3",
            "optout_relay_messages_refused_total{for=\"later\"} 1",
            "optout_relay_messages_refused_total{for=\"never\"} 1",
            "optout_relay_suppressed_total{action=\"drop\",source=\"imap\"} 1",
            "optout_relay_suppressed_total{action=\"reject\",source=\"list\"} 0",
            "optout_relay_log_write_failures_total{log=\"sent\"} 1",
            "optout_relay_sessions_total 2",
            "optout_relay_sessions_active 1.0",
            "optout_relay_answer_seconds_count 3",
        ] {
            assert_eq!(lines(&metrics, expected), [expected]);
        }
    }
}

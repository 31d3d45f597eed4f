//! The last warnings and errors of the relay, for people who do not read its log. Never grows beyond its bound, never holds mail up.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::mail::clean;

/// Kept at most.
const MOST: usize = 50;

/// Bytes of one.
const LONGEST: usize = 1000;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// When it was said last.
    pub time: Timestamp,
    /// An error; otherwise a warning.
    pub is_error: bool,
    /// What was said.
    pub text: String,
    /// What to do, if that was said.
    pub hint: Option<String>,
    /// How many times in a row of others it was said.
    pub times: u64,
}

/// The last of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Problems(Arc<Mutex<VecDeque<Problem>>>);

impl Problems {
    /// The newest first.
    pub fn all(&self) -> Vec<Problem> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }

    /// Where the talk of the relay goes by, so that they are heard.
    pub fn layer<S: Subscriber>(&self) -> impl Layer<S> + use<S> {
        Listener(self.clone())
    }

    fn note(&self, time: Timestamp, is_error: bool, said: &str) {
        let said = said.replace("\n  ", "; ");
        let (text, hint) = said.split_once("\nhint: ").map_or((said.as_str(), None), |(text, hint)| (text, Some(hint)));
        let (text, hint) = (clean(text, LONGEST), hint.map(|hint| clean(hint, LONGEST)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.iter().position(|problem| problem.text == text).and_then(|at| all.remove(at));
        let times = before.map_or(0, |before| before.times) + 1;
        if all.len() >= MOST {
            all.pop_front();
        }
        all.push_back(Problem { time, is_error, text, hint, times });
    }
}

struct Listener(Problems);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        // Of crates below us only what they say themselves is known, and not in words for a shop owner.
        if level > Level::WARN || !event.metadata().target().starts_with("optout_relay") {
            return;
        }
        let mut said = Said::default();
        event.record(&mut said);
        self.0.note(Timestamp::now(), level == Level::ERROR, &said.whole());
    }
}

/// The message, and what stands beside it.
#[derive(Default)]
struct Said {
    message: String,
    beside: String,
}

impl Said {
    fn whole(self) -> String {
        let Self { message, beside } = self;
        if beside.is_empty() {
            return message;
        }
        match message.split_once('\n') {
            Some((first, rest)) => format!("{first} ({beside})\n{rest}"),
            None => format!("{message} ({beside})"),
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            // It changes each time, and the page counts by itself.
            "times" => Ok(()),
            name => {
                let between = if self.beside.is_empty() { "" } else { ", " };
                write!(self.beside, "{between}{name} {value:?}")
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn what_is_said_again_is_counted_and_the_oldest_are_forgotten() {
        let problems = Problems::default();
        let heard = tracing_subscriber::registry().with(problems.layer());
        tracing::subscriber::with_default(heard, || {
            tracing::info!("fine");
            tracing::warn!(target: "optout_relay", client = "1.2.3.4", times = 7, "odd\nhint: look");
            tracing::error!(target: "optout_relay", "bad\u{1b}[2J <b>");
            tracing::warn!(target: "optout_relay", client = "1.2.3.4", times = 9, "odd\nhint: look");
            tracing::warn!(target: "other", "not ours");
        });
        let all = problems.all();
        let told: Vec<_> = all.iter().map(|p| (p.text.as_str(), p.hint.as_deref(), p.times, p.is_error)).collect();
        assert_eq!(told[0], ("odd (client \"1.2.3.4\")", Some("look"), 2, false));
        assert!(told.len() == 2 && told[1].3 && !told[1].0.contains('\u{1b}'), "{told:?}");
        for n in 0..2 * MOST {
            problems.note(Timestamp::now(), false, &n.to_string());
        }
        assert_eq!((problems.all().len(), problems.all()[0].text.as_str()), (MOST, "99"));
    }
}

//! `log.format = "postfix"`: lines as syslog keeps those of Postfix, for programs that read such logs. Never changes what is said, never
//! says anything about a message twice.

use std::fmt::{self, Write};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::relay::POSTFIX;

/// Where the other form of the same lines comes from.
const WORDS: &str = "optout_relay::relay::words";

/// Each line as `TIME HOST PROGRAM[PID]: TEXT`.
#[derive(Debug)]
pub struct Syslog {
    host: String,
}

impl Syslog {
    /// On a machine of this name.
    pub fn new(hostname: &str) -> Self {
        Self { host: hostname.split('.').next().unwrap_or(hostname).to_owned() }
    }
}

/// What is told in this form: the way of each message in Postfix's words instead of ours, and the rest as it is.
pub fn told(level: LevelFilter) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    filter_fn(move |about| match about.target() {
        POSTFIX => level >= LevelFilter::INFO,
        // An outcome, or a suppression.
        WORDS if *about.level() >= Level::INFO && ["dsn", "action"].iter().any(|name| about.fields().field(name).is_some()) => {
            false
        }
        _ => *about.level() <= level,
    })
    .with_max_level_hint(LevelFilter::TRACE)
}

impl<S, N> FormatEvent<S, N> for Syslog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut said = Said::default();
        event.record(&mut said);
        write!(line, "{} {} ", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ"), self.host)?;
        let about = event.metadata();
        if about.target() == POSTFIX {
            return writeln!(line, "{}", said.message);
        }
        let level = about.level().as_str().to_lowercase();
        let text = format!("{}{}", said.message, said.beside);
        // A line is a record there.
        writeln!(line, "optout-relay[{}]: {level}: {}", std::process::id(), text.replace('\n', "; "))
    }
}

/// The message, and what stands beside it.
#[derive(Default)]
struct Said {
    message: String,
    beside: String,
}

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a text does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.beside, " {name}={value:?}"),
        };
    }
}

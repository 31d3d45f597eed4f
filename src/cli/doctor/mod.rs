//! `doctor`: looks at all that the relay needs, and says what to do about what is wrong. Never sends a mail, never changes anything,
//! never waits long, never shows a secret.

mod here;
mod reach;

use std::fmt::Display;
use std::io::{Write, stdout};
use std::sync::Arc;

use serde::Serialize;

use super::paint::{self, Tone};
use super::{Done, Exit, Failure};
use crate::config::Config;
use crate::mail::clean;
use crate::place::Fault;

const EXAMPLES: &str = "Examples:
  optout-relay doctor
  sudo -u optout-relay optout-relay doctor      as the relay's own user, who may read everything
  optout-relay doctor --json";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How it is with something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Wrong,
}

/// What was found out about one thing. The names are public: people script against them.
#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    status: Status,
    found: String,
    hint: Option<String>,
}

impl Finding {
    /// The text may end in a hint: `…\nhint: …`.
    fn new(status: Status, check: impl Display, text: impl Display) -> Self {
        let text = text.to_string();
        let (found, hint) = text.split_once("\nhint: ").map_or((text.as_str(), None), |(found, hint)| (found, Some(hint)));
        let line = |text: &str| text.replace('\n', "; ");
        Self { check: check.to_string(), status, found: line(found), hint: hint.map(line) }
    }

    fn ok(check: impl Display, text: impl Display) -> Self {
        Self::new(Status::Ok, check, text)
    }

    fn warning(check: impl Display, text: impl Display, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..Self::new(Status::Warning, check, text) }
    }

    fn wrong(check: impl Display, text: impl Display) -> Self {
        Self::new(Status::Wrong, check, text)
    }

    /// What to do, where the text does not say so.
    fn or_hint(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }
}

/// Exit 1 where something is wrong; a warning is not.
pub fn run(config: Result<Config, Fault>, arguments: &Arguments) -> Done {
    let findings = match config {
        // Nothing else can be known.
        Err(fault) => vec![Finding::wrong("configuration", fault).or_hint("mend the file; `optout-relay check` reads it again")],
        Ok(config) => all(&Arc::new(config))?,
    };
    let well = findings.iter().all(|finding| finding.status < Status::Wrong);
    if arguments.json {
        writeln!(stdout(), "{}", serde_json::json!({ "ok": well, "checks": findings }))?;
    } else {
        tell(&findings)?;
    }
    Ok(if well { Exit::Ok } else { Exit::No })
}

fn all(config: &Arc<Config>) -> Result<Vec<Finding>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Exit::Unavailable, format_args!("start the runtime: {e}")))?;
    let mut findings = here::all(config);
    // Side by side: what waits for an answer keeps nothing else waiting.
    let outside = runtime.block_on(async {
        let (host, listeners, mailbox, pages) =
            tokio::join!(reach::upstream(config), reach::listeners(config), reach::mailbox(config), reach::admin_pages(config));
        [host, listeners, mailbox, pages].into_iter().flatten()
    });
    // A look-up that still runs has nobody left to tell.
    runtime.shutdown_background();
    findings.extend(outside);
    Ok(findings)
}

fn tell(findings: &[Finding]) -> std::io::Result<()> {
    let mut out = stdout().lock();
    for Finding { check, status, found, .. } in findings {
        let (word, tone) = match status {
            Status::Ok => ("ok", Tone::Good),
            Status::Warning => ("warning", Tone::Doubtful),
            Status::Wrong => ("wrong", Tone::Bad),
        };
        // Side by side only where people look at it.
        let gap = " ".repeat(if paint::is_seen() { "warning".len() - word.len() } else { 0 });
        writeln!(out, "{}:{gap} {check} — {}", paint::word(tone, word), paint::line(found, 600))?;
    }
    let mut hints: Vec<_> = findings.iter().filter(|finding| finding.status > Status::Ok && finding.hint.is_some()).collect();
    hints.sort_by_key(|finding| std::cmp::Reverse(finding.status));
    if !hints.is_empty() {
        writeln!(out, "\nWhat to do:")?;
    }
    for (at, Finding { check, hint, .. }) in hints.into_iter().enumerate() {
        writeln!(out, "{}. {check}: {}", at + 1, paint::line(hint.as_deref().unwrap_or_default(), 600))?;
    }
    Ok(())
}

/// Words of others, in one line.
fn said(text: &str) -> String {
    clean(text, 400)
}

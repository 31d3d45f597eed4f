//! Postfix access tables, access(5): a pattern and an action a line. Never takes a line that lets mail pass for an opt-out.

use std::io::BufRead;
use std::path::Path;

use super::lines::each;
use super::{Ended, Found, Take, short, wrong};
use crate::optout::entry::{Action, Attributes, EntryError, Subject};

/// What an action does with mail to somebody.
enum Does {
    Stops(Option<Action>),
    Passes,
}

pub(super) fn read(path: &Path, source: &mut dyn BufRead, take: &mut Take<'_>) -> Result<(), Ended> {
    // A line that begins with space goes on with the one before, and only then is that one whole.
    let mut begun: Option<(u64, String)> = None;
    each(path, source, |line, text| {
        if text.trim().is_empty() || text.trim_start().starts_with('#') {
            return Ok(());
        }
        match &mut begun {
            Some((_, whole)) if text.starts_with([' ', '\t']) => {
                if whole.len() < super::MAX_ROW {
                    whole.push_str(text);
                }
                Ok(())
            }
            _ => begun.replace((line, text.to_owned())).map_or(Ok(()), |(line, whole)| row(line, &whole, take)),
        }
    })?;
    Ok(begun.map_or(Ok(()), |(line, whole)| row(line, &whole, take))?)
}

fn row(line: u64, text: &str, take: &mut Take<'_>) -> std::io::Result<()> {
    let text = text.trim();
    let (pattern, rest) = text.split_once(|c: char| c.is_whitespace()).unwrap_or((text, ""));
    let (action, said) = rest.trim().split_once(|c: char| c.is_whitespace()).unwrap_or((rest.trim(), ""));
    let action = match does(action) {
        Some(Does::Stops(action)) => action,
        Some(Does::Passes) => return take(line, Found::Other),
        None => {
            let action = crate::place::shown(action);
            return take(
                line,
                Found::Wrong(format!("{action} is not an action that is known here; write REJECT, DISCARD or OK")),
            );
        }
    };
    let said = said.trim();
    let attributes = Attributes { action, reason: (!said.is_empty()).then(|| short(said)), ..Attributes::default() };
    let subjects = match subjects(pattern) {
        Ok(subjects) => subjects,
        Err(error) => return take(line, wrong(&error)),
    };
    subjects.into_iter().try_for_each(|subject| take(line, Found::Entry(subject, attributes.clone())))
}

fn does(action: &str) -> Option<Does> {
    let action = action.to_ascii_uppercase();
    Some(match action.as_str() {
        "REJECT" | "DEFER" | "DEFER_IF_REJECT" | "DEFER_IF_PERMIT" | "HOLD" => Does::Stops(None),
        "DISCARD" => Does::Stops(Some(Action::Drop)),
        "OK" | "DUNNO" | "PERMIT" | "WARN" | "INFO" | "PREPEND" | "FILTER" | "REDIRECT" | "BCC" => Does::Passes,
        code if code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()) => match code.as_bytes()[0] {
            b'4' | b'5' => Does::Stops(None),
            _ => return None,
        },
        _ => return None,
    })
}

/// A domain stands for its subdomains too, as it does in Postfix unless somebody has changed `parent_domain_matches_subdomains`.
fn subjects(pattern: &str) -> Result<Vec<Subject>, EntryError> {
    if let Some(below) = pattern.strip_prefix('.').filter(|below| !below.contains('@')) {
        return Ok(vec![Subject::domain(&format!("*.{below}"))?]);
    }
    match pattern.strip_suffix('@') {
        // `user@` is that user of every domain.
        Some(user) => Ok(vec![Subject::pattern(&format!("{user}@*"))?]),
        None if pattern.contains('@') => Ok(vec![Subject::guess(pattern)?]),
        None => Ok(vec![Subject::domain(pattern)?, Subject::domain(&format!("*.{pattern}"))?]),
    }
}

/// The first line that is none of the comments has an action in its second place, and no name of a column in its first.
pub(super) fn looks_like(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(&head[..head.len().min(1 << 16)]);
    let first = head.lines().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    let is_pattern = |word: &str| word.contains(['@', '.']) && !word.contains([',', ';']);
    let words = first.map(str::split_whitespace).and_then(|mut words| Some((words.next()?, words.next()?)));
    words.is_some_and(|(pattern, action)| is_pattern(pattern) && does(action).is_some())
}

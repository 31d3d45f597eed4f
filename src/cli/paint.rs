//! Standard output for people: colours where a terminal shows them and nobody has set NO_COLOR, and otherwise none. Never decides
//! what is said.

use std::io::{IsTerminal, StdoutLock};

use anstream::AutoStream;

/// Takes colours, and leaves them out where they are not wanted.
pub fn stdout() -> AutoStream<StdoutLock<'static>> {
    AutoStream::auto(std::io::stdout().lock())
}

/// A person looks at it: columns may stand below one another.
pub fn is_seen() -> bool {
    std::io::stdout().is_terminal()
}

/// A line without what would change the terminal, at most so many characters; other letters than ours stay.
pub fn line(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { '?' } else { c }).collect()
}

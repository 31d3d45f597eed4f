//! Asks for a password: a new one twice and unseen at a terminal, one line of standard input otherwise. Never takes it from the
//! command line or the environment, which others can read, and never prints it.

use std::io::{self, BufRead, IsTerminal, Write, stderr, stdin};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::{Exit, Failure, talk};

/// The longest that is taken, in bytes.
const MAX: usize = 1024;

/// A new password that a tool can give: not empty, text, without control characters. A person types it twice.
pub fn ask(name: &str) -> Result<String, Failure> {
    asked(name, true)
}

/// One that there is already.
pub fn once(name: &str) -> Result<String, Failure> {
    asked(name, false)
}

fn asked(name: &str, twice: bool) -> Result<String, Failure> {
    let failed = |e: io::Error| Failure::new(Exit::Io, format_args!("read the password: {e}"));
    if !stdin().is_terminal() {
        return sound(line(&mut stdin().lock(), None).map_err(failed)?.unwrap_or_default());
    }
    let terminal = Unseen::begin().map_err(failed)?;
    let ask = |prompt: &str| {
        terminal.ask(prompt).map_err(failed)?.ok_or_else(|| {
            talk("");
            Failure::new(Exit::No, "broken off; nothing was changed")
        })
    };
    let password = sound(ask(&format!("Password for {name}: "))?)?;
    if twice && ask("Again: ")? != password.as_bytes() {
        return Err(Failure::new(Exit::Data, "the two are not the same\nhint: try again; nothing was changed"));
    }
    Ok(password)
}

fn sound(line: Vec<u8>) -> Result<String, Failure> {
    let wrong = |message: &str| Failure::new(Exit::Data, format_args!("the password {message}; nothing was changed"));
    if line.len() > MAX {
        return Err(wrong("is longer than 1024 bytes"));
    }
    let password = String::from_utf8(line).map_err(|_| wrong("is no UTF-8 text"))?;
    if password.is_empty() {
        return Err(wrong("is empty"));
    }
    if password.contains(char::is_control) {
        return Err(wrong("holds a control character"));
    }
    Ok(password)
}

/// One line without its end, a CR before it forgiven; no more of it than shows that it is too long. `None` where the byte
/// `stop` came in it.
fn line(input: &mut impl BufRead, stop: Option<u8>) -> io::Result<Option<Vec<u8>>> {
    let (mut line, mut ended) = (Vec::new(), false);
    while !ended && line.len() <= MAX + 1 {
        let bytes = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            bytes => bytes?,
        };
        let end = bytes.iter().position(|byte| *byte == b'\n' || Some(*byte) == stop);
        if end.is_some_and(|end| Some(bytes[end]) == stop) {
            return Ok(None);
        }
        ended = end.is_some() || bytes.is_empty();
        let taken = end.unwrap_or(bytes.len()).min(MAX + 2);
        line.extend_from_slice(&bytes[..taken]);
        let passed = taken + usize::from(end.is_some());
        input.consume(passed);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

/// A terminal that shows nothing of what is typed, until this goes.
struct Unseen {
    before: Termios,
}

impl Unseen {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut unseen = before.clone();
        // Whoever breaks off must not be left with a terminal that shows nothing: the key ends the line, not the program.
        unseen.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        unseen.local_modes.insert(LocalModes::ECHONL | LocalModes::ICANON);
        unseen.special_codes[SpecialCodeIndex::VEOL] = before.special_codes[SpecialCodeIndex::VINTR];
        tcsetattr(stdin(), OptionalActions::Flush, &unseen)?;
        Ok(Self { before })
    }

    /// `None` where it was broken off.
    fn ask(&self, prompt: &str) -> io::Result<Option<Vec<u8>>> {
        write!(stderr(), "{prompt}")?;
        let stop = self.before.special_codes[SpecialCodeIndex::VINTR];
        // 0 stands for a key that there is not.
        line(&mut stdin().lock(), Some(stop).filter(|stop| *stop != 0))
    }
}

impl Drop for Unseen {
    /// What was typed and not read is thrown away: it may be the rest of a password, and a shell would run it.
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read_and_what_no_tool_can_give_is_refused() {
        let long = "x".repeat(MAX);
        for (input, expected) in [
            ("hunter2\nmore\n", Ok("hunter2")),
            ("hunter2\r\n", Ok("hunter2")),
            ("hunter2", Ok("hunter2")),
            (" pass word é \n", Ok(" pass word é ")),
            (&format!("{long}\r\n"), Ok(long.as_str())),
            (&format!("{long}x\n"), Err("is longer than 1024 bytes")),
            (&format!("{long}{long}{long}"), Err("is longer than 1024 bytes")),
            ("", Err("is empty")),
            ("\nhunter2\n", Err("is empty")),
            ("\r\n", Err("is empty")),
            ("a\tb\n", Err("holds a control character")),
            ("a\0\n", Err("holds a control character")),
            ("a\rb\n", Err("holds a control character")),
            ("a\u{85}b\n", Err("holds a control character")),
        ] {
            // However it comes in.
            for size in [1, 7, 8192] {
                let mut reader = io::BufReader::with_capacity(size, input.as_bytes());
                let told = sound(line(&mut reader, None).unwrap().unwrap());
                match (told, expected) {
                    (Ok(password), Ok(expected)) => assert_eq!(password, expected),
                    (Err(failure), Err(expected)) => {
                        assert_eq!((failure.exit, failure.message.contains(expected)), (Exit::Data, true), "{input:?}");
                        assert!(!failure.message.contains("xx"), "{}", failure.message);
                    }
                    (told, expected) => panic!("{input:?}: {told:?}, wants {expected:?}"),
                }
            }
        }
        assert!(sound(line(&mut &b"caf\xe9\n"[..], None).unwrap().unwrap()).unwrap_err().message.contains("is no UTF-8 text"));
        assert!(line(&mut &b"hunter2\x03"[..], Some(3)).unwrap().is_none());
    }
}

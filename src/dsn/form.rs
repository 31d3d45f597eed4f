//! The form of what a report is made of: folded fields, wrapped text, quoted-printable, dots stuffed. Never lets a control
//! byte or an endless line from outside through.

/// Where lines are folded, in bytes (RFC 5322 2.1.1).
const WIDTH: usize = 76;

/// The longest line that goes as it is, in bytes without CRLF (RFC 5322 2.1.1).
const MAX_LINE: usize = 998;

/// The longest value of a field. No unbroken one makes a line that is too long.
const MAX_VALUE: usize = 900;

/// A field with its CRLF. What could end or hide it is replaced by `?`, and so are letters beyond ASCII if it must be.
pub fn field(name: &str, value: &str, ascii: bool) -> String {
    let clean = |c: char| if is_hidden(c) || (ascii && !c.is_ascii()) { '?' } else { c };
    let value = capped(value.chars().map(clean), MAX_VALUE);
    let mut line = format!("{name}:");
    let mut text = String::new();
    let mut after_space = false;
    for word in value.trim().split(' ') {
        // A line is broken between two words only, so none of them is made of spaces.
        if !word.is_empty() && !after_space && line.len() + word.len() >= WIDTH && !line.ends_with(':') {
            text.push_str(&line);
            text.push_str("\r\n");
            line.clear();
        }
        line.push(' ');
        line.push_str(word);
        after_space = word.is_empty();
    }
    text + &line + "\r\n"
}

/// Text for people: lines of words, each begun with `indent`.
pub fn wrapped(indent: &str, text: &str) -> String {
    let mut lines = vec![indent.to_owned()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() == indent.len() || line.len() + word.len() < WIDTH => {
                if line.len() > indent.len() {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join("\r\n") + "\r\n"
}

/// Text from outside for the eyes: nothing that ends a line, moves a cursor or turns the direction of writing; at most
/// `max` bytes.
pub fn shown(text: &str, max: usize) -> String {
    capped(text.chars().map(|c| if is_hidden(c) { '?' } else { c }), max)
}

fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn capped(chars: impl Iterator<Item = char>, max: usize) -> String {
    let mut text = String::new();
    for c in chars {
        if text.len() + c.len_utf8() > max {
            break;
        }
        text.push(c);
    }
    text
}

/// A part of the report: its type, and its content in a form that every host takes.
///
/// `eight_bit` lets letters beyond ASCII stay, for a report that needs SMTPUTF8 anyway.
pub fn part(kind: &str, name: &str, content: &[u8], eight_bit: bool) -> Vec<u8> {
    let short = content.split(|byte| *byte == b'\n').all(|line| line.len() <= MAX_LINE);
    let visible = |byte: &u8| matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~') || (eight_bit && *byte > 127);
    let (encoding, content) = match short && content.iter().all(visible) {
        true if content.is_ascii() => ("7bit", content.to_vec()),
        true => ("8bit", content.to_vec()),
        // Also for header sections that are broken (RFC 6522 4): nothing of them is lost, and no host needs 8BITMIME.
        false => ("quoted-printable", quoted_printable(content)),
    };
    let head = format!("Content-Description: {name}\r\nContent-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n");
    [head.into_bytes(), content].concat()
}

/// RFC 2045 6.7; CRLF stays what it is.
fn quoted_printable(content: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(content.len() * 2);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let (line, end) = line.strip_suffix(b"\r\n").map_or((line, &b""[..]), |line| (line, b"\r\n"));
        let mut length = 0;
        for (at, byte) in line.iter().enumerate() {
            let last = at + 1 == line.len();
            let plain = matches!(byte, b'!'..=b'<' | b'>'..=b'~') || (matches!(byte, b' ' | b'\t') && !last);
            let width = if plain { 1 } else { 3 };
            if length + width > WIDTH - 1 {
                text.extend(b"=\r\n");
                length = 0;
            }
            if plain {
                text.push(*byte)
            } else {
                text.extend(format!("={byte:02X}").bytes())
            }
            length += width;
        }
        text.extend_from_slice(end);
    }
    text
}

/// The wire form (RFC 5321 4.5.2) of whole lines.
pub fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        wire.extend(line.starts_with(b".").then_some(b'.'));
        wire.extend_from_slice(line);
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_folded_between_words_and_holds_no_other() {
        assert_eq!(field("A", " b\r\nBcc: x ", true), "A: b??Bcc: x\r\n");
        assert_eq!(field("A", "ä", true), "A: ?\r\n");
        assert_eq!(field("A", "ä", false), "A: ä\r\n");
        let folded = field("Diagnostic-Code", &format!("smtp; {} {}  {}", "x".repeat(50), "y".repeat(30), "z".repeat(90)), true);
        assert_eq!(folded, format!("Diagnostic-Code: smtp; {}\r\n {}  {}\r\n", "x".repeat(50), "y".repeat(30), "z".repeat(90)));
        let endless = field("A", &"x".repeat(5000), true);
        assert!(endless.len() < MAX_LINE && !endless.trim_end().contains('\n'));
        // A word that is too long for any line does not leave the name of the field alone.
        assert!(endless.starts_with("A: xxx"));
        let spaces = field("A", &format!("x{}y {}", " ".repeat(300), "z".repeat(80)), true);
        assert!(spaces.lines().all(|line| !line.trim().is_empty()), "{spaces:?}");
    }

    #[test]
    fn what_is_shown_moves_no_cursor_and_turns_no_writing() {
        assert_eq!(shown("a\u{1b}[31m\r\nb\u{202e}c\u{2028}d\u{200b}ä", 100), "a?[31m??b?c?d?ä");
        // Cut between letters, never within one.
        assert_eq!(shown("aää", 4), "aä");
    }

    #[test]
    fn quoted_printable_is_what_rfc_2045_says() {
        for (content, expected) in [
            (&b"a=b\xe4 \r\n\r\n.x\t\r\n"[..], &b"a=3Db=E4=20\r\n\r\n.x=09\r\n"[..]),
            (b"no end", b"no end"),
            (b"\x1b[31m\r\n", b"=1B[31m\r\n"),
        ] {
            assert_eq!(quoted_printable(content).escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
        let long = quoted_printable(&[b'x'; 200]);
        assert!(long.split(|byte| *byte == b'\n').all(|line| line.len() <= WIDTH + 1));
    }

    #[test]
    fn a_part_goes_as_it_is_where_it_can() {
        let encoding = |content: &[u8], eight_bit| {
            let part = String::from_utf8_lossy(&part("text/plain", "x", content, eight_bit)).into_owned();
            part.lines().nth(2).unwrap().trim_start_matches("Content-Transfer-Encoding: ").to_owned()
        };
        assert_eq!(encoding(b"plain\r\n", false), "7bit");
        assert_eq!(encoding("ä\r\n".as_bytes(), true), "8bit");
        for (content, eight_bit) in [("ä\r\n", false), ("\u{1b}\r\n", true), (&"x".repeat(999), true)] {
            assert_eq!(encoding(content.as_bytes(), eight_bit), "quoted-printable", "{content}");
        }
    }

    #[test]
    fn text_is_wrapped_and_never_cut() {
        let text = wrapped("  ", &format!("{} {}", "word ".repeat(20), "x".repeat(90)));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[2].len()), (3, 92));
        assert!(lines[..2].iter().all(|line| line.len() <= WIDTH && line.starts_with("  word")));
    }
}

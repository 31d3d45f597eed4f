//! What a report holds of the message that it is about: its header, never its body.

use super::form::stuffed;
use crate::mail::{Heading, Mail, Message};

/// How much of the original's header a report holds, in bytes.
const MAX_HEADERS: usize = 64 << 10;

/// What the fields say, however long the section was.
pub fn heading(headers: &[u8]) -> Heading {
    let message = Message::from_wire(stuffed(headers).into());
    message.and_then(|message| message.headers(usize::MAX).map(|section| Heading::read(&section))).unwrap_or_default()
}

/// The header section of the original, our own field in front: whole fields, as far as there are any. What does not look
/// like a field is the body, if a tool has forgotten the empty line.
pub fn headers(original: &Mail) -> Vec<u8> {
    // Apart from it: a body that begins with a space must not be taken for a continuation of our field.
    let room = MAX_HEADERS.saturating_sub(original.trace.len());
    let mut bytes = Vec::new();
    for chunk in original.message.content() {
        bytes.extend_from_slice(&chunk[..chunk.len().min(room - bytes.len())]);
        if bytes.len() >= room {
            break;
        }
    }
    let is_field = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        name.len() < line.len() && !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
    };
    let (mut end, mut inside) = (0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let goes_on = inside && matches!(line, [b' ' | b'\t', ..]);
        if line == b"\r\n" || !line.ends_with(b"\r\n") || !(goes_on || is_field(line)) {
            break;
        }
        (end, inside) = (end + line.len(), true);
    }
    [&original.trace, &bytes[..end]].concat()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::mail::{Client, Envelope, Id, ReversePath};

    fn mail(wire: &[u8]) -> Mail {
        let client = Client { helo: "tool.test".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let (id, sender) = (Id::new(1, 1), ReversePath::Null);
        let envelope =
            Envelope { id, client, sender, recipients: vec![], ret: None, envid: None, eight_bit: false, smtputf8: false };
        let trace = Bytes::from_static(b"Received: from tool.test\r\n\tby relay.test\r\n");
        Mail::new(envelope, trace, Message::from_wire(Bytes::copy_from_slice(wire)).unwrap())
    }

    #[test]
    fn what_is_no_header_is_not_sent_about() {
        let found = |wire: &[u8]| String::from_utf8(headers(&mail(wire))).unwrap();
        let ours = "Received: from tool.test\r\n\tby relay.test\r\n";
        for (wire, header) in [
            (&b""[..], ""),
            (b"\r\nA: body\r\n", ""),
            (b"just text\r\nA: b\r\n", ""),
            (b"A: b\r\nno field\r\nC: d\r\n\r\n", "A: b\r\n"),
            (b"A: b\r\n c\r\n\td\r\nE:\r\n\r\nbody\r\n", "A: b\r\n c\r\n\td\r\nE:\r\n"),
            (b": b\r\n", ""),
            (b" a body: indented\r\n\tand more\r\n", ""),
        ] {
            assert_eq!(found(wire), format!("{ours}{header}"), "{}", wire.escape_ascii());
        }
        let long = [b"A: b\r\n".repeat(20_000), b"Z: end\r\n\r\n".to_vec()].concat();
        let cut = found(&long);
        assert!(cut.len() <= MAX_HEADERS && cut.len() > MAX_HEADERS - 6 && cut.ends_with("A: b\r\n"), "{}", cut.len());
    }
}

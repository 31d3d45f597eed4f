//! The content of a message: taken if and only if its lines are what RFC 5321 wants, read as a slow reader reads it, and
//! the same again when it goes on. Never looks at how fast.

use optout_relay::mail::{Heading, Message};

use super::{as_lines, is_canonical, stuffed, unstuffed};

/// The bytes as they come behind 354, and the same bytes made into lines.
pub fn check(bytes: &[u8]) {
    assert_eq!(Message::from_wire(bytes.to_vec().into()).is_some(), is_canonical(bytes), "taken or not");
    if is_canonical(bytes) {
        reads_well(bytes);
    }
    let content = as_lines(bytes);
    let wire = stuffed(&content);
    assert!(is_canonical(&content) && is_canonical(&wire));
    assert!(!ends_early(&wire), "what is stuffed ends where it ends");
    let again: Vec<u8> = reads_well(&wire).content().flatten().copied().collect();
    assert_eq!(again, content, "stuffed and unstuffed is as it was");
}

/// A host would take what follows for commands.
pub fn ends_early(wire: &[u8]) -> bool {
    wire.split_inclusive(|byte| *byte == b'\n').any(|line| line == b".\r\n")
}

fn reads_well(wire: &[u8]) -> Message {
    let message = Message::from_wire(wire.to_vec().into()).unwrap();
    assert_eq!((message.wire().as_ref(), message.len(), message.is_empty()), (wire, wire.len(), wire.is_empty()));
    let content: Vec<u8> = message.content().flatten().copied().collect();
    assert_eq!(content, unstuffed(wire), "unstuffed");
    assert_eq!(message.is_eight_bit(), wire.iter().any(|byte| *byte > 127));
    let header = header(wire);
    let length: usize = header.iter().map(|line| line.len()).sum();
    let is_received = |line: &&[u8]| line.to_ascii_lowercase().starts_with(b"received:");
    assert_eq!(message.received_count(), header.iter().copied().filter(|line| is_received(&line)).count(), "hops");
    let section = message.headers(length).unwrap();
    assert_eq!(section.bytes(), unstuffed(&header.concat()), "header section");
    assert!(length == 0 || message.headers(length - 1).is_none(), "its cap");
    let heading = Heading::read(&section);
    assert!(heading.message_id.is_none_or(|id| id.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
    for recipient in &heading.recipients {
        assert!(!recipient.as_str().contains(char::is_control) && !recipient.routes_on(), "{recipient:?}");
    }
    message
}

/// The lines up to and with the first empty one.
fn header(wire: &[u8]) -> Vec<&[u8]> {
    let mut lines = wire.split_inclusive(|byte| *byte == b'\n');
    let mut header = Vec::new();
    for line in lines.by_ref() {
        header.push(line);
        if line == b"\r\n" {
            break;
        }
    }
    header
}

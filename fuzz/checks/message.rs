//! The content of a message: taken if and only if its lines are what RFC 5321 wants, read as a slow reader reads it, and
//! the same again when it goes on. Never looks at how fast.

use optout_relay::mail::{Heading, Mending, Message, NotMended};

use super::{as_lines, is_canonical, stuffed, unstuffed};

/// The bytes as they come behind 354, and the same bytes made into lines.
pub fn check(bytes: &[u8]) {
    assert_eq!(Message::from_wire(bytes.to_vec().into()).is_some(), is_canonical(bytes), "taken or not");
    if is_canonical(bytes) {
        reads_well(bytes);
    }
    is_mended(bytes);
    let content = as_lines(bytes);
    let wire = stuffed(&content);
    assert!(is_canonical(&content) && is_canonical(&wire));
    assert!(!ends_early(&wire), "what is stuffed ends where it ends");
    let again: Vec<u8> = reads_well(&wire).content().flatten().copied().collect();
    assert_eq!(again, content, "stuffed and unstuffed is as it was");
}

/// Broken line ends become one message, never two, and one that needs no mending stays as it came.
fn is_mended(bytes: &[u8]) {
    let mended = |limit| Message::mended(bytes.to_vec().into(), limit);
    let (message, mending) = mended(usize::MAX).unwrap();
    let wire = message.wire();
    assert!(is_canonical(wire) && !ends_early(wire), "{:?}", wire.escape_ascii());
    let content: Vec<u8> = message.content().flatten().copied().collect();
    assert_eq!(content.escape_ascii().to_string(), mended_by_hand(bytes).escape_ascii().to_string());
    let is_sound = is_canonical(bytes) && !ends_early(bytes);
    assert!(!is_sound || (wire == bytes && mending == Mending::default()));
    assert_eq!(mending.nul, if is_sound { 0 } else { bytes.iter().filter(|byte| **byte == 0).count() });
    assert_eq!(mended(wire.len()), Ok((message.clone(), mending)));
    assert!(wire.is_empty() || mended(wire.len() - 1) == Err(NotMended::TooLarge));
    assert_eq!(Message::mended(wire.clone(), wire.len()), Ok((message.clone(), Mending::default())), "mended once is mended");
}

/// The content that somebody means by these bytes, dots unstuffed: what the documentation of `Message::mended` says, step
/// by step.
pub fn mended_by_hand(bytes: &[u8]) -> Vec<u8> {
    let is_stuffing = |at: usize| bytes[at] == b'.' && (at == 0 || bytes[..at].ends_with(b"\r\n"));
    let kept = (0..bytes.len()).filter(|at| !is_stuffing(*at)).map(|at| bytes[at]).filter(|byte| *byte != 0);
    let (mut lines, mut crs) = (Vec::new(), 0);
    for byte in kept {
        match byte {
            b'\r' => crs += 1,
            b'\n' => {
                lines.extend(b"\r\n");
                crs = 0;
            }
            other => {
                lines.extend(b"\r\n".repeat(crs));
                lines.push(other);
                crs = 0;
            }
        }
    }
    lines.extend(b"\r\n".repeat(crs));
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.extend(b"\r\n");
    }
    lines
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
    assert_eq!(message.received_count(), header.iter().copied().filter(is_received).count(), "hops");
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

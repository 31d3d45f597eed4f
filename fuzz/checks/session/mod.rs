//! A session from its bytes to its replies and messages, held against a second reader of RFC 5321 that looks at the same
//! bytes in its own way. Never opens a socket.
//!
//! An input is what a client sends. Its first line may be `=` and letters that say where the client stands: `t` it is
//! trusted, `c` the relay has a certificate, `f` the client must encrypt first, `u` the relay has users, `l` the client is
//! on the same machine. Without that line it is trusted and local.

mod client;
mod lines;
mod reference;

use optout_relay::smtp::{Access, Limits};

use client::{Ended, Heard, Pieces, converse};

/// Small, so that they are reached.
const LIMITS: Limits = Limits { message_size: 600, header_size: 200, recipients: 3, errors: 6, idle_commands: 8 };

/// The same bytes at once, one by one, line by line, and cut anywhere.
pub fn check(bytes: &[u8]) {
    let (place, bytes) = parted(bytes);
    let heard = [Pieces::Whole, Pieces::Single, Pieces::Lines, Pieces::Random].map(|pieces| {
        let heard = converse(place, bytes, pieces);
        reference::holds(place, bytes, &heard);
        heard
    });
    let [whole, others @ ..] = &heard;
    for other in others {
        alike(whole, other);
    }
}

/// Where a client stands.
#[derive(Clone, Copy)]
struct Place {
    access: Access,
    /// `listen.line_endings = "fix"`
    mends: bool,
}

fn parted(bytes: &[u8]) -> (Place, &[u8]) {
    let access = Access { trusted: true, local: true, ..Access::default() };
    match bytes.strip_prefix(b"=").and_then(|rest| rest.split_at_checked(rest.iter().position(|byte| *byte == b'\n')?)) {
        None => (Place { access, mends: false }, bytes),
        Some((letters, rest)) => {
            let has = |letter| letters.contains(&letter);
            let access = Access { trusted: has(b't'), tls: has(b'c'), tls_first: has(b'f'), login: has(b'u'), local: has(b'l') };
            (Place { access, mends: has(b'm') }, &rest[1..])
        }
    }
}

/// How bytes are cut on their way changes nothing; but that whoever sends on without waiting where that is dangerous is
/// hung up on sooner.
fn alike(one: &Heard, other: &Heard) {
    if one.ended == Ended::Ahead || other.ended == Ended::Ahead {
        let ordered = if one.replies.len() < other.replies.len() { (other, one) } else { (one, other) };
        return begins(ordered.0, ordered.1);
    }
    assert_eq!(one.ended, other.ended);
    assert_eq!(one.replies, other.replies);
    assert_eq!(one.messages, other.messages);
}

/// All that the shorter one has heard the longer one has heard too, but for a last word.
fn begins(longer: &Heard, shorter: &Heard) {
    let common = shorter.replies.len().saturating_sub(1);
    assert_eq!(longer.replies[..common], shorter.replies[..common]);
    assert!(longer.messages.starts_with(&shorter.messages));
}

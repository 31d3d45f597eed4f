//! The `Received:` field that we put in front of a message: the only bytes that are added to it. Never asks the clock.

use std::net::IpAddr;

use bytes::Bytes;
use jiff::Timestamp;

use super::Envelope;

/// A whole field with its CRLF (RFC 5321 4.4, protocol names by RFC 3848 and RFC 6531 3.7.3).
pub fn received(hostname: &str, envelope: &Envelope, now: Timestamp) -> Bytes {
    let Envelope { id, client, smtputf8, .. } = envelope;
    let helo = if client.helo.is_empty() { "unknown" } else { &client.helo };
    let ip = match client.ip {
        IpAddr::V4(ip) => format!("[{ip}]"),
        IpAddr::V6(ip) => format!("[IPv6:{ip}]"),
    };
    let protocol = match (smtputf8, client.extended) {
        (true, _) => "UTF8SMTP",
        (false, true) => "ESMTP",
        (false, false) => "SMTP",
    };
    let tls = if client.encrypted { "S" } else { "" };
    let login = if client.user.is_some() { "A" } else { "" };
    let date = now.strftime("%a, %d %b %Y %H:%M:%S +0000");
    format!("Received: from {helo} ({ip})\r\n\tby {hostname} with {protocol}{tls}{login} id {id};\r\n\t{date}\r\n").into()
}

/// Whether this can be a field of ours, or nothing: one field, whose lines begin no other and end no header.
pub fn is_trace(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let whole = text.is_empty() || (text.starts_with("Received: ") && text.ends_with("\r\n"));
    let folded = |line: &str| line.starts_with('\t') && line.len() > 1;
    let clean = |line: &str| !line.chars().any(|c| c.is_control() && c != '\t');
    whole && text.split_terminator("\r\n").enumerate().all(|(at, line)| clean(line) && (at == 0 || folded(line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Client, Id, ReversePath};

    #[test]
    fn our_field_is_one_and_what_would_be_two_is_none() {
        let client = Client { helo: "tool".into(), extended: true, ..Client::new([127, 0, 0, 1].into()) };
        let (id, sender) = (Id::new(1, 1), ReversePath::Null);
        let mut envelope =
            Envelope { id, client, sender, recipients: vec![], eight_bit: false, smtputf8: false, ret: None, envid: None };
        let found = |envelope: &Envelope| is_trace(&received("relay.test", envelope, Timestamp::UNIX_EPOCH));
        assert!(found(&envelope) && is_trace(b""));
        for forged in ["a\r\nSubject: b", "a\nb", "a\rb", "a\0b", "a\r\n\r\nb", "a\u{85}b", "a\r\n\t\r\n.\r\n"] {
            envelope.client.helo = forged.into();
            assert!(!found(&envelope), "{forged:?}");
        }
        for wrong in
            [&b"Received: a"[..], b"Received: a\n", b"\tReceived: a\r\n", b"Subject: a\r\n", b"\r\n", b"Received: \xff\r\n"]
        {
            assert!(!is_trace(wrong), "{}", wrong.escape_ascii());
        }
    }
}

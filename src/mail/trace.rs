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

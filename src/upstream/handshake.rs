//! What is wrong where TLS does not come about, in plain words, and what to do about it. Never decides whether it is.

use std::borrow::Cow;
use std::io;

use jiff::Timestamp;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// A trouble, and a hint where there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Goes on from "mail host, TLS: ".
    pub cause: Cow<'static, str>,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

const PORT: &str =
    "smtps:// speaks TLS from the first byte, mostly at port 465; smtp:// begins it by STARTTLS, mostly at port 587";
const OLD: &str = "the host offers none of TLS 1.2 and 1.3 with safe ciphers; its software must be brought up to date";
const CLOCK: &str = "see that the clock of this machine is right; if it is, the host's owner must renew the certificate";
const NAME: &str = "write the host's name in `upstream.url` as its certificate has it";
const CA: &str = "a host of your own: set `upstream.ca` to the certificate (PEM) of the authority that signed its certificate; a provider's: somebody may stand in the way";
const SELF: &str = "give the host a certificate that an authority of your own has signed, and set `upstream.ca` to the certificate (PEM) of that authority";
const AGAIN: &str = "give the host a certificate for TLS servers";

/// Of the error that the handshake ended with.
pub fn trouble(error: &io::Error) -> Trouble {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let (cause, hint): (Cow<'static, str>, _) = match tls {
        Some(Error::InvalidCertificate(error)) => return of_certificate(error),
        Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            ("the host does not speak TLS here".into(), Some(PORT))
        }
        Some(Error::PeerIncompatible(_)) => ("the host speaks no TLS that is safe".into(), Some(OLD)),
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure)) => {
            ("the host speaks no TLS that is safe".into(), Some(OLD))
        }
        Some(Error::AlertReceived(alert)) => (format!("the host has ended it: {alert:?}").into(), None),
        Some(other) => (other.to_string().into(), None),
        None if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            ("the host has hung up".into(), Some(PORT))
        }
        None => (error.to_string().into(), None),
    };
    Trouble { cause, hint }
}

fn of_certificate(error: &CertificateError) -> Trouble {
    use CertificateError as E;
    let (cause, hint): (Cow<'static, str>, _) = match error {
        E::ExpiredContext { not_after, .. } => (format!("its certificate has expired on {}", day(*not_after)).into(), CLOCK),
        E::Expired => ("its certificate has expired".into(), CLOCK),
        E::NotValidYetContext { not_before, .. } => {
            (format!("its certificate is not valid before {}", day(*not_before)).into(), CLOCK)
        }
        E::NotValidForNameContext { expected, presented } => (other_name(expected, presented).into(), NAME),
        E::NotValidForName => ("its certificate is for another name".into(), NAME),
        E::UnknownIssuer => ("nobody who is trusted here has signed its certificate".into(), CA),
        // Two authorities of one name, or a certificate without its key.
        E::BadSignature => ("the signature on its certificate, or the host's own, is wrong".into(), CA),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => ("its certificate is not one for servers".into(), AGAIN),
        E::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            ("its certificate is that of an authority, not of a host, as many are that sign themselves".into(), SELF)
        }
        other => (format!("its certificate is not in order: {other:?}").into(), AGAIN),
    };
    Trouble { cause, hint: Some(hint) }
}

fn day(moment: UnixTime) -> String {
    let moment = i64::try_from(moment.as_secs()).ok().and_then(|second| Timestamp::from_second(second).ok());
    moment.map_or("another day".into(), |moment| moment.strftime("%F").to_string())
}

/// The names are the host's own words.
fn other_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    // DnsName("…"), IpAddress(…)
    let plain = |name: &String| match name.split_once('(') {
        Some((_, name)) => name.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    let names = presented.iter().take(5).map(plain).collect::<Vec<_>>().join(", ");
    let names = if names.is_empty() { "no name" } else { &names };
    format!("its certificate is for {names}, not for {}", expected.to_str())
}

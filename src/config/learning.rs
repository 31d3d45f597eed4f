//! `[learn]` as it is meant. Never reads a file, never learns.

use regex_lite::Regex;

use super::access::Wrong;
use super::file::{Imap, Learn};
use super::route::{Encryption, host_and_port, is_loopback};
use crate::learn::{Letterbox, Wishes};
use crate::mail::Address;
use crate::optout::Subject;

/// What is learned from, and from what never.
#[derive(Clone, Debug)]
pub struct Learning {
    /// `learn.address`
    pub letterbox: Letterbox,
    /// Everything that decides about a mail.
    pub wishes: Wishes,
    /// `learn.imap`, if there is one.
    pub imap: Option<ImapRoute>,
}

/// `learn.imap.url`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImapRoute {
    /// As whom we log in.
    pub user: String,
    /// Name or address, without brackets.
    pub host: String,
    /// 993 or 143 where none is given.
    pub port: u16,
    /// What keeps the connection from listeners.
    pub encryption: Encryption,
}

impl Learning {
    /// `own`: names of ours, addresses or hosts, nobody of whose domains is ever learned.
    pub fn mean(learn: &Learn, own: [&str; 2]) -> Result<Self, Wrong> {
        let wrong = |key, message: String, hint| Wrong { key, message, hint };
        let letterbox = match learn.address.trim() {
            "" => Letterbox::default(),
            text => {
                let address = Address::parse(text).map_err(|e| {
                    wrong("learn.address", format!("is not an address: {e}"), "as in \"optout@relay.local\"; empty: none")
                })?;
                Letterbox::new(Some(address))
            }
        };
        let mut never = Vec::new();
        for text in &learn.never_learn {
            match Subject::pattern(text).or_else(|_| Subject::address(text)) {
                Ok(Subject::Pattern(glob)) => never.push(glob),
                Ok(Subject::Address(address)) => never.push(address.key(crate::mail::PlusTags::Distinct).to_string()),
                _ => return Err(wrong("learn.never_learn", format!("`{text}` is no pattern"), "as in \"*@shop.example\"")),
            }
        }
        for name in own {
            let domain = name.rsplit('@').next().unwrap_or_default();
            // A machine's bare name is no domain of anybody.
            if let Ok(Subject::Pattern(glob)) = Subject::pattern(&format!("*@{domain}"))
                && domain.contains('.')
            {
                never.push(glob);
            }
        }
        let mut refusals = Vec::new();
        for refusal in &learn.refusals {
            if !(500..600).contains(&refusal.code) {
                let message = format!("{} is no code of a refusal for good", refusal.code);
                return Err(wrong("learn.refusals", message, "as in { code = 550, text = \"opted out\" }"));
            }
            let regex = Regex::new(&format!("(?i){}", refusal.text)).map_err(|e| {
                wrong("learn.refusals", format!("`{}` is no regular expression: {e}", refusal.text), "as in \"opt(ed)?[ -]out\"")
            })?;
            if refusal.text.trim().is_empty() {
                return Err(wrong("learn.refusals", "an empty text is in every refusal".into(), "as in \"opted out\""));
            }
            refusals.push((refusal.code, regex));
        }
        if learn.trusted_authserv.iter().any(|host| host.trim().is_empty()) {
            return Err(wrong(
                "learn.trusted_authserv",
                "holds an empty name".into(),
                "the name in front of the first semicolon of Authentication-Results",
            ));
        }
        Ok(Self {
            imap: imap(&learn.imap)?,
            letterbox,
            wishes: Wishes { never, trusted: learn.trusted_authserv.clone(), reports: learn.reports, refusals },
        })
    }
}

/// The error never repeats the url, for it may hold a password.
fn imap(imap: &Imap) -> Result<Option<ImapRoute>, Wrong> {
    const FORMS: &str = "write imaps://user@host[:port] or imap://user@host[:port]";
    let wrong = |key, message: &str, hint| Err(Wrong { key, message: message.to_owned(), hint });
    let url = imap.url.0.trim();
    if url.is_empty() {
        return Ok(None);
    }
    let (implicit_tls, rest) = match (url.strip_prefix("imaps://"), url.strip_prefix("imap://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return wrong("learn.imap.url", "is not the url of a mailbox", FORMS),
    };
    let Some((user, place)) = rest.strip_suffix('/').unwrap_or(rest).rsplit_once('@') else {
        return wrong("learn.imap.url", "names no user", FORMS);
    };
    if user.contains(':') {
        return wrong("learn.imap.url", "holds a password", "take it out, and set learn.imap.password = { file = \"...\" }");
    }
    let Some((host, port)) = host_and_port(place, if implicit_tls { 993 } else { 143 }) else {
        return wrong("learn.imap.url", "names no host or a wrong port", FORMS);
    };
    if imap.password.is_none() {
        return wrong("learn.imap.url", "names a user, but there is no password", "set learn.imap.password = { file = \"...\" }");
    }
    if imap.poll.is_zero() {
        return wrong("learn.imap.poll", "may not be 0", "delete the line to have the default");
    }
    // They go into commands between quotes.
    let quotable = |text: &&String| {
        !text.trim().is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"\"\\".contains(&byte))
    };
    if imap.senders.is_empty() || !imap.senders.iter().all(|sender| quotable(&sender)) {
        return wrong(
            "learn.imap.senders",
            "holds what cannot be searched for",
            "plain parts of addresses, as in \"auto-communication@amazon\"",
        );
    }
    if imap.senders.len() > 50 {
        return wrong("learn.imap.senders", "holds too many", "a part that they have in common will do");
    }
    let user = user.replace("%40", "@");
    let encryption = match (implicit_tls, is_loopback(&host)) {
        (true, _) => Encryption::Tls,
        (false, false) => Encryption::StartTls,
        (false, true) => Encryption::None,
    };
    Ok(Some(ImapRoute { user, host, port, encryption }))
}

//! `[learn]` as it is meant. Never reads a file, never learns.

use regex_lite::Regex;

use super::access::Wrong;
use super::file::Learn;
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
            letterbox,
            wishes: Wishes { never, trusted: learn.trusted_authserv.clone(), reports: learn.reports, refusals },
        })
    }
}

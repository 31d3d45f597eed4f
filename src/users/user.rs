//! Somebody who has logged in: who it is, and as whom it may send. Never knows a password.

use std::sync::Arc;

use wildmatch::WildMatch;

use crate::mail::{PlusTags, ReversePath};

/// A name in the file of users.
#[derive(Debug)]
pub struct User {
    name: Box<str>,
    /// In comparing form; none: any sender.
    senders: Option<Vec<WildMatch>>,
}

/// How a login ended.
#[derive(Clone, Debug)]
pub enum Login {
    /// It is this user.
    Ok(Arc<User>),
    /// The name or the password; which, nobody is told.
    Wrong,
    /// Too many others are being proved: nothing is known of this one.
    Busy,
}

impl User {
    /// `senders` are globs in comparing form.
    pub fn new(name: &str, senders: Option<&[String]>) -> Self {
        let globs = |globs: &[String]| globs.iter().map(|glob| WildMatch::new(glob)).collect();
        Self { name: name.into(), senders: senders.map(globs) }
    }

    /// As it stands in the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The null sender is one that only `*` names.
    pub fn may_send_as(&self, sender: &ReversePath) -> bool {
        let Some(globs) = &self.senders else { return true };
        let texts = match sender {
            ReversePath::Null => vec![String::new()],
            ReversePath::Address(address) => address.key(PlusTags::Distinct).globbed(),
        };
        globs.iter().any(|glob| texts.iter().any(|text| glob.matches(text)))
    }
}

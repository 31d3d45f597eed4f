//! Which entries are known already, millions of them in little memory. Never forgets, never reads a file.

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher13};

use super::entry::{Attributes, Subject};
use crate::mail::PlusTags;

/// Entries by keyed digests of 96 bits: twenty million of them take 440 MiB, and the chance that any two of these are taken for
/// one is 1 in 10¹⁴. Two entries are the same where they name the same and hold for the same mail: until when, for which senders,
/// with which action.
#[derive(Debug)]
pub struct Known {
    seed: (u64, u64),
    // Each grows by itself: one set would have to be there twice while it grows.
    shelves: Vec<HashSet<Digest, BuildHasherDefault<AsItIs>>>,
}

const SHELVES: usize = 64;

impl Default for Known {
    fn default() -> Self {
        let random = RandomState::new();
        let shelves = (0..SHELVES).map(|_| HashSet::default()).collect();
        Self { seed: (random.hash_one(0), random.hash_one(1)), shelves }
    }
}

impl Known {
    /// Says whether it is new.
    pub fn add(&mut self, subject: &Subject, attributes: &Attributes) -> bool {
        let digest = self.digest(subject, attributes);
        self.shelves[digest.0[0] as usize % SHELVES].insert(digest)
    }

    /// It was added before.
    pub fn has(&self, subject: &Subject, attributes: &Attributes) -> bool {
        let digest = self.digest(subject, attributes);
        self.shelves[digest.0[0] as usize % SHELVES].contains(&digest)
    }

    fn digest(&self, subject: &Subject, attributes: &Attributes) -> Digest {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        (subject.kind() as u8).hash(&mut hasher);
        match subject {
            Subject::Address(address) => {
                let key = address.key(PlusTags::Distinct);
                (key.local, key.domain).hash(&mut hasher);
            }
            Subject::Domain(text) | Subject::Subdomains(text) | Subject::Pattern(text) => text.hash(&mut hasher),
            Subject::Sha256(digest) => digest.hash(&mut hasher),
            Subject::Md5(digest) => digest.hash(&mut hasher),
            Subject::Order(order) => order.number().hash(&mut hasher),
        }
        let Attributes { until, action, senders, .. } = attributes;
        (until, action.map(|action| action as u8), senders).hash(&mut hasher);
        let (a, b) = hasher.finish128().as_u64();
        Digest([(a >> 32) as u32, a as u32, b as u32])
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Digest([u32; 3]);

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[1]) << 32 | u64::from(self.0[2]));
    }
}

/// Of a digest there is no need to make another one.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_known_by_whom_and_what_it_holds_for() {
        let mut known = Known::default();
        let entry = |text: &str| Subject::guess(text).unwrap();
        let plain = Attributes::default();
        for (text, is_new) in
            [("a@b.example", true), ("A@B.example", false), ("a+1@b.example", true), ("b.example", true), ("*.b.example", true)]
        {
            assert_eq!(known.add(&entry(text), &plain), is_new, "{text}");
        }
        let with_reason = Attributes { reason: Some("asked".into()), ..Attributes::default() };
        assert!(known.has(&entry("a@b.example"), &with_reason), "a reason makes no other entry");
        let ended = Attributes { until: Some(jiff::Timestamp::UNIX_EPOCH), ..Attributes::default() };
        let of_one = Attributes { senders: vec!["*@x.example".into()], ..Attributes::default() };
        let dropped = Attributes { action: Some(super::super::entry::Action::Drop), ..Attributes::default() };
        for other in [ended, of_one, dropped] {
            assert!(!known.has(&entry("a@b.example"), &other), "{other:?}");
            assert!(known.add(&entry("a@b.example"), &other), "{other:?}");
        }
    }
}

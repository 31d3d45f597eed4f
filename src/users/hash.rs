//! A password as it is kept: an argon2id hash in PHC form. Never keeps or prints the password itself.

use std::fmt;

use argon2::password_hash::phc::{Ident, PasswordHash};
use argon2::{ARGON2ID_IDENT, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

/// Memory that one proof may take, in KiB: what the relay may use on top of its sessions.
const MAX_MEMORY: u32 = 64 * 1024;

/// Below this, in KiB, a stolen file is guessed at leisure.
const MIN_MEMORY: u32 = 4 * 1024;

/// Memory times passes, in KiB: together they are the time that a proof takes, some hundredths of a second to a second.
const WORK: std::ops::RangeInclusive<u64> = 8 * 1024..=1024 * 1024;

/// Shorter salts and digests, in bytes, are met by chance.
const MIN_SALT: usize = 8;
const MIN_DIGEST: usize = 16;

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash(PasswordHash);

/// Not even the hash: whoever has it can guess.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

/// Why a text is no hash that passwords are proved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Perhaps the password itself.
    #[error("is no hash; a password itself never stands here")]
    NoHash,
    /// bcrypt, scrypt, argon2i, …
    #[error("is a hash of another kind than argon2id")]
    Kind,
    /// Version, salt or digest.
    #[error("is not a whole argon2id hash of version 19")]
    Half,
    /// Nobody waits so long, or the memory is not there.
    #[error("is too costly: it wants {0} MiB of memory for {1} passes")]
    Costly(u32, u32),
    /// Guessed too fast.
    #[error("is too cheap: {0} KiB of memory for {1} passes")]
    Cheap(u32, u32),
}

impl HashError {
    /// What to do about it, where it may stay a hash of the same password.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::Costly(..) => Some("64 MiB, and 1 GiB over all passes, are the most: make the hash with m=19456,t=2,p=1"),
            Self::Cheap(..) => Some("4 MiB, and 8 MiB over all passes, are the least: make the hash with m=19456,t=2,p=1"),
            Self::NoHash | Self::Kind | Self::Half => None,
        }
    }
}

impl Hash {
    /// Reads `$argon2id$v=19$m=…,t=…,p=…$salt$digest`; bounds what proving it costs.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        match text.split('$').collect::<Vec<_>>()[..] {
            ["", kind, _, ..] if kind == ARGON2ID_IDENT.as_str() => {}
            ["", kind, _, ..] if Ident::new(kind).is_ok() => return Err(HashError::Kind),
            _ => return Err(HashError::NoHash),
        }
        let hash = PasswordHash::new(text).map_err(|_| HashError::Half)?;
        let params = Params::try_from(&hash).map_err(|_| HashError::Half)?;
        let (memory, passes) = (params.m_cost(), params.t_cost());
        let work = u64::from(memory) * u64::from(passes);
        if memory > MAX_MEMORY || work > *WORK.end() {
            return Err(HashError::Costly(memory / 1024, passes));
        }
        if memory < MIN_MEMORY || work < *WORK.start() {
            return Err(HashError::Cheap(memory, passes));
        }
        let whole = hash.version == Some(Version::V0x13.into())
            && hash.salt.as_ref().is_some_and(|salt| salt.len() >= MIN_SALT)
            && hash.hash.as_ref().is_some_and(|digest| digest.len() >= MIN_DIGEST);
        if whole { Ok(Self(hash)) } else { Err(HashError::Half) }
    }

    /// Hashes a password with a salt by the system's chance; `None` where the system has none, or no memory. Computes for
    /// some hundredths of a second.
    pub fn of(password: &[u8]) -> Option<Self> {
        Argon2::default().hash_password(password).ok().map(Self)
    }

    /// Computes for some hundredths of a second, whatever the answer.
    pub fn is_of(&self, password: &[u8]) -> bool {
        Argon2::default().verify_password(password, &self.0).is_ok()
    }

    /// As it stands in the file.
    pub fn written(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_its_password_only_and_says_nothing() {
        let hash = Hash::of(b"hunter2").unwrap();
        assert!(hash.is_of(b"hunter2") && !hash.is_of(b"hunter3") && !hash.is_of(b""));
        assert_eq!(Hash::parse(&hash.written()), Ok(hash.clone()));
        assert_ne!(Hash::of(b"hunter2"), Some(hash.clone()));
        assert!(hash.written().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(format!("{hash:?}"), "Hash");
    }

    /// What the reference implementation makes: `echo -n password | argon2 somesalt -id -m 16 -t 2 -p 1`.
    #[test]
    fn hashes_of_other_programs_are_understood() {
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(Hash::parse(hash).unwrap().is_of(b"password"));
    }

    #[test]
    fn what_is_no_sound_hash_is_refused() {
        let salted = |kind: &str, cost: &str| format!("${kind}${cost}$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc");
        for (text, error) in [
            (String::new(), HashError::NoHash),
            ("hunter2".into(), HashError::NoHash),
            ("$".into(), HashError::NoHash),
            ("$ecret".into(), HashError::NoHash),
            ("$ecret Word$".into(), HashError::NoHash),
            ("$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy".into(), HashError::Kind),
            (salted("argon2i", "v=19$m=19456,t=2,p=1"), HashError::Kind),
            (salted("argon2d", "v=19$m=19456,t=2,p=1"), HashError::Kind),
            (salted("argon2id", "v=16$m=19456,t=2,p=1"), HashError::Half),
            (salted("argon2id", "m=19456,t=2,p=1"), HashError::Half),
            (salted("argon2id", "v=19$m=19456,t=2,p=9999"), HashError::Half),
            (salted("argon2id", "v=19$m=19456,t=2,p=0"), HashError::Half),
            (salted("argon2id", "v=19$m=19456,t=0,p=1"), HashError::Half),
            (salted("argon2id", "v=19$m=99999999999,t=2,p=1"), HashError::Half),
            (salted("argon2id", "v=19$m=19456,t=2,p=1,x=1"), HashError::Half),
            (salted("argon2id", "v=19$m=65537,t=1,p=1"), HashError::Costly(64, 1)),
            (salted("argon2id", "v=19$m=4294967295,t=4294967295,p=1"), HashError::Costly(4_194_303, u32::MAX)),
            (salted("argon2id", "v=19$m=65536,t=17,p=1"), HashError::Costly(64, 17)),
            (salted("argon2id", "v=19$m=4095,t=9,p=1"), HashError::Cheap(4095, 9)),
            (salted("argon2id", "v=19$m=4096,t=1,p=1"), HashError::Cheap(4096, 1)),
            ("$argon2id$v=19$m=19456,t=2,p=1".into(), HashError::Half),
            ("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ".into(), HashError::Half),
            ("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFQ".into(), HashError::Half),
            ("$argon2id$v=19$m=19456,t=2,p=1$c29t$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc".into(), HashError::Half),
        ] {
            assert_eq!(Hash::parse(&text), Err(error), "{text}");
        }
        for cost in ["m=65536,t=16,p=4", "m=4096,t=2,p=1"] {
            assert!(Hash::parse(&salted("argon2id", &format!("v=19${cost}"))).is_ok(), "{cost}");
        }
    }
}

//! Who is logged in at the admin page: a secret in a cookie, and one in every form. Never keeps the secrets themselves where they
//! could be read back, never grows without bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use argon2::password_hash::try_generate_salt;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::users::User;

/// Logins at once; one more ends the one that was silent longest.
const MOST: usize = 200;

/// Nobody stays longer, however busy.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub struct Session {
    /// Who it is.
    pub user: Arc<User>,
    /// What every form of theirs holds, so that no other site can send one.
    pub form: Arc<str>,
    begun: Instant,
    seen: Instant,
}

/// What somebody is told once, on the next page.
#[derive(Clone, Debug)]
pub struct Told {
    /// It went well.
    pub is_good: bool,
    /// In plain words.
    pub text: String,
}

/// A session, and what they are to be told.
type Seat = (Session, Option<Told>);

/// All who are logged in.
#[derive(Debug)]
pub struct Sessions {
    idle: Duration,
    all: Mutex<HashMap<[u8; 32], Seat>>,
}

impl Sessions {
    /// `idle`: how long somebody stays who does nothing.
    pub fn new(idle: Duration) -> Self {
        Self { idle, all: Mutex::default() }
    }

    /// Lets somebody in; the secret for their cookie. `None` where the system gives no random numbers.
    pub fn begin(&self, user: Arc<User>, now: Instant) -> Option<String> {
        let (secret, form) = (secret()?, secret()?);
        let session = Session { user, form: form.into(), begun: now, seen: now };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (session, _)| self.is_alive(session, now));
        if all.len() >= MOST
            && let Some(silent) = all.iter().min_by_key(|(_, (session, _))| session.seen).map(|(mark, _)| *mark)
        {
            all.remove(&silent);
        }
        all.insert(mark(&secret), (session, None));
        Some(secret)
    }

    /// Whose cookie it is.
    pub fn find(&self, secret: &str, now: Instant) -> Option<Session> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, _) = all.get_mut(&mark(secret)).filter(|(session, _)| self.is_alive(session, now))?;
        session.seen = now;
        Some(session.clone())
    }

    /// What they are told, once.
    pub fn hear(&self, session: &Session) -> Option<Told> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.values_mut().find(|(other, _)| Arc::ptr_eq(&other.form, &session.form))?.1.take()
    }

    /// Keeps what they are to be told.
    pub fn tell(&self, session: &Session, told: Told) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, place)) = all.values_mut().find(|(other, _)| Arc::ptr_eq(&other.form, &session.form)) {
            *place = Some(told);
        }
    }

    /// They have left.
    pub fn end(&self, session: &Session) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (other, _)| !Arc::ptr_eq(&other.form, &session.form));
    }

    fn is_alive(&self, session: &Session, now: Instant) -> bool {
        now.duration_since(session.seen) < self.idle && now.duration_since(session.begun) < LONGEST
    }
}

impl Session {
    /// Whether a form is one of ours.
    pub fn has(&self, form: &str) -> bool {
        self.form.as_bytes().ct_eq(form.as_bytes()).into()
    }
}

/// 256 bits of chance.
fn secret() -> Option<String> {
    let (one, two) = (try_generate_salt().ok()?, try_generate_salt().ok()?);
    Some(URL_SAFE_NO_PAD.encode([one, two].concat()))
}

/// By which a cookie is found: whoever read our memory's map could not log in with it.
fn mark(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Arc<User> {
        Arc::new(User::new(name, None))
    }

    #[test]
    fn a_session_ends_by_silence_by_age_and_by_leaving() {
        let (sessions, now) = (Sessions::new(Duration::from_secs(60)), Instant::now());
        let secret = sessions.begin(user("a"), now).unwrap();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(sessions.find("x", at(1)).is_none());
        assert_eq!(sessions.find(&secret, at(59)).unwrap().user.name(), "a");
        assert!(sessions.find(&secret, at(118)).is_some());
        assert!(sessions.find(&secret, at(178)).is_none());
        let secret = sessions.begin(user("a"), now).unwrap();
        for minute in 0..7 * 1440 {
            let found = sessions.find(&secret, now + Duration::from_secs(59 * minute));
            assert_eq!(found.is_some(), 59 * minute < LONGEST.as_secs());
        }
        let secret = sessions.begin(user("a"), now).unwrap();
        sessions.end(&sessions.find(&secret, now).unwrap());
        assert!(sessions.find(&secret, now).is_none());
    }

    #[test]
    fn the_silent_make_room_and_everybody_is_told_once() {
        let (sessions, now) = (Sessions::new(Duration::from_secs(3600)), Instant::now());
        let secrets: Vec<_> =
            (0..=MOST).map(|n| sessions.begin(user("a"), now + Duration::from_secs(n as u64)).unwrap()).collect();
        let later = now + Duration::from_secs(1000);
        assert!(sessions.find(&secrets[0], later).is_none() && sessions.find(&secrets[1], later).is_some());
        let session = sessions.find(&secrets[2], later).unwrap();
        sessions.tell(&session, Told { is_good: true, text: "done".into() });
        assert!(sessions.hear(&sessions.find(&secrets[1], later).unwrap()).is_none());
        assert_eq!(sessions.hear(&session).unwrap().text, "done");
        assert!(sessions.hear(&session).is_none());
        assert!(session.has(&session.form) && !session.has("") && !session.has(&sessions.find(&secrets[3], later).unwrap().form));
    }
}

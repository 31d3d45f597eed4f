//! What is known of the login towards the host, and who may try it: hosts lock accounts for which they hear a wrong password
//! from many at once. Never knows how it is said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::secret::Secret;
use crate::mail::{Stage, Status};

/// Of all connections to one host.
pub struct Login {
    /// It may be changed while it is refused.
    secret: Mutex<Option<Arc<Secret>>>,
    /// The host took it when it was last asked, or none is wanted.
    taken: AtomicBool,
    /// The host refused it when it was last asked.
    refused: AtomicBool,
    /// Held by whoever asks while nobody knows; when and by what he failed.
    asks: tokio::sync::Mutex<Option<(Instant, Status)>>,
}

impl Login {
    /// Nobody has asked yet.
    pub fn new(secret: Option<Secret>) -> Self {
        let (taken, refused) = (AtomicBool::new(secret.is_none()), AtomicBool::new(false));
        Self { secret: Mutex::new(secret.map(Arc::new)), taken, refused, asks: tokio::sync::Mutex::default() }
    }

    /// Opens a connection by the login: side by side with others where the host is known to take it, else one after the
    /// other. Whoever had `begun` to wait before another failed has failed with him.
    pub async fn open<T, Opening>(&self, begun: Instant, by: impl Fn(Option<Arc<Secret>>) -> Opening) -> Result<T, Status>
    where
        Opening: Future<Output = Result<T, Status>>,
    {
        if self.taken.load(Ordering::Relaxed) {
            return self.note(by(self.secret()).await);
        }
        let mut last = self.asks.lock().await;
        match &*last {
            _ if self.taken.load(Ordering::Relaxed) => {
                drop(last);
                self.note(by(self.secret()).await)
            }
            Some((at, status)) if *at >= begun => Err(status.clone()),
            _ => {
                let opened = self.note(by(self.secret()).await);
                *last = opened.as_ref().err().map(|status| (Instant::now(), status.clone()));
                opened
            }
        }
    }

    fn note<T>(&self, opened: Result<T, Status>) -> Result<T, Status> {
        let (taken, refused) = match &opened {
            Ok(_) => (true, false),
            Err(status) if status.stage == Stage::Login => (false, true),
            // Nobody has spoken of it.
            Err(_) => return opened,
        };
        self.taken.store(taken, Ordering::Relaxed);
        self.refused.store(refused, Ordering::Relaxed);
        opened
    }

    /// The host did not take it when it was last asked.
    pub fn refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// From here on it is this password; false where it is the same as before.
    pub fn renew(&self, password: String) -> bool {
        let mut secret = self.locked();
        let Some(renewed) = secret.as_ref().and_then(|secret| secret.renewed(password)) else { return false };
        *secret = Some(Arc::new(renewed));
        true
    }

    fn secret(&self) -> Option<Arc<Secret>> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Option<Arc<Secret>>> {
        // Nothing panics with the lock held.
        self.secret.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

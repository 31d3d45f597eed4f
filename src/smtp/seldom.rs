//! What anybody can make happen as often as they like must not fill the log. Never keeps more than a count.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the same thing is told.
const EVERY: Duration = Duration::from_secs(10);

/// Tells a thing at once, and then only now and then.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    told: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// Hands over how often it has happened since it was told last, this time included; or counts it only.
    pub fn tell(&self, tell: impl FnOnce(u64)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.untold += 1;
        if state.told.is_none_or(|told| told.elapsed() > EVERY) {
            state.told = Some(Instant::now());
            let times = std::mem::take(&mut state.untold);
            drop(state);
            tell(times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once() {
        let (seldom, mut told) = (Seldom::default(), Vec::new());
        for _ in 0..1000 {
            seldom.tell(|times| told.push(times));
        }
        assert_eq!(told, [1]);
        assert_eq!(seldom.0.lock().unwrap().untold, 999);
    }
}

//! How long something took, in classes, an atomic each: the crate's own histogram takes a lock for each value. Never forgets one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds: from an answer out of memory to a host that takes its time.
const BOUNDS: [u64; 15] = [
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
    30_000_000,
    120_000_000,
];

/// Durations by class.
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last class has no bound.
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// What it held at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// All together, in seconds.
    pub sum: f64,
    /// How many.
    pub count: u64,
    /// Upper bound in seconds, and how many are in this class alone.
    pub classes: Vec<(f64, u64)>,
}

impl Histogram {
    /// One more.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = BOUNDS.partition_point(|bound| *bound < micros);
        self.counts[class].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// As it is now. The number of all is that of the classes, so that they never contradict each other.
    pub fn seen(&self) -> Seen {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let classes: Vec<_> = bounds.zip(&self.counts).map(|(bound, count)| (bound, count.load(Ordering::Relaxed))).collect();
        let count = classes.iter().map(|(_, count)| count).sum();
        Seen { sum: self.micros.load(Ordering::Relaxed) as f64 / 1e6, count, classes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_the_first_class_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 120_000_000, 120_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let seen = histogram.seen();
        let filled: Vec<_> = seen.classes.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.0005, 2), (0.001, 1), (120.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((seen.count, seen.sum), (5, 240.001002));
    }
}

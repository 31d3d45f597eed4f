//! How far a long command is: a bar on standard error, where that is a terminal and it takes over a second. Never on a pipe.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Whoever is done sooner needs no bar.
const SOON: Duration = Duration::from_secs(1);

/// Does something that counts in `passed` how many of all bytes are behind it; a total of 0: nobody knows.
pub fn with_bar<T>(total: u64, work: impl FnOnce(&AtomicU64) -> T) -> T {
    let (passed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    if !stderr().is_terminal() {
        return work(&passed);
    }
    std::thread::scope(|scope| {
        let shown = scope.spawn(|| show(total, &passed, &over));
        let done = work(&passed);
        over.store(true, Relaxed);
        shown.thread().unpark();
        done
    })
}

fn show(total: u64, passed: &AtomicU64, over: &AtomicBool) {
    let begun = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let form = match total {
        0 => "{bytes}",
        _ => "{bar:40} {percent:>3} %  {bytes} of {total_bytes}, {eta} left",
    };
    while !over.load(Relaxed) {
        std::thread::park_timeout(Duration::from_millis(100));
        if begun.elapsed() < SOON {
            continue;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template(form);
            let bar = ProgressBar::new(total).with_elapsed(begun.elapsed());
            style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
        });
        bar.set_position(passed.load(Relaxed));
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}

//! Crash tests: the relay is killed, starved and lied to, and afterwards an account is made of every letter. Nothing that
//! was acknowledged may be lost, nobody who opted out may be mailed, and what came twice must stand in the log.
//!
//! `cargo test` runs a bounded form. By hand: `cargo test --test crash -- --kills 200 --rounds 1000 --full`, or one part:
//! `--only kills`. A failure prints its folder and its seed; `--seed N` makes the same choices again (what the
//! machine does meanwhile is its own choice).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // in a test they are the finding

mod arrival;
mod book;
mod chance;
mod client;
mod clock;
mod compare;
mod driver;
mod ground;
mod letter;
mod relay;
mod scene;
mod sink;
mod tracer;

mod calls;
mod disk;
mod faults;
mod kills;
mod order;
mod proof;
mod race;
mod remains;

use std::process::ExitCode;

use ground::Ground;

type Part = (&'static str, fn(&Ground));

/// The parts, in the order in which they run.
const PARTS: [Part; 8] = [
    ("proof", proof::run),
    ("kills", kills::run),
    ("order", order::run),
    ("calls", calls::run),
    ("disk", disk::run),
    ("faults", faults::run),
    ("race", race::run),
    ("remains", remains::run),
];

fn main() -> ExitCode {
    let ground = Ground::new(std::env::args().skip(1));
    if ground.only_list {
        return ExitCode::SUCCESS;
    }
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| ground.wants(name)).collect();
    if !parts.is_empty() {
        println!("crash tests, --seed {}", ground.seed);
    }
    for (name, run) in parts {
        ground.part(name, *run);
    }
    ground.verdict()
}

//! The ground on which scenes are played: what was asked for on the command line, a folder for each scene, some scenes
//! at once, and the account of them all. Keeps the folder of a scene that failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use crate::chance::Chance;
use crate::compare::Tally;
use crate::scene::Scene;

/// More scenes at once than processors: they mostly wait.
const LANES: usize = 4;

pub struct Ground {
    pub seed: u64,
    /// Of the part `kills`, in all.
    pub kills: usize,
    /// Of the part `race`, in all.
    pub rounds: usize,
    /// A line for each scene.
    verbose: bool,
    /// No bounds for the sake of time.
    pub full: bool,
    /// What cannot be done here fails instead of being left out.
    pub ci: bool,
    /// Asked only which tests there are.
    pub only_list: bool,
    only: Vec<String>,
    failures: AtomicUsize,
}

/// What is played in a scene, and under which name.
pub type Play<'p> = (String, Box<dyn FnOnce(&mut Scene) -> Tally + Send + 'p>);

impl Ground {
    /// Understands what `cargo test` hands to every test program, and ignores what means nothing here.
    pub fn new(mut arguments: impl Iterator<Item = String>) -> Self {
        let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 % 1_000_000;
        let ci = std::env::var("CRASH_TESTS").is_ok_and(|value| value == "all");
        let mut ground = Self {
            seed,
            kills: 20,
            rounds: 100,
            verbose: false,
            full: false,
            ci,
            only_list: false,
            only: Vec::new(),
            failures: AtomicUsize::new(0),
        };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse().ok());
                value.unwrap_or_else(|| panic!("{argument} wants a number"))
            };
            match argument.as_str() {
                "--seed" => ground.seed = number(),
                "--kills" => ground.kills = number() as usize,
                "--rounds" => ground.rounds = number() as usize,
                "--full" => (ground.full, ground.verbose) = (true, true),
                "--verbose" => ground.verbose = true,
                "--only" => ground.only.extend(arguments.next()),
                "--list" => ground.only_list = true,
                "--test-threads" | "--format" | "--skip" | "--color" => drop(arguments.next()),
                option if option.starts_with("--") => {}
                // As everywhere with `cargo test`: a part of a name.
                name => ground.only.push(name.to_owned()),
            }
        }
        ground
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| part.contains(name.as_str()))
    }

    pub fn part(&self, name: &str, run: fn(&Self)) {
        let begun = Instant::now();
        run(self);
        println!("{name:8} {:.1} s", begun.elapsed().as_secs_f64());
    }

    /// Plays scenes, some at once; prints a line for each and one for all.
    pub fn play(&self, part: &str, plays: Vec<Play<'_>>) -> Tally {
        let (waiting, total) = (Mutex::new(plays.into_iter()), Mutex::new(Tally::default()));
        std::thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(|| {
                    while let Some((name, play)) = { waiting.lock().unwrap().next() } {
                        let tally = self.one(&format!("{part} {name}"), play);
                        *total.lock().unwrap() += tally;
                    }
                });
            }
        });
        let total = total.into_inner().unwrap();
        println!("{part:8} {total}");
        total
    }

    /// Plays one scene in a folder of its own.
    pub fn one(&self, name: &str, play: impl FnOnce(&mut Scene) -> Tally) -> Tally {
        let folder = tempfile::Builder::new().prefix("crash.").tempdir().unwrap();
        let mut scene = Scene::new(folder.path().to_owned(), Chance::of(self.seed, name));
        let played = catch_unwind(AssertUnwindSafe(|| play(&mut scene)));
        drop(scene);
        let tally = played.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Tally { wrong: vec![text.unwrap_or("a panic").to_owned()], ..Tally::default() }
        });
        if !tally.wrong.is_empty() {
            self.fail(name, &tally, &folder.keep());
        } else if self.verbose {
            println!("  {name}: {tally}");
        }
        tally
    }

    /// What cannot be done here: a line, and a failure where it must be possible.
    pub fn leave_out(&self, part: &str, reason: &str) {
        println!("{part:8} left out: {reason}");
        if self.ci {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn fail(&self, name: &str, tally: &Tally, folder: &Path) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let shown: Vec<_> = tally.wrong.iter().take(12).map(|line| format!("\n    {line}")).collect();
        let more = tally.wrong.len().saturating_sub(shown.len());
        let more = if more > 0 { format!("\n    and {more} more") } else { String::new() };
        println!("  FAILED {name}: {tally}{}{more}\n    folder {}, --seed {}", shown.concat(), folder.display(), self.seed);
    }

    pub fn verdict(&self) -> ExitCode {
        match self.failures.load(Ordering::Relaxed) {
            0 => ExitCode::SUCCESS,
            failures => {
                println!("crash tests: {failures} failed, --seed {}", self.seed);
                ExitCode::FAILURE
            }
        }
    }
}

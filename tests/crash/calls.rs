//! SIGKILL at every system call that could leave mail half done: strace makes each call wait before it begins, the relay
//! is killed as it stands before the K-th, the next relay finds what is left, and the account must be right.
//!
//! strace could kill by itself, but it counts in each thread alone. Where the kill really fell is read from what strace
//! wrote: a machine that is busy may be late by a call.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in;
use crate::ground::{Ground, Play};
use crate::relay::{Relay, Site};
use crate::scene::Scene;
use crate::tracer::{Tracer, entries};

/// Calls of one kind count together; `?` before those that some processors do not have.
const KINDS: [&str; 11] = [
    "fsync",
    "fdatasync",
    "?rename,renameat,renameat2",
    "openat",
    "write",
    "writev",
    "pwrite64",
    "?unlink,unlinkat",
    "?link,linkat",
    "sendto,sendmsg",
    "ftruncate,fallocate",
];

/// The plain form takes a sample of the places, in so much time.
const BOUND: Duration = Duration::from_secs(16);

/// The host is up: what is still held after this time is held because the relay is dead.
const UNTOUCHED: Duration = Duration::from_secs(10);

/// Before each call. Long enough to see it in the log and to kill, while other threads go on.
const WAIT: Duration = Duration::from_millis(20);

/// How often the log is read meanwhile.
const LOOK_EVERY: Duration = Duration::from_micros(300);

/// The place of a kill: answer, kind, and the how-manieth call.
type Place = (&'static str, &'static str, usize);

/// What was reached: of each answer and kind, the places; and how many there are in an untouched run.
#[derive(Default)]
struct Coverage {
    hit: BTreeMap<(&'static str, &'static str), BTreeSet<usize>>,
    all: BTreeMap<(&'static str, &'static str), usize>,
}

pub fn run(ground: &Ground) {
    if let Err(reason) = Tracer::works() {
        return ground.leave_out("calls", &reason);
    }
    let coverage = Mutex::new(Coverage::default());
    let count = |answer: &'static str| -> Play<'_> {
        let coverage = &coverage;
        (format!("{answer} untouched"), Box::new(move |scene| count_calls(scene, answer, coverage)))
    };
    ground.play("calls", vec![count("stored"), count("delivered")]);
    if ground.full {
        all(ground, &coverage)
    } else {
        sample(ground, &coverage)
    }
    let Coverage { hit, all } = coverage.into_inner().unwrap();
    // How often a thread wakes another one is never twice the same, so a kind may have some calls more or less.
    for ((answer, kind), all) in all.iter().filter(|(_, all)| **all > 0) {
        let hit = hit.get(&(*answer, *kind)).map_or(0, BTreeSet::len);
        println!("  calls {answer} {}: killed before {hit} of about {all}", kind.replace('?', ""));
    }
}

/// Every K until a run ends untouched.
fn all(ground: &Ground, coverage: &Mutex<Coverage>) {
    let row = |answer: &'static str, kind: &'static str| -> Play<'_> {
        let play = move |scene: &mut Scene| {
            let mut total = Tally::default();
            for when in 1.. {
                let mut inner = scene.inner(&when.to_string());
                let (tally, killed) = play(&mut inner, (answer, kind, when), coverage);
                total += tally;
                if !killed || total.wrong.len() > 20 {
                    break;
                }
            }
            total
        };
        (format!("{answer} {kind}"), Box::new(play))
    };
    let rows = KINDS.iter().flat_map(|kind| ["stored", "delivered"].map(|answer| row(answer, kind)));
    ground.play("calls", rows.collect());
}

/// Places by chance until the time is over.
fn sample(ground: &Ground, coverage: &Mutex<Coverage>) {
    let counted = coverage.lock().unwrap().all.clone();
    let places = counted.iter().flat_map(|((answer, kind), all)| (1..=*all).map(|when| (*answer, *kind, when)));
    let mut places: Vec<Place> = places.collect();
    crate::chance::Chance::of(ground.seed, "calls").shuffle(&mut places);
    let (places, end) = (Mutex::new(places.into_iter()), Instant::now() + BOUND);
    let row = |lane: usize| -> Play<'_> {
        let (places, coverage) = (&places, coverage);
        let play = move |scene: &mut Scene| {
            let mut total = Tally::default();
            let next = || places.lock().unwrap().next().filter(|_| Instant::now() < end);
            while let Some((answer, kind, when)) = next() {
                let mut inner = scene.inner(&format!("{answer} {kind} {when}"));
                total += play(&mut inner, (answer, kind, when), coverage).0;
            }
            total
        };
        (format!("sample {lane}"), Box::new(play))
    };
    ground.play("calls", (1..=4).map(row).collect());
}

/// Three letters: one that goes at once, one that the host asks to come again with, and one with all kinds of
/// recipients. Ends early where the relay is dead.
fn sequence(scene: &mut Scene, site: &Site) {
    let letters = [scene.letter(&[""], 3000), scene.letter(&["later-"], 9000), scene.letter(&["", "later-", "no-"], 2000)];
    let Ok(mut client) = crate::client::Client::connect(site.door.address(), Duration::from_secs(10)) else { return };
    for letter in &letters {
        if hand_in(&mut client, letter, &scene.offers).is_err() {
            return;
        }
    }
}

/// How many calls of each kind there are when nothing is done to the relay.
fn count_calls(scene: &mut Scene, answer: &'static str, coverage: &Mutex<Coverage>) -> Tally {
    let site = scene.site(&scene.keys(answer));
    let relay = site.start();
    let log = scene.folder.join("calls");
    let tracer = Tracer::attach(relay.pid(), &KINDS.join(","), "", &log);
    sequence(scene, &site);
    site.drains(UNTOUCHED);
    drop(tracer);
    let text = fs::read_to_string(&log).unwrap();
    for kind in KINDS {
        coverage.lock().unwrap().all.insert((answer, kind), entries(&text, kind));
    }
    scene.close(&site, relay, 0)
}

/// One run with a kill. False: nothing was killed, for there are not so many calls.
fn play(scene: &mut Scene, (answer, kind, when): Place, coverage: &Mutex<Coverage>) -> (Tally, bool) {
    let site = scene.site(&scene.keys(answer));
    let mut relay = site.start();
    let log = scene.folder.join("calls");
    let tracer = Tracer::attach(relay.pid(), kind, &format!("{kind}:delay_enter={}", WAIT.as_micros()), &log);
    let over = AtomicBool::new(false);
    let killed = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| strike(&mut relay, &log, kind, when, &over));
        sequence(scene, &site);
        until(UNTOUCHED, || watcher.is_finished() || site.held().0.is_empty() && scene.everything_arrived());
        // What was begun when the last file went.
        until(4 * WAIT, || watcher.is_finished());
        over.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    drop(tracer);
    relay.end();
    if killed {
        let place = entries(&fs::read_to_string(&log).unwrap(), kind);
        coverage.lock().unwrap().hit.entry((answer, kind)).or_default().insert(place);
    }
    let relay = site.start();
    let mut tally = scene.close(&site, relay, usize::from(killed));
    for line in &mut tally.wrong {
        *line = format!("{answer}, {kind} {when}: {line}");
    }
    (tally, killed)
}

/// Kills the relay as soon as the log has the call; true if it came.
fn strike(relay: &mut Relay<'_>, log: &Path, kind: &str, when: usize, over: &AtomicBool) -> bool {
    while !over.load(Ordering::Relaxed) {
        if entries(&fs::read_to_string(log).unwrap_or_default(), kind) >= when {
            relay.strike();
            return true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    false
}

//! The list changes between hold and attempt, at any moment around the attempt: whoever stands on the list that is in
//! force gets nothing, and the others do not wait for that.

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in_one;
use crate::ground::{Ground, Play};
use crate::scene::{DRAIN, Scene};

/// Letters that wait for one change of the list.
const LETTERS: usize = 5;

/// Relays at once.
const LANES: usize = 4;

pub fn run(ground: &Ground) {
    let rounds = ground.rounds.div_ceil(LANES * LETTERS);
    let lane = |number: usize| -> Play<'_> {
        let answer = if number < LANES / 2 { "stored" } else { "delivered" };
        (format!("{answer} {number}"), Box::new(move |scene| races(scene, answer, rounds)))
    };
    ground.one("race asks", asks);
    let total = ground.play("race", (0..LANES).map(lane).collect());
    if total.wrong.is_empty() && ground.rounds >= 100 && (total.delivered == 0 || total.suppressed == 0) {
        ground.one("race odds", |_| Tally {
            wrong: vec!["one side has won every time: nothing was raced".into()],
            ..Tally::default()
        });
    }
}

fn races(scene: &mut Scene, answer: &'static str, rounds: usize) -> Tally {
    // The host says "later" once; the attempt after that is raced. The watcher takes 150 to 300 ms for a change.
    let site = scene.site(&scene.keys(answer).with("delivery.retry_first = \"400ms\""));
    let relay = site.start();
    for _ in 0..rounds {
        let mut chosen = Vec::new();
        for _ in 0..LETTERS {
            let letter = scene.letter(&["later-"], 600);
            chosen.extend(letter.recipients.clone());
            assert_eq!(hand_in_one(&site.door, &letter, &scene.offers), Some(250), "not held");
            std::thread::sleep(scene.chance.millis(0..80));
        }
        std::thread::sleep(scene.chance.millis(0..120));
        site.opt_out(chosen);
        until(DRAIN, || site.held().0.is_empty());
    }
    scene.close(&site, relay, 0)
}

/// While the host is away, one letter at a time asks after it. The one whose turn it is opts out, so it never asks.
fn asks(scene: &mut Scene) -> Tally {
    let site = scene.site(&scene.keys("stored"));
    let relay = site.start();
    scene.sink.down();
    let letters = [scene.letter(&[""], 600), scene.letter(&[""], 600), scene.letter(&[""], 600)];
    for letter in &letters {
        assert_eq!(hand_in_one(&site.door, letter, &scene.offers), Some(250), "not held");
    }
    site.opt_out(letters[..2].iter().flat_map(|letter| letter.recipients.clone()));
    let gone = || {
        site.held().0.iter().filter(|file| file.ends_with(".json") || file.ends_with(".out") || file.ends_with(".new")).count()
            <= 1
    };
    let suppressed = until(DRAIN, || scene.evidence(&site, 0).suppressed.len() == 2 || gone());
    scene.sink.up();
    let mut tally = scene.close(&site, relay, 0);
    if !suppressed {
        tally.wrong.push("opt-outs are not in the log while the host is away".into());
    }
    tally
}

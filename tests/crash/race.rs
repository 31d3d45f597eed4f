//! The list changes between hold and attempt, at any moment around the attempt: whoever stands on the list that is in
//! force gets nothing.

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
        std::thread::sleep(scene.chance.millis(0..250));
        site.opt_out(chosen);
        until(DRAIN, || site.held().0.is_empty());
    }
    scene.close(&site, relay, 0)
}

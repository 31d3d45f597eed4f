//! The host breaks off, falls silent or talks nonsense at every stage of the dialogue: everybody gets the letter in the
//! end, once; twice only where the host had it and did not say so, and the log tells.

use std::time::Duration;

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in_one;
use crate::ground::{Ground, Play};
use crate::scene::{DRAIN, Scene};
use crate::sink::{Act, Mood, STAGES, Stage};

/// What is no answer at any stage.
const NONSENSE: [Act; 4] =
    [Act::Say("what?\r\n"), Act::Say("99 bottles\r\n"), Act::Say("25\u{0}0 ok\r\n"), Act::Say("250-a\r\n354 b\r\n")];

pub fn run(ground: &Ground) {
    let mut plays: Vec<Play<'_>> = Vec::new();
    for answer in ["stored", "delivered"] {
        for stage in STAGES {
            plays.push((format!("{answer} {stage:?}"), Box::new(move |scene| faults(scene, answer, stage))));
        }
    }
    ground.play("faults", plays);
}

fn faults(scene: &mut Scene, answer: &'static str, stage: Stage) -> Tally {
    let site = scene.site(&scene.keys(answer).with("upstream.data_timeout = \"1s\""));
    let relay = site.start();
    let mut acts = vec![Act::Cut, Act::Silence];
    acts.extend(NONSENSE);
    if matches!(stage, Stage::Greeting | Stage::Hello) {
        // It speaks of us, not of the mail.
        acts.push(Act::Say("554 5.7.1 go away\r\n"));
    }
    if stage != Stage::Kept {
        // Whoever has the letter and says this asks for a second one.
        acts.extend([Act::Say("451 4.3.0 later\r\n"), Act::Say("421 4.3.2 closing\r\n")]);
    }
    let mut wrong = Vec::new();
    for act in acts {
        scene.sink.set(Mood { fault: Some((stage, act, 1)), ..Mood::default() });
        if matches!(stage, Stage::Greeting | Stage::Hello) {
            // Kept connections have these stages behind them.
            scene.sink.down();
            std::thread::sleep(Duration::from_millis(20));
            scene.sink.up();
        }
        let letter = scene.letter(&["", "later-", ""], 1500);
        let told = hand_in_one(&site.door, &letter, &scene.offers);
        if told != Some(250) {
            wrong.push(format!("{act:?}: the tool was told {told:?}"));
        }
        if !until(DRAIN, || scene.everything_arrived() && site.held().0.is_empty()) {
            wrong.push(format!("{act:?}: {} did not arrive, or is held still", letter.name));
        }
        if !scene.sink.fault_is_over() {
            wrong.push(format!("{act:?} did not come up"));
        }
    }
    let mut tally = scene.close(&site, relay, 0);
    let doubts = site.said().iter().filter(|(_, line)| line.contains("possible_duplicate=true")).count();
    let uncertain = matches!(stage, Stage::Content | Stage::Dot | Stage::Kept);
    if !uncertain && doubts > 0 || uncertain && stage != Stage::Content && doubts == 0 {
        wrong.push(format!("possible_duplicate stands {doubts} times in the log"));
    }
    tally.wrong.extend(wrong);
    tally
}

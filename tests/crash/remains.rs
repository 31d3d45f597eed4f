//! What a relay finds in its spool when it starts: another relay, halves, garbage. It serves all the same, sets aside
//! what it cannot read, and delivers the rest.

use std::fs;
use std::path::{Path, PathBuf};

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in_one;
use crate::ground::Ground;
use crate::relay::{PATIENCE, Site};
use crate::scene::{DRAIN, Scene};

/// What is done to the files of one letter; `json` and `msg` are its names.
type Harm = fn(json: &Path, msg: &Path);

/// Each with whether the letter is still whole, and must arrive.
const HARMS: [(&str, bool, Harm); 9] = [
    ("left alone", true, |_, _| {}),
    ("record empty", false, |json, _| fs::write(json, "").unwrap()),
    ("record cut off", false, |json, _| truncate(json)),
    ("record garbage", false, |json, _| fs::write(json, [0xff; 300]).unwrap()),
    ("record of another kind", false, |json, _| fs::write(json, "[1, 2]").unwrap()),
    ("record gone", false, |json, _| fs::remove_file(json).unwrap()),
    ("content gone", false, |_, msg| fs::remove_file(msg).unwrap()),
    ("content cut off", false, |_, msg| truncate(msg)),
    ("content elsewhere", false, |_, msg| {
        let away = msg.with_file_name("../elsewhere");
        fs::rename(msg, &away).unwrap();
        std::os::unix::fs::symlink("../elsewhere", msg).unwrap();
    }),
];

fn truncate(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
}

pub fn run(ground: &Ground) {
    ground.one("remains harmed", harmed);
    ground.one("remains two relays", two_relays);
}

fn harmed(scene: &mut Scene) -> Tally {
    let site = scene.site(&scene.keys("stored"));
    let relay = site.start();
    scene.sink.down();
    let mut wrong = Vec::new();
    let mut harmed = Vec::new();
    for (what, whole, harm) in HARMS {
        let letter = scene.letter(&[""], 2000);
        assert_eq!(hand_in_one(&site.door, &letter, &scene.offers), Some(250), "held");
        let id = id_of(&site.spool(), &letter.name);
        harmed.push((what, whole, harm, id, letter));
    }
    relay.kill();
    for (_, _, harm, id, _) in &harmed {
        harm(&site.spool().join(format!("{id}.json")), &site.spool().join(format!("{id}.msg")));
    }
    fs::write(site.spool().join("no-mail-at-all"), "x").unwrap();
    let relay = site.start();
    scene.sink.up();
    let rest: Vec<_> = harmed.iter().filter(|(_, whole, ..)| *whole).map(|(.., letter)| letter.name.clone()).collect();
    let arrived = |name: &String| scene.sink.arrived().iter().any(|arrival| arrival.name == *name);
    if !until(DRAIN, || rest.iter().all(arrived)) {
        wrong.push("the rest does not arrive".into());
    }
    let aside = site.held().1;
    for (what, whole, _, id, letter) in &harmed {
        let is_aside = aside.iter().any(|file| file.starts_with(id.as_str()));
        if *whole == is_aside {
            wrong.push(format!("{what} ({id}): set aside: {is_aside}, of {aside:?}"));
        }
        if !whole && arrived(&letter.name) {
            wrong.push(format!("{what} ({id}): was sent"));
        }
        let said = site.said().iter().any(|(_, line)| line.contains(id.as_str()) && line.contains("ERROR"));
        if !whole && !said {
            wrong.push(format!("{what} ({id}): nobody was told"));
        }
    }
    relay.stop();
    Tally { acked: HARMS.len(), wrong, ..Tally::default() }
}

/// The id of the letter in the spool.
fn id_of(spool: &Path, name: &str) -> String {
    let holds = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "msg") && {
            let content = fs::read(path).unwrap();
            String::from_utf8_lossy(&content).contains(&format!("X-Crash-Id: {name}\r\n"))
        }
    };
    let files = fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    let file = files.into_iter().find(holds).unwrap_or_else(|| panic!("{name} is not in the spool"));
    file.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// The second one says that the spool is taken, and the first one does not care.
fn two_relays(scene: &mut Scene) -> Tally {
    let site: Site = scene.site(&scene.keys("stored"));
    let relay = site.start();
    let mut second = site.spawn(site.command());
    let ended = second.dies(PATIENCE);
    let door = site.door.address();
    let code = second.end().code();
    let mut wrong = Vec::new();
    if !ended || code != Some(75) {
        wrong.push(format!("the second relay ended: {ended}, with {code:?}"));
    }
    site.door.open(door);
    let letter = scene.letter(&["", "later-"], 2000);
    assert_eq!(hand_in_one(&site.door, &letter, &scene.offers), Some(250));
    let mut tally = scene.close(&site, relay, 0);
    tally.wrong.extend(wrong);
    tally
}

//! What a relay finds in its spool when it starts: another relay, halves, garbage. It serves all the same, sets aside
//! what it cannot read, and delivers the rest.

use std::fs;
use std::path::Path;

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in_one;
use crate::ground::Ground;
use crate::relay::{PATIENCE, Site};
use crate::scene::{DRAIN, Scene};

/// What is done to the files of one letter; `json` and `msg` are its names.
type Harm = fn(json: &Path, msg: &Path);

/// What becomes of the letter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Arrives,
    SetAside,
    /// Without a record nothing was promised to anybody.
    SweptAway,
}

const HARMS: [(&str, End, Harm); 9] = [
    ("left alone", End::Arrives, |_, _| {}),
    ("record empty", End::SetAside, |json, _| fs::write(json, "").unwrap()),
    ("record cut off", End::SetAside, |json, _| truncate(json)),
    ("record garbage", End::SetAside, |json, _| fs::write(json, [0xff; 300]).unwrap()),
    ("record of another kind", End::SetAside, |json, _| fs::write(json, "[1, 2]").unwrap()),
    ("record gone", End::SweptAway, |json, _| fs::remove_file(json).unwrap()),
    ("content gone", End::SetAside, |_, msg| fs::remove_file(msg).unwrap()),
    ("content cut off", End::SetAside, |_, msg| truncate(msg)),
    ("content elsewhere", End::SetAside, |_, msg| {
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
    for (what, end, harm) in HARMS {
        let letter = scene.letter(&[""], 2000);
        assert_eq!(hand_in_one(&site.door, &letter, &scene.offers), Some(250), "held");
        let id = id_of(&site.spool(), &letter.name);
        harmed.push((what, end, harm, id, letter));
    }
    relay.kill();
    for (_, _, harm, id, _) in &harmed {
        let json = site.spool().join(format!("{id}.json"));
        lay_to_rest(&json);
        harm(&json, &json.with_extension("msg"));
    }
    fs::write(site.spool().join("no-mail-at-all"), "x").unwrap();
    let relay = site.start();
    scene.sink.up();
    let arrived = |name: &String| scene.sink.arrived().iter().any(|arrival| arrival.name == *name);
    let set_aside = |id: &str| site.held().1.iter().any(|file| file.starts_with(id));
    // A file is named in the text, the field at the end of it, and a text may have several lines.
    let told = |id: &str| site.said().iter().any(|(_, line)| line.ends_with(&format!(" id={id}")) && !line.contains("INFO"));
    for (what, end, _, id, letter) in &harmed {
        let ended = || match end {
            End::Arrives => arrived(&letter.name),
            End::SetAside => set_aside(id) && told(id),
            End::SweptAway => !site.held().0.iter().any(|file| file.starts_with(id.as_str())),
        };
        if !until(DRAIN, ended) {
            wrong.push(format!("{what} ({id}): this is not its end"));
        }
        if *end != End::Arrives && arrived(&letter.name) {
            wrong.push(format!("{what} ({id}): was sent"));
        }
        if *end != End::SetAside && set_aside(id) {
            wrong.push(format!("{what} ({id}): was set aside"));
        }
    }
    relay.stop();
    Tally { acked: HARMS.len(), wrong, ..Tally::default() }
}

/// The id of the letter, once its two files are at rest in the spool: a 250 promises that it is on disk, and the first
/// attempt, which the host that is down ends in no time, may still be under way.
fn id_of(spool: &Path, name: &str) -> String {
    let mut id = None;
    let at_rest = || {
        id = fs::read_dir(spool).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let rests = path.extension().is_some_and(|ending| ending == "msg") && path.with_extension("json").exists();
            (rests && holds(&path, name)).then(|| path.file_stem().unwrap().to_str().unwrap().to_owned())
        });
        id.is_some()
    };
    assert!(until(DRAIN, at_rest), "{name} is not at rest in the spool");
    id.unwrap()
}

fn holds(msg: &Path, name: &str) -> bool {
    let content = fs::read(msg).unwrap_or_default();
    String::from_utf8_lossy(&content).contains(&format!("X-Crash-Id: {name}\r\n"))
}

/// A relay killed at the moment of its attempt leaves the record under another name: what is harmed here is the one at rest.
fn lay_to_rest(json: &Path) {
    let under_way = json.with_extension("out");
    if under_way.exists() {
        fs::rename(under_way, json).unwrap();
    }
}

/// The second one says that the spool is taken, and the first one does not care.
fn two_relays(scene: &mut Scene) -> Tally {
    let site: Site = scene.site(&scene.keys("stored"));
    let relay = site.start();
    let mut second = site.spawn(site.command());
    let ended = second.ends(PATIENCE);
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

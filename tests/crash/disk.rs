//! The disk fills, has no room for names, cannot be written; files run out. Every answer is 250 or "later", what was
//! acknowledged arrives, and the relay goes on by itself when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::client::Client;
use crate::clock::until;
use crate::compare::Tally;
use crate::driver::{hand_in, hand_in_one};
use crate::ground::{Ground, Play};
use crate::relay::Site;
use crate::scene::{DRAIN, Scene};
use crate::tracer::Tracer;

/// What there is too little of.
#[derive(Clone, Copy)]
struct Shortage {
    name: &'static str,
    /// Of the tmpfs.
    options: &'static str,
    min_free: &'static str,
    /// Bytes of a letter.
    size: usize,
    /// Between two letters.
    pause: Duration,
    /// Bytes that must stay free.
    left: usize,
}

const NO_ROOM: Shortage =
    Shortage { name: "no room", options: "size=16m", min_free: "0B", size: 100 << 10, pause: Duration::ZERO, left: 0 };

const SHORTAGES: [Shortage; 4] = [
    NO_ROOM,
    // Not even for a record: the letters take no more than records do.
    Shortage { name: "no room at all", options: "size=1m", size: 600, ..NO_ROOM },
    Shortage { name: "no inodes", options: "size=16m,nr_inodes=64", size: 600, ..NO_ROOM },
    // The relay looks once a second: slowly enough for that.
    Shortage { name: "min_free", min_free: "10MiB", pause: Duration::from_millis(25), left: 5 << 20, ..NO_ROOM },
];

pub fn run(ground: &Ground) {
    let mut plays: Vec<Play<'_>> = Vec::new();
    for answer in ["stored", "delivered"] {
        plays.push((format!("{answer} 64 files"), Box::new(move |scene| few_files(scene, answer))));
    }
    match Tracer::works() {
        Err(reason) => ground.leave_out("disk, failing", &reason),
        Ok(()) => {
            for answer in ["stored", "delivered"] {
                plays.push((format!("{answer} failing"), Box::new(move |scene| failing(scene, answer))));
            }
        }
    }
    let may_mount = Mount::tmpfs(&std::env::temp_dir().join(format!("crash.mount.{}", std::process::id())), "size=1m");
    match may_mount {
        Err(reason) => ground.leave_out("disk", &format!("a tmpfs cannot be mounted here: {reason}")),
        Ok(mount) => {
            std::fs::remove_dir(mount.unmount()).unwrap();
            for answer in ["stored", "delivered"] {
                for shortage in SHORTAGES {
                    plays.push((format!("{answer} {}", shortage.name), Box::new(move |scene| full(scene, answer, &shortage))));
                }
                plays.push((format!("{answer} read-only"), Box::new(move |scene| read_only(scene, answer))));
            }
        }
    }
    ground.play("disk", plays);
}

/// One kind of call after the other fails with EIO for a while. A letter that must go to the disk meanwhile stays with its
/// tool; one that has arrived and cannot be taken away comes once all the same.
fn failing(scene: &mut Scene, answer: &'static str) -> Tally {
    let site = scene.site(&scene.keys(answer));
    let relay = site.start();
    let log = scene.folder.join("calls");
    let mut wrong = Vec::new();
    let mut hand_in = |scene: &mut Scene, expected: std::ops::RangeInclusive<u16>, when: &str| {
        let letter = scene.letter(&[""], 600);
        match hand_in_one(&site.door, &letter, &scene.offers) {
            Some(told) if expected.contains(&told) => {}
            told => wrong.push(format!("{when}: the tool was told {told:?}")),
        }
    };
    for calls in ["fdatasync", "fsync", "?rename,renameat,renameat2", "openat"] {
        if answer == "delivered" {
            scene.sink.down();
        }
        let tracer = Tracer::attach(relay.pid(), calls, &format!("{calls}:error=EIO"), &log);
        hand_in(scene, 400..=499, &format!("{calls} fails"));
        drop(tracer);
        hand_in(scene, 250..=250, &format!("{calls} works again"));
        scene.sink.up();
        until(DRAIN, || site.held().0.is_empty());
    }
    let calls = "?unlink,unlinkat";
    let tracer = Tracer::attach(relay.pid(), calls, &format!("{calls}:error=EIO"), &log);
    hand_in(scene, 250..=250, &format!("{calls} fails"));
    until(DRAIN, || scene.everything_arrived());
    drop(tracer);
    let mut tally = scene.close(&site, relay, 0);
    tally.wrong.extend(wrong);
    tally
}

/// The host is away until the disk is full; then it comes back.
fn full(scene: &mut Scene, answer: &'static str, shortage: &Shortage) -> Tally {
    let Shortage { options, min_free, size, pause, left, .. } = *shortage;
    let mount = Mount::tmpfs(&scene.folder.join("state"), options).unwrap();
    let site = scene.site(&scene.keys(answer).with(&format!("delivery.min_free = {min_free:?}")));
    let relay = site.start();
    scene.sink.down();
    let (mut taken, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut client = Client::connect(site.door.address(), Duration::from_secs(30)).unwrap();
    while refused < 8 && taken < 400 {
        let letter = scene.letter(&[""], size);
        match hand_in(&mut client, &letter, &scene.offers).unwrap() {
            250 => (taken, refused) = (taken + 1, 0),
            451 | 452 => refused += 1,
            code => wrong.push(format!("the answer on a full disk is {code}")),
        }
        std::thread::sleep(pause);
        if wrong.len() > 3 {
            break;
        }
    }
    if taken < 10 || refused < 8 {
        wrong.push(format!("{taken} letters were taken, {refused} refused in a row"));
    }
    let room = scene.folder.join("state/room");
    if left > 0 {
        if std::fs::write(&room, vec![1; left]).is_err() {
            wrong.push("min_free was not kept free".into());
        }
        std::fs::remove_file(&room).unwrap();
    }
    scene.sink.up();
    wrong.extend(goes_on(scene, &site));
    let mut tally = scene.close(&site, relay, 0);
    tally.wrong.extend(wrong);
    mount.unmount();
    tally
}

/// Takes new mail again, by itself, once the old has left.
fn goes_on(scene: &mut Scene, site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    if !until(DRAIN, || site.held().0.is_empty()) {
        wrong.push(format!("the spool does not drain: {:?}", site.held().0));
    }
    let taken = until(Duration::from_secs(5), || {
        let letter = scene.letter(&[""], 2000);
        hand_in_one(&site.door, &letter, &scene.offers) == Some(250)
    });
    if !taken {
        wrong.push("no new mail is taken after all is well again".into());
    }
    wrong
}

/// While mail waits, the spool turns read-only, the host comes back, and then the spool can be written again.
fn read_only(scene: &mut Scene, answer: &'static str) -> Tally {
    let state = Mount::tmpfs(&scene.folder.join("state"), "size=16m").unwrap();
    let site = scene.site(&scene.keys(answer));
    let relay = site.start();
    scene.sink.down();
    for _ in 0..5 {
        let letter = scene.letter(&[""], 2000);
        assert_eq!(hand_in_one(&site.door, &letter, &scene.offers), Some(250), "before");
    }
    // Files that are open for writing forbid to remount; what lies over the folder has none.
    let over = Mount::read_only(&site.spool()).unwrap();
    let mut wrong = Vec::new();
    let mut tell = |scene: &mut Scene, when: &str, allowed: &[u16]| {
        let letter = scene.letter(&[""], 2000);
        let told = hand_in_one(&site.door, &letter, &scene.offers);
        if !told.is_some_and(|code| allowed.contains(&code)) {
            wrong.push(format!("{when}: the tool was told {told:?}"));
        }
    };
    tell(scene, "read-only, the host away", &[451, 452]);
    scene.sink.up();
    for _ in 0..5 {
        // Retries come by meanwhile, and nobody must get anything twice by them.
        std::thread::sleep(Duration::from_millis(200));
        tell(scene, "read-only, the host there", &[250, 451, 452]);
    }
    over.unmount();
    wrong.extend(goes_on(scene, &site));
    let mut tally = scene.close(&site, relay, 0);
    tally.wrong.extend(wrong);
    state.unmount();
    tally
}

/// More clients than files.
fn few_files(scene: &mut Scene, answer: &'static str) -> Tally {
    let site = scene.site(&scene.keys(answer));
    let mut relay = site.spawn(site.command_with_files(64));
    relay.wait_until_it_serves();
    let letters: Vec<_> = (0..100).map(|_| scene.letter(&[""], 2000)).collect();
    let (door, offers) = (&site.door, &scene.offers);
    let told: Vec<_> = std::thread::scope(|scope| {
        let tools: Vec<_> = letters.iter().map(|letter| scope.spawn(|| hand_in_one(door, letter, offers))).collect();
        tools.into_iter().map(|tool| tool.join().unwrap()).collect()
    });
    let mut wrong = Vec::new();
    let odd: Vec<_> = told.iter().flatten().filter(|code| !matches!(code, 250 | 421 | 451 | 452)).collect();
    if !odd.is_empty() {
        wrong.push(format!("tools were told {odd:?}"));
    }
    if !told.contains(&Some(250)) {
        wrong.push("nothing was taken".into());
    }
    wrong.extend(goes_on(scene, &site));
    let mut tally = scene.close(&site, relay, 0);
    tally.wrong.extend(wrong);
    tally
}

/// A file system over a folder; goes with its value.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(folder: &Path, options: &str) -> Result<Self, String> {
        std::fs::create_dir_all(folder).unwrap();
        let mounted = mount(&["-t", "tmpfs", "-o", &format!("{options},mode=700"), "tmpfs"], folder);
        if mounted.is_err() {
            // Nothing lies over it, so it is empty.
            let _ = std::fs::remove_dir(folder);
        }
        mounted.map(|()| Self(folder.to_owned()))
    }

    /// The folder once more over itself, and this one cannot be written.
    fn read_only(folder: &Path) -> Result<Self, String> {
        mount(&["--bind", folder.to_str().unwrap()], folder)?;
        let mounted = Self(folder.to_owned());
        mount(&["-o", "remount,bind,ro"], folder)?;
        Ok(mounted)
    }

    fn unmount(self) -> PathBuf {
        self.0.clone()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the relay may have a file open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn mount(arguments: &[&str], folder: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(folder).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

//! What must be on disk before a word is said. A killed process loses nothing that it wrote, a machine without power
//! does, so the order of the system calls is read from what strace wrote.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use crate::clock::until;
use crate::compare::Tally;
use crate::driver::hand_in_one;
use crate::ground::{Ground, Play};
use crate::scene::Scene;
use crate::sink::Mood;
use crate::tracer::Tracer;

const CALLS: &str = "fsync,fdatasync,?rename,renameat,renameat2,write,writev,sendto,sendmsg";

/// What is done with a letter before its 250, in this order: the end of a name, and the call.
const HELD: [(&str, &str); 4] = [(".msg", "sync"), (".json.tmp", "sync"), (".json", "rename"), ("/spool", "sync")];

/// The same where an attempt begins before the 250, or at once after it.
const SENT: [(&str, &str); 3] = [(".new.tmp", "sync"), (".new", "rename"), ("/spool", "sync")];

/// The same for an opted-out recipient's 550.
const LOGGED: [(&str, &str); 1] = [("/suppressed.jsonl", "sync")];

#[derive(Clone, Copy)]
enum Case {
    Stored,
    HostAway,
    HostSlow,
    OptedOut,
}

pub fn run(ground: &Ground) {
    if let Err(reason) = Tracer::works() {
        return ground.leave_out("order", &reason);
    }
    let mut wrong = Vec::new();
    let (fits, late) =
        ("1 fsync(3</s/spool>) = 0\n1 sendto(4, \"250 2.0.0 x\"", "1 sendto(4, \"250 2.0.0 x\"\n1 fsync(3</s/spool>) = 0\n");
    for (log, ok) in [(fits, true), (late, false), (&fits.replace("= 0", "= -1 EIO"), false)] {
        if before(log, "250 2.0.0 ", &HELD[3..]).is_ok() != ok {
            wrong.push(format!("this is read wrongly: {log}"));
        }
    }
    ground.one("order reading", |_| Tally { wrong, ..Tally::default() });
    let case = |name: &str, answer, case| -> Play<'_> { (name.to_owned(), Box::new(move |scene| one(scene, answer, case))) };
    ground.play(
        "order",
        vec![
            case("stored", "stored", Case::Stored),
            case("delivered, host away", "delivered", Case::HostAway),
            case("delivered, host slow", "delivered", Case::HostSlow),
            case("opted out", "stored", Case::OptedOut),
        ],
    );
}

fn one(scene: &mut Scene, answer: &'static str, case: Case) -> Tally {
    let site = scene.site(&scene.keys(answer).with("delivery.patience = \"200ms\""));
    let letter = scene.letter(&[""], 3000);
    match case {
        Case::Stored => {}
        Case::HostAway => scene.sink.down(),
        Case::HostSlow => scene.sink.set(Mood { pause_at_dot: Duration::from_millis(1000), ..Mood::default() }),
        Case::OptedOut => site.opt_out(letter.recipients.clone()),
    }
    let relay = site.start();
    let log = scene.folder.join("calls");
    let tracer = Tracer::attach(relay.pid(), CALLS, "", &log);
    let told = hand_in_one(&site.door, &letter, &scene.offers);
    let (expected, word, steps): (_, _, &[_]) = match case {
        Case::OptedOut => (Some(550), "550 5.7.1 ", &LOGGED),
        Case::HostAway => (Some(250), "250 2.0.0 ", &HELD),
        Case::Stored | Case::HostSlow => (Some(250), "250 2.0.0 ", &SENT),
    };
    let mut read = Err(String::new());
    until(Duration::from_secs(2), || {
        read = before(&fs::read_to_string(&log).unwrap(), word, steps);
        read.is_ok()
    });
    drop(tracer);
    let mut tally = scene.close(&site, relay, 0);
    if told != expected {
        tally.wrong.push(format!("the tool was told {told:?}"));
    }
    tally.wrong.extend(read.err());
    tally
}

/// Whether all steps had come to a good end, in their order, when the word was said.
fn before(log: &str, word: &str, steps: &[(&str, &str)]) -> Result<(), String> {
    let (mut left, mut begun) = (steps.iter().peekable(), HashMap::new());
    for line in log.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        if call.contains(&format!("\"{word}")) {
            return match left.peek() {
                None => Ok(()),
                Some((name, call)) => Err(format!("`{word}` was said before the {call} of …{name}")),
            };
        }
        // A call during which another thread had a word stands in two lines.
        let call = match call.trim_start().strip_prefix("<... ") {
            Some(rest) => format!("{} {rest}", begun.remove(thread).unwrap_or("")),
            None => call.to_owned(),
        };
        if line.ends_with("<unfinished ...>") {
            begun.insert(thread, line);
        } else if let Some((name, kind)) = left.peek() {
            let of_it = call.contains(&format!("{name}>")) || call.contains(&format!("{name}\""));
            if call.split('(').next().is_some_and(|verb| verb.contains(kind)) && of_it && call.trim_end().ends_with("= 0") {
                left.next();
            }
        }
    }
    Err(format!("`{word}` was not said"))
}

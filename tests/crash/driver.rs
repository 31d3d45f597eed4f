//! The tools: threads that hand letters in, one after another, and write down what they were told. An acknowledgement
//! counts once it is on disk. Never hands a letter in twice.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::book::Book;
use crate::chance::Chance;
use crate::client::Client;
use crate::letter::Letter;
use crate::relay::Door;

/// How long a tool waits for any reply. Longer than the relay takes, however slow the host is.
const PATIENCE: Duration = Duration::from_secs(30);

/// A letter that was offered, and what came of it.
#[derive(Clone, Debug)]
pub struct Offer {
    pub name: String,
    pub hash: u64,
    pub recipients: Vec<String>,
    pub told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// About to be offered. Without a later word: the connection broke, nobody knows.
    Nothing,
    /// 250 to the final dot: the recipients are those who were accepted.
    Taken,
    /// Anything else; the tool still has the letter.
    Refused(u16),
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:016x} {:?} {}", self.name, self.hash, self.told, self.recipients.join(","))
    }
}

/// What all tools of a run have written down.
pub type Offers = Arc<Book<Offer>>;

pub fn offers(folder: &Path) -> Offers {
    Arc::new(Book::open(&folder.join("offers")))
}

/// Hands one letter in over a connection that stands; the answer to it is on disk when this returns.
pub fn hand_in(client: &mut Client, letter: &Letter, offers: &Book<Offer>) -> std::io::Result<u16> {
    let Letter { name, hash, recipients, .. } = letter;
    let offer = |recipients: &[String], told| Offer { name: name.clone(), hash: *hash, recipients: recipients.to_vec(), told };
    offers.write(&[offer(recipients, Told::Nothing)]);
    let answer = client.send(letter)?;
    match answer.code {
        250 => offers.write(&[offer(&answer.accepted, Told::Taken)]),
        code => offers.write(&[offer(recipients, Told::Refused(code))]),
    }
    Ok(answer.code)
}

/// One letter over a connection of its own. `None`: the connection broke.
pub fn hand_in_one(door: &Door, letter: &Letter, offers: &Book<Offer>) -> Option<u16> {
    let mut client = Client::connect(door.address(), PATIENCE).ok()?;
    let code = hand_in(&mut client, letter, offers).ok()?;
    client.quit();
    Some(code)
}

/// What the letters of a load look like.
#[derive(Clone, Copy)]
pub struct Mix {
    /// Bytes of content, at most.
    pub size: usize,
    /// Some of the recipients whom the host asks to try later, or refuses.
    pub trouble: bool,
    /// Between two letters of one tool.
    pub pause: Duration,
}

/// Several tools at work.
pub struct Driver {
    stop: Arc<AtomicBool>,
    tools: Vec<JoinHandle<()>>,
}

impl Driver {
    pub fn start(tools: usize, mix: Mix, door: &Door, offers: &Offers, chance: &mut Chance) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tool = |number: usize| {
            let (stop, door, offers, mut chance) = (stop.clone(), door.clone(), offers.clone(), chance.fork());
            std::thread::spawn(move || work(number, mix, &door, &offers, &stop, &mut chance))
        };
        let tools = (0..tools).map(tool).collect();
        Self { stop, tools }
    }

    /// Returns when the last answer was read.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for tool in self.tools {
            tool.join().unwrap();
        }
    }
}

fn work(tool: usize, mix: Mix, door: &Door, offers: &Book<Offer>, stop: &AtomicBool, chance: &mut Chance) {
    let (mut client, mut number) = (None, 0);
    while !stop.load(Ordering::Relaxed) {
        let Some(mut open) = client.take().or_else(|| Client::connect(door.address(), PATIENCE).ok()) else {
            // Nobody listens just now.
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        number += 1;
        let letter = letter(format!("t{tool}n{number}"), mix, chance);
        if hand_in(&mut open, &letter, offers).is_ok() {
            client = Some(open);
        }
        std::thread::sleep(mix.pause);
    }
}

fn letter(name: String, mix: Mix, chance: &mut Chance) -> Letter {
    let count = if chance.one_in(4) { chance.within(2..6) } else { 1 };
    let recipient = |number: usize| {
        let kind = match chance.below(12) {
            0 if mix.trouble => "later-",
            1 if mix.trouble => "no-",
            _ => "",
        };
        format!("{kind}{name}r{number}@host.test")
    };
    let recipients = (0..count).map(recipient).collect();
    // Mostly small, sometimes large.
    let most = if chance.one_in(4) { mix.size } else { mix.size.min(4096) };
    let size = chance.within(512..most.max(513));
    Letter::new(name, recipients, size, chance)
}

//! One run with a relay and a host in a folder of its own: what it needs at the beginning, and its account at the end.

use std::path::PathBuf;
use std::time::Duration;

use crate::chance::Chance;
use crate::compare::{Evidence, Tally};
use crate::driver::{Offers, Told, offers};
use crate::letter::Letter;
use crate::relay::{Keys, Relay, Site};
use crate::sink::{Mood, Sink};

/// What was accepted has left after this time, with the host up.
pub const DRAIN: Duration = Duration::from_secs(30);

pub struct Scene {
    pub folder: PathBuf,
    pub chance: Chance,
    pub sink: Sink,
    pub offers: Offers,
    letters: usize,
}

impl Scene {
    pub fn new(folder: PathBuf, chance: Chance) -> Self {
        let (sink, offers) = (Sink::start(&folder), offers(&folder));
        Self { folder, chance, sink, offers, letters: 0 }
    }

    /// A scene within this one, in a folder below its own.
    pub fn inner(&mut self, name: &str) -> Self {
        let folder = self.folder.join(name.replace(['/', ' ', ',', '?'], "_"));
        std::fs::create_dir(&folder).unwrap();
        Self::new(folder, self.chance.fork())
    }

    /// Everybody to whom mail was accepted has it, or will not get it.
    pub fn everything_arrived(&self) -> bool {
        let arrived = self.sink.arrived();
        let has = |recipient: &String| arrived.iter().any(|arrival| arrival.recipient == *recipient);
        self.offers.entries().iter().filter(|offer| offer.told == Told::Taken).all(|offer| offer.recipients.iter().all(has))
    }

    pub fn keys(&self, answer: &'static str) -> Keys {
        Keys::new(answer, self.sink.address)
    }

    pub fn site(&self, keys: &Keys) -> Site {
        Site::new(&self.folder, keys)
    }

    /// A letter with a new name to recipients of these kinds (`""`, `"no-"`, `"later-"`, `"busy-"`).
    pub fn letter(&mut self, kinds: &[&str], size: usize) -> Letter {
        self.letters += 1;
        let name = format!("m{}", self.letters);
        let recipients = kinds.iter().enumerate().map(|(number, kind)| format!("{kind}{name}r{number}@host.test")).collect();
        Letter::new(name, recipients, size, &mut self.chance)
    }

    /// The host takes everything from now on; waits until the relay holds no mail any more, and stops it in good order.
    pub fn settle(&self, site: &Site, relay: Relay<'_>) -> Vec<String> {
        self.sink.set(Mood::default());
        self.sink.up();
        let drained = site.drains(DRAIN);
        relay.stop();
        let (held, corrupt) = site.held();
        let mut wrong = Vec::new();
        if !drained {
            wrong.push(format!("still in the spool after {DRAIN:?}: {held:?}"));
        }
        if !corrupt.is_empty() {
            wrong.push(format!("set aside as corrupt: {corrupt:?}"));
        }
        wrong
    }

    /// Everything that was written down.
    pub fn evidence(&self, site: &Site, kills: usize) -> Evidence {
        Evidence {
            offers: self.offers.entries(),
            arrived: self.sink.arrived(),
            suppressed: suppressed(site),
            opted_out: site.opted_out(),
            said: site.said(),
            kills,
            cuts: self.sink.cuts(),
            in_flight: 16,
        }
    }

    /// [`Self::settle`], and the account.
    pub fn close(&self, site: &Site, relay: Relay<'_>, kills: usize) -> Tally {
        let wrong = self.settle(site, relay);
        let mut tally = self.evidence(site, kills).tally();
        // What explains the rest comes first.
        tally.wrong.splice(0..0, wrong);
        tally
    }
}

/// Id and recipient of every line of the suppression log that says so.
fn suppressed(site: &Site) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(site.folder.join("state/log/suppressed.jsonl")).unwrap_or_default();
    let event = |line: &str| -> Option<(String, String)> {
        // A line that a crash cut off was promised to nobody.
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let word = |name: &str| event[name].as_str().map(str::to_owned);
        (event["event"] == "suppressed").then(|| word("id").zip(word("recipient")))?
    };
    text.lines().filter_map(event).collect()
}

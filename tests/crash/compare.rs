//! The account after a run: what was promised against what came. Pure: it reads what others have written down.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::AddAssign;

use crate::arrival::{Arrival, Kind};
use crate::driver::{Offer, Told};
use crate::relay::Said;

/// A relay judges, then speaks; both ends of the wire are read by threads that wait for a processor. So much later than
/// the word that the list is in force a MAIL may be seen that was begun before it. In microseconds.
const SLACK: u64 = 100_000;

/// Everything that was written down in a run.
#[derive(Default)]
pub struct Evidence {
    pub offers: Vec<Offer>,
    pub arrived: Vec<Arrival>,
    /// Relay's id and recipient, from the suppression log.
    pub suppressed: Vec<(String, String)>,
    /// Who has opted out, and since when that was in force.
    pub opted_out: BTreeMap<String, Option<u64>>,
    pub said: Vec<Said>,
    pub kills: usize,
    /// Times that the host broke off what it may have taken.
    pub cuts: usize,
    /// Messages that may be under way at once.
    pub in_flight: usize,
}

/// The counts; what is wrong stands in `wrong`, a line each.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub kills: usize,
    pub acked: usize,
    pub delivered: usize,
    pub suppressed: usize,
    pub reported: usize,
    pub duplicates: usize,
    pub explained: usize,
    pub lost: usize,
    pub damaged: usize,
    /// Mailed although the opt-out was in force.
    pub leaked: usize,
    pub wrong: Vec<String>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.acked += other.acked;
        self.delivered += other.delivered;
        self.suppressed += other.suppressed;
        self.reported += other.reported;
        self.duplicates += other.duplicates;
        self.explained += other.explained;
        self.lost += other.lost;
        self.damaged += other.damaged;
        self.leaked += other.leaked;
        self.wrong.extend(other.wrong);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, acked, delivered, suppressed, reported, duplicates, explained, lost, damaged, leaked, .. } = self;
        write!(
            f,
            "kills {kills}, acked {acked}, delivered {delivered}, suppressed {suppressed}, reported {reported}, \
             duplicates {duplicates} (explained {explained}), lost {lost}, damaged {damaged}, leaked {leaked}"
        )
    }
}

/// What became of one recipient of one letter.
#[derive(Default)]
struct Fate<'e> {
    letters: Vec<&'e Arrival>,
    failures: usize,
}

impl Evidence {
    pub fn tally(&self) -> Tally {
        let mut tally = Tally { kills: self.kills, ..Tally::default() };
        let fates = self.fates();
        self.promises(&fates, &mut tally);
        self.content(&mut tally);
        self.repeats(&fates, &mut tally);
        self.opt_outs(&mut tally);
        for (_, line) in self.said.iter().filter(|(_, line)| line.contains("panicked at")) {
            tally.wrong.push(format!("a panic: {line}"));
        }
        tally
    }

    fn fates(&self) -> HashMap<(&str, &str), Fate<'_>> {
        let mut fates: HashMap<_, Fate<'_>> = HashMap::new();
        for arrival in &self.arrived {
            let fate = fates.entry((arrival.name.as_str(), arrival.recipient.as_str())).or_default();
            match arrival.kind {
                Kind::Letter => fate.letters.push(arrival),
                Kind::Failure => fate.failures += 1,
                Kind::Note => {}
            }
        }
        fates
    }

    /// Whoever was promised mail has it, or its sender knows why not, or it stands in the log.
    fn promises(&self, fates: &HashMap<(&str, &str), Fate<'_>>, tally: &mut Tally) {
        let suppressed: BTreeSet<_> = self.suppressed.iter().map(|(_, recipient)| recipient.as_str()).collect();
        let none = Fate::default();
        for offer in &self.offers {
            for recipient in &offer.recipients {
                let fate = fates.get(&(offer.name.as_str(), recipient.as_str())).unwrap_or(&none);
                let (came, suppressed) = (!fate.letters.is_empty(), suppressed.contains(recipient.as_str()));
                let ids = || fate.letters.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>().join(" ");
                match offer.told {
                    Told::Taken => {
                        tally.acked += 1;
                        tally.delivered += usize::from(came);
                        tally.suppressed += usize::from(suppressed);
                        tally.reported += usize::from(fate.failures > 0);
                        if !came && !suppressed && fate.failures == 0 {
                            tally.lost += 1;
                            tally.wrong.push(format!("lost: {} to {recipient}", offer.name));
                        }
                        if came && fate.failures > 0 && !self.all_explained(fate) {
                            tally.wrong.push(format!(
                                "delivered and reported as failed: {} to {recipient}, {}",
                                offer.name,
                                ids()
                            ));
                        }
                        if fate.failures > 1 && self.kills + self.cuts == 0 {
                            tally.wrong.push(format!("reported {} times: {} to {recipient}", fate.failures, offer.name));
                        }
                    }
                    // A tool that hears this sends it again.
                    Told::Refused(code) if came && !self.all_explained(fate) => {
                        tally.wrong.push(format!(
                            "delivered, and the tool was told {code}: {} to {recipient}, {}",
                            offer.name,
                            ids()
                        ));
                    }
                    Told::Refused(_) | Told::Nothing => {}
                }
            }
        }
    }

    /// What came is what was handed in, and came to those to whom it was sent.
    fn content(&self, tally: &mut Tally) {
        let mut offered: HashMap<&str, (&Offer, BTreeSet<&str>)> = HashMap::new();
        for offer in &self.offers {
            let (_, to) = offered.entry(&offer.name).or_insert((offer, BTreeSet::new()));
            to.extend(offer.recipients.iter().map(String::as_str));
        }
        for arrival in &self.arrived {
            let Arrival { name, id, recipient, hash, kind, .. } = arrival;
            match offered.get(name.as_str()) {
                _ if *kind != Kind::Letter => {}
                Some((_, to)) if !to.contains(recipient.as_str()) => {
                    tally.wrong.push(format!("to a stranger: {name} to {recipient}, {id}"));
                }
                Some((offer, _)) if offer.hash == *hash => {}
                _ => {
                    tally.damaged += 1;
                    tally.wrong.push(format!("damaged: {name} to {recipient}, {id}"));
                }
            }
        }
    }

    /// Twice is allowed where a crash or a host that broke off made it uncertain, and only with a word in the log.
    fn repeats(&self, fates: &HashMap<(&str, &str), Fate<'_>>, tally: &mut Tally) {
        let mut letters = BTreeSet::new();
        for ((name, recipient), fate) in fates.iter().filter(|(_, fate)| fate.letters.len() > 1) {
            tally.duplicates += fate.letters.len() - 1;
            letters.insert(name);
            if self.all_explained(fate) {
                tally.explained += fate.letters.len() - 1;
            } else {
                let ids: Vec<_> = fate.letters.iter().map(|letter| letter.id.as_str()).collect();
                tally
                    .wrong
                    .push(format!("twice, and no possible_duplicate in the log: {name} to {recipient}, {}", ids.join(" ")));
            }
        }
        let most = (self.kills + self.cuts) * self.in_flight;
        if letters.len() > most {
            tally.wrong.push(format!("{} letters came twice, and only {most} can have been under way", letters.len()));
        }
    }

    fn all_explained(&self, fate: &Fate<'_>) -> bool {
        let told = |id: &str| {
            let id = format!("id={id}");
            self.said
                .iter()
                .any(|(_, line)| line.contains("possible_duplicate=true") && line.split([' ', ',']).any(|word| word == id))
        };
        fate.letters.iter().all(|letter| told(&letter.id))
    }

    fn opt_outs(&self, tally: &mut Tally) {
        for arrival in self.arrived.iter().filter(|arrival| arrival.kind == Kind::Letter) {
            let Some(Some(since)) = self.opted_out.get(&arrival.recipient) else { continue };
            if arrival.since > since + SLACK {
                tally.leaked += 1;
                let late = (arrival.since - since) / 1000;
                tally
                    .wrong
                    .push(format!("mailed {late} ms after the opt-out was in force: {} {}", arrival.recipient, arrival.id));
            }
        }
    }
}

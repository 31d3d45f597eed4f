//! When held mail is tried again, and how much of it at once. Pure: time and chance are arguments, and come from a clock
//! that nobody can set.
//!
//! A message waits for its own time, and all of them wait for the host: while that is out of reach one message at a time
//! asks after it, and when it answers the queue flows, first one at a time, then twice as many for each that went well.
//! Mail that was never tried has places of its own, so a long queue does not hold it up.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::mail::Id;

/// Waits and bounds, from `[delivery]` and `[upstream]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    /// The wait after the first attempt; it doubles with each.
    pub first: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Mail that has waited so long is given up.
    pub give_up: Duration,
    /// The sender of mail that has waited so long is told; zero: never.
    pub tell_delay: Duration,
    /// Attempts at once: half of them for mail that waits for another try.
    pub at_once: usize,
}

/// How often a host that is out of reach is asked after.
const PROBE_FIRST: Duration = Duration::from_secs(5);
const PROBE_MAX: Duration = Duration::from_secs(30);

/// New mail that may be under way for each attempt at once: it is in memory already, and from the disk it would cost twice.
const IN_HAND: usize = 4;

/// Of mail that is larger than this, in bytes, only few are in memory.
const SMALL: u64 = 256 << 10;

/// A try that says nothing about the host is taken to have failed after so long.
const PROBE_LASTS: Duration = Duration::from_secs(120);

impl Rhythm {
    /// How long to wait after so many attempts; `chance` spreads it by a tenth to either side.
    pub fn wait(&self, attempts: u32, chance: u32) -> Duration {
        let tenths = 0.9 + 0.2 * f64::from(chance) / f64::from(u32::MAX);
        doubled(self.first, attempts).min(self.max).mul_f64(tenths)
    }

    /// No wait is longer, whatever a wall clock made of it.
    pub fn longest(&self) -> Duration {
        self.max.mul_f64(1.1)
    }

    fn probe_wait(&self, failures: u32) -> Duration {
        doubled(PROBE_FIRST.min(self.first), failures).min(PROBE_MAX).min(self.max)
    }

    /// Like that of a message: hosts lock accounts for which they hear a wrong password again and again.
    fn login_wait(&self, refusals: u32) -> Duration {
        doubled(self.first, refusals).min(self.max)
    }

    fn retries(&self) -> usize {
        (self.at_once / 2).max(1)
    }

    /// When something is to be told of a message that has waited for `age`: the delay, then that it is given up.
    fn notice(&self, age: Age, delay_told: bool) -> Instant {
        let told = if delay_told || self.tell_delay.is_zero() { self.give_up } else { self.tell_delay.min(self.give_up) };
        age.moment(told)
    }
}

/// `first` the first time, then twice as long each time.
fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times.saturating_sub(1)).unwrap_or(u32::MAX))
}

/// How long a message has waited, by a clock that only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age {
    /// So long it had waited...
    pub had: Duration,
    /// ...at this moment.
    pub at: Instant,
}

impl Age {
    /// How long at `now`.
    pub fn by(&self, now: Instant) -> Duration {
        self.had + now.saturating_duration_since(self.at)
    }

    /// The moment at which it has waited for `whole`; not before `at`.
    fn moment(&self, whole: Duration) -> Instant {
        self.at + whole.saturating_sub(self.had)
    }
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// For this moment.
    pub at: Instant,
    /// It was never tried.
    pub fresh: bool,
    /// The delay was told.
    pub delay_told: bool,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An attempt for this one.
    Attempt(Id),
    /// The host is away, and the sender of this one is to hear that it is late, or given up.
    Notice(Id),
    /// Nothing before this moment, or before something changes.
    Wait(Option<Instant>),
}

/// All held messages: where each of them is.
#[derive(Debug)]
pub struct Schedule {
    rhythm: Rhythm,
    held: HashMap<Id, Held>,
    retries: Lane,
    fresh: Lane,
    /// When something is to be told.
    notices: BTreeSet<(Instant, Id)>,
    host: Host,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    age: Age,
    at: Place,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Waits {
        due: Due,
        notice: Instant,
    },
    /// An attempt is under way; it keeps a place in the lane.
    Out {
        fresh: bool,
    },
    /// An attempt is under way that began before the message was held, and keeps no place here.
    OutElsewhere,
}

#[derive(Debug)]
struct Lane {
    due: BTreeSet<(Instant, Id)>,
    out: usize,
    /// So many may be out.
    room: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Up,
    /// Out of reach, or it does not take our login; not asked before `probe_at`.
    Away {
        /// How often it was out of reach since it last spoke; none where it is the login that keeps us out.
        failures: u32,
        /// How often it has refused the login since it last took it.
        refusals: u32,
        probe_at: Instant,
        asked: Option<Asked>,
    },
}

/// Somebody is asking after the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    until: Instant,
    /// One of ours; else a tool's mail that is not held.
    by: Option<Id>,
}

impl Schedule {
    /// Nothing is held.
    pub fn new(rhythm: Rhythm) -> Self {
        let lane = |room| Lane { due: BTreeSet::new(), out: 0, room };
        Self {
            rhythm,
            held: HashMap::new(),
            // One first: nobody knows yet how the host is.
            retries: lane(1),
            fresh: lane(rhythm.at_once),
            notices: BTreeSet::new(),
            host: Host::Up,
        }
    }

    /// Messages that are held, whether or not an attempt is under way.
    pub fn count(&self) -> usize {
        self.held.len()
    }

    /// How long the one has waited that waits longest.
    pub fn longest(&self, now: Instant) -> Option<Duration> {
        self.held.values().map(|held| held.age.by(now)).max()
    }

    /// A message of `size` bytes comes in, out for its first attempt; false where too many are: it is to wait for its turn.
    pub fn start_fresh(&mut self, id: Id, size: u64, now: Instant) -> bool {
        let room = if size <= SMALL { self.fresh.room * IN_HAND } else { IN_HAND };
        let starts = self.host == Host::Up && self.fresh.out < room;
        if starts {
            self.out(id, Age { had: Duration::ZERO, at: now }, true);
        }
        starts
    }

    /// A message comes in while its first attempt, which is none of ours, is under way.
    pub fn start_elsewhere(&mut self, id: Id, age: Age) {
        self.remove(id);
        self.held.insert(id, Held { age, at: Place::OutElsewhere });
    }

    fn out(&mut self, id: Id, age: Age, fresh: bool) {
        self.held.insert(id, Held { age, at: Place::Out { fresh } });
        self.lane(fresh).out += 1;
    }

    fn lane(&mut self, fresh: bool) -> &mut Lane {
        if fresh { &mut self.fresh } else { &mut self.retries }
    }

    /// A message begins to wait: a new one, or one that comes back.
    pub fn wait(&mut self, id: Id, age: Age, due: Due) {
        self.wait_until(id, age, due, self.rhythm.notice(age, due.delay_told));
    }

    /// A message with which nothing could be done, not even to tell of it, is left alone until this moment.
    pub fn rest(&mut self, id: Id, age: Age, at: Instant) {
        self.wait_until(id, age, Due { at, fresh: false, delay_told: false }, at);
    }

    fn wait_until(&mut self, id: Id, age: Age, due: Due, notice: Instant) {
        self.remove(id);
        self.lane(due.fresh).due.insert((due.at, id));
        self.notices.insert((notice, id));
        self.held.insert(id, Held { age, at: Place::Waits { due, notice } });
    }

    /// A message is no longer held.
    pub fn remove(&mut self, id: Id) {
        self.stop_asking(Some(id));
        let Some(held) = self.held.remove(&id) else { return };
        match held.at {
            Place::Waits { due, notice } => {
                self.lane(due.fresh).due.remove(&(due.at, id));
                self.notices.remove(&(notice, id));
            }
            Place::Out { fresh } => self.lane(fresh).out -= 1,
            Place::OutElsewhere => {}
        }
    }

    /// How long it has waited; `None` where it is not held.
    pub fn age(&self, id: Id) -> Option<Age> {
        self.held.get(&id).map(|held| held.age)
    }

    /// An attempt is under way.
    pub fn is_out(&self, id: Id) -> bool {
        matches!(self.held.get(&id), Some(Held { at: Place::Out { .. } | Place::OutElsewhere, .. }))
    }

    /// What is to be done; a message that is named is out from here on.
    pub fn next(&mut self, now: Instant) -> Next {
        match self.host {
            Host::Up => {
                let fresh = self.fresh.ready(now).map(|id| (id, true));
                if let Some((id, fresh)) = fresh.or_else(|| self.retries.ready(now).map(|id| (id, false))) {
                    self.take(id, fresh);
                    return Next::Attempt(id);
                }
            }
            Host::Away { failures, refusals, probe_at, asked } => {
                let free = asked.is_none_or(|asked| asked.until <= now);
                if free
                    && probe_at <= now
                    && let Some((id, fresh)) = self.first_due(now)
                {
                    self.take(id, fresh);
                    let asked = Some(Asked { until: now + PROBE_LASTS, by: Some(id) });
                    self.host = Host::Away { failures, refusals, probe_at, asked };
                    return Next::Attempt(id);
                }
                if let Some(&(at, id)) = self.notices.first()
                    && at <= now
                    && self.retries.out < self.rhythm.retries()
                {
                    self.take(id, false);
                    return Next::Notice(id);
                }
            }
        }
        Next::Wait(self.next_moment(now))
    }

    fn take(&mut self, id: Id, fresh: bool) {
        if let Some(age) = self.age(id) {
            self.remove(id);
            self.out(id, age, fresh);
        }
    }

    /// Whoever is due first, whatever its lane.
    fn first_due(&self, now: Instant) -> Option<(Id, bool)> {
        let first = |lane: &Lane, fresh| lane.due.first().filter(|(at, _)| *at <= now).map(|(_, id)| (*id, fresh));
        first(&self.retries, false).or_else(|| first(&self.fresh, true))
    }

    /// The next moment at which [`next`](Self::next) may have another answer, if nothing else happens.
    fn next_moment(&self, now: Instant) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, Id)>| set.first().map(|(at, _)| *at);
        let later = |at: &Instant| *at > now;
        let due = [first(&self.retries.due), first(&self.fresh.due)];
        match self.host {
            // What is due now waits for a place, and is woken by whoever leaves one.
            Host::Up => due.into_iter().flatten().filter(later).min(),
            Host::Away { probe_at, asked, .. } => {
                let probe = asked.map_or(probe_at, |asked| asked.until.max(probe_at));
                let probe = due.into_iter().flatten().min().map(|due| due.max(probe));
                [probe, first(&self.notices)].into_iter().flatten().filter(later).min()
            }
        }
    }

    /// The host is there, and as much is tried at once as may be.
    pub fn is_steady(&self) -> bool {
        self.host == Host::Up && self.retries.room == self.rhythm.retries()
    }

    /// The host was out of reach when it was last asked.
    pub fn host_is_known_away(&self) -> bool {
        self.host != Host::Up
    }

    /// Mail may go to the host now; where it is away, whoever asks at the right moment is the one who tries.
    pub fn may_try(&mut self, now: Instant) -> bool {
        match self.host {
            Host::Up => true,
            Host::Away { failures, refusals, probe_at, asked } => {
                let tries = probe_at <= now && asked.is_none_or(|asked| asked.until <= now);
                if tries {
                    let asked = Some(Asked { until: now + PROBE_LASTS, by: None });
                    self.host = Host::Away { failures, refusals, probe_at, asked };
                }
                tries
            }
        }
    }

    /// Whoever was to ask after the host has not done so. True where somebody else may now.
    pub fn stop_asking(&mut self, who: Option<Id>) -> bool {
        match &mut self.host {
            Host::Away { asked, .. } => asked.take_if(|asked| asked.by == who).is_some(),
            Host::Up => false,
        }
    }

    /// The host is out of reach. True where that is news.
    pub fn host_is_away(&mut self, now: Instant) -> bool {
        self.retries.room = 1;
        match self.host {
            // Others had set out before it was known: they tell nothing new.
            Host::Away { probe_at, asked: None, .. } if probe_at > now => false,
            Host::Away { failures, refusals, .. } => {
                let probe_at = now + self.rhythm.probe_wait(failures + 1);
                self.host = Host::Away { failures: failures + 1, refusals, probe_at, asked: None };
                false
            }
            Host::Up => {
                self.host = Host::Away { failures: 1, refusals: 0, probe_at: now + self.rhythm.probe_wait(1), asked: None };
                true
            }
        }
    }

    /// The host is there and does not take our login. How long nobody tries it again; `None` where that was known.
    pub fn login_is_refused(&mut self, now: Instant) -> Option<Duration> {
        self.retries.room = 1;
        let refusals = match self.host {
            // Others had set out before it was known: they tell nothing new.
            Host::Away { failures: 0, probe_at, asked: None, .. } if probe_at > now => return None,
            Host::Away { refusals, .. } => refusals + 1,
            Host::Up => 1,
        };
        let wait = self.rhythm.login_wait(refusals);
        self.host = Host::Away { failures: 0, refusals, probe_at: now + wait, asked: None };
        Some(wait)
    }

    /// The host took or refused a message: it is there. The first value tells whether that is news, the second whether
    /// more can be done now than before.
    pub fn host_is_there(&mut self) -> (bool, bool) {
        let room = (self.retries.room * 2).min(self.rhythm.retries());
        let more = std::mem::replace(&mut self.retries.room, room) < room;
        let news = std::mem::replace(&mut self.host, Host::Up) != Host::Up;
        (news, news || (more && !self.retries.due.is_empty()))
    }

    /// The host is there and wants nothing now: the queue goes slowly.
    pub fn host_is_busy(&mut self) {
        self.retries.room = 1;
        self.host = Host::Up;
    }

    /// Somebody wants this one to be tried now, or all; how many that are.
    pub fn hurry(&mut self, which: Option<Id>, now: Instant) -> usize {
        let ids: Vec<_> = match which {
            Some(id) => self.held.contains_key(&id).then_some(id).into_iter().collect(),
            None => self.held.keys().copied().collect(),
        };
        for id in &ids {
            if let Some(Held { age, at: Place::Waits { due, .. } }) = self.held.get(id).copied() {
                self.wait(*id, age, Due { at: due.at.min(now), ..due });
            }
        }
        self.ask_again(now);
        ids.len()
    }

    /// Whatever kept the host away may be over.
    pub fn ask_again(&mut self, now: Instant) {
        if let Host::Away { failures, refusals, .. } = self.host {
            self.host = Host::Away { failures, refusals, probe_at: now, asked: None };
        }
    }
}

impl Lane {
    /// The one that is due first, if there is a place for it.
    fn ready(&self, now: Instant) -> Option<Id> {
        self.due.first().filter(|(at, _)| *at <= now && self.out < self.room).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const RHYTHM: Rhythm = Rhythm {
        first: Duration::from_secs(300),
        max: Duration::from_secs(67 * 60),
        give_up: Duration::from_secs(5 * 86_400),
        tell_delay: Duration::from_secs(4 * 3600),
        at_once: 8,
    };

    fn id(number: u64) -> Id {
        Id::new(number, 0)
    }

    fn due(at: Instant) -> Due {
        Due { at, fresh: false, delay_told: false }
    }

    /// With so many messages that are due at `now`.
    fn queue(count: u64, now: Instant) -> Schedule {
        let mut schedule = Schedule::new(RHYTHM);
        for number in 0..count {
            schedule.wait(id(number), Age { had: Duration::ZERO, at: now }, due(now));
        }
        schedule
    }

    /// How many attempts may begin now.
    fn started(schedule: &mut Schedule, now: Instant) -> Vec<Id> {
        std::iter::from_fn(|| if let Next::Attempt(id) = schedule.next(now) { Some(id) } else { None }).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread() {
        let waits: Vec<_> = (1..=7).map(|attempts| RHYTHM.wait(attempts, u32::MAX / 2).as_secs_f64().round()).collect();
        assert_eq!(waits, [300.0, 600.0, 1200.0, 2400.0, 4020.0, 4020.0, 4020.0]);
        assert_eq!((RHYTHM.wait(1, 0), RHYTHM.wait(1, u32::MAX)), (270 * SECOND, 330 * SECOND));
        assert!(RHYTHM.wait(u32::MAX, u32::MAX) <= RHYTHM.longest());
    }

    #[test]
    fn a_queue_begins_with_one_and_doubles_as_long_as_all_goes_well() {
        let now = Instant::now();
        let mut schedule = queue(100, now);
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let batch = started(&mut schedule, now);
            sizes.push(batch.len());
            for id in batch {
                schedule.host_is_there();
                schedule.remove(id);
            }
        }
        assert_eq!(sizes, [1, 2, 4, 4], "half of at_once is for retries");
    }

    #[test]
    fn while_the_host_is_away_one_asks_after_it_ever_more_rarely() {
        let start = Instant::now();
        let mut schedule = queue(100, start);
        let mut now = start;
        let mut asked = Vec::new();
        while now < start + 3 * MINUTE {
            match schedule.next(now) {
                Next::Attempt(id) => {
                    asked.push((now - start).as_secs());
                    assert_eq!(started(&mut schedule, now), [], "one at a time");
                    let age = schedule.age(id).unwrap();
                    schedule.host_is_away(now);
                    schedule.wait(id, age, due(now));
                }
                Next::Wait(at) => now = at.unwrap(),
                Next::Notice(_) => panic!("nothing is to be told yet"),
            }
        }
        assert_eq!(asked, [0, 5, 15, 35, 65, 95, 125, 155]);
        assert_eq!(schedule.host_is_there(), (true, true));
        assert_eq!(started(&mut schedule, now).len(), 2);
    }

    #[test]
    fn a_login_that_is_refused_is_tried_ever_more_rarely_and_when_somebody_asks_for_it() {
        let start = Instant::now();
        let mut schedule = queue(100, start);
        let mut now = start;
        let mut asked = Vec::new();
        while now < start + 200 * MINUTE {
            match schedule.next(now) {
                Next::Attempt(id) => {
                    asked.push((now - start).as_secs() / 60);
                    assert_eq!(started(&mut schedule, now), [], "one at a time");
                    let age = schedule.age(id).unwrap();
                    assert!(schedule.login_is_refused(now).is_some());
                    // Whoever had set out at the same time.
                    assert_eq!((schedule.login_is_refused(now), schedule.host_is_away(now)), (None, false));
                    assert!(!schedule.start_fresh(self::id(5000), 1, now) && !schedule.may_try(now + 4 * MINUTE));
                    schedule.wait(id, age, due(now));
                }
                Next::Wait(at) => now = at.unwrap(),
                Next::Notice(_) => panic!("nothing is to be told yet"),
            }
        }
        assert_eq!(asked, [0, 5, 15, 35, 75, 142]);
        schedule.hurry(None, now);
        assert_eq!(started(&mut schedule, now).len(), 1);
        assert_eq!(schedule.login_is_refused(now), Some(67 * MINUTE), "that it was asked for forgets nothing");
        assert_eq!(schedule.host_is_there(), (true, true));
        assert_eq!(schedule.login_is_refused(now), Some(5 * MINUTE));
    }

    #[test]
    fn a_host_that_comes_and_goes_does_not_hear_the_login_more_often_for_it() {
        let now = Instant::now();
        let mut schedule = queue(2, now);
        schedule.host_is_away(now);
        // Somebody else had got through.
        assert_eq!(schedule.login_is_refused(now), Some(5 * MINUTE));
        let later = now + 5 * MINUTE;
        assert_eq!(started(&mut schedule, later).len(), 1);
        schedule.host_is_away(later);
        assert!(!schedule.may_try(later + 4 * SECOND) && schedule.may_try(later + 5 * SECOND));
        assert_eq!(schedule.login_is_refused(later + 5 * SECOND), Some(10 * MINUTE));
    }

    #[test]
    fn a_try_that_never_ends_does_not_keep_the_host_away_for_ever() {
        let now = Instant::now();
        let mut schedule = queue(2, now);
        schedule.host_is_away(now);
        let later = now + 5 * SECOND;
        assert!(schedule.may_try(later) && !schedule.may_try(later));
        assert_eq!(started(&mut schedule, later), []);
        assert_eq!(schedule.next(later), Next::Wait(Some(later + PROBE_LASTS)));
        assert_eq!(started(&mut schedule, later + PROBE_LASTS).len(), 1);
    }

    #[test]
    fn who_asks_and_learns_nothing_leaves_it_to_the_next() {
        let now = Instant::now();
        let mut schedule = queue(2, now);
        schedule.host_is_away(now);
        let later = now + 5 * SECOND;
        let first = started(&mut schedule, later);
        schedule.remove(first[0]);
        assert!(schedule.may_try(later));
        assert_eq!(started(&mut schedule, later), []);
        assert!(schedule.stop_asking(None) && !schedule.stop_asking(None));
        assert_eq!(started(&mut schedule, later).len(), 1);
    }

    #[test]
    fn new_mail_goes_past_a_long_queue() {
        let now = Instant::now();
        let mut schedule = queue(1000, now);
        assert_eq!(started(&mut schedule, now).len(), 1);
        assert!(schedule.start_fresh(id(5000), 1, now));
        schedule.wait(id(5001), Age { had: Duration::ZERO, at: now }, Due { fresh: true, ..due(now) });
        assert_eq!(started(&mut schedule, now), [id(5001)]);
    }

    #[test]
    fn who_waits_too_long_is_told_although_the_host_is_away() {
        let start = Instant::now();
        let mut schedule = queue(1, start);
        schedule.host_is_away(start);
        let mut now = start;
        let mut told = Vec::new();
        while told.len() < 2 {
            match schedule.next(now) {
                Next::Attempt(id) => {
                    let (age, delay_told) = (schedule.age(id).unwrap(), !told.is_empty());
                    schedule.host_is_away(now);
                    schedule.wait(id, age, Due { delay_told, ..due(now) });
                }
                Next::Notice(id) => {
                    told.push((now - start).as_secs());
                    let age = schedule.age(id).unwrap();
                    schedule.wait(id, age, Due { delay_told: true, ..due(now) });
                }
                Next::Wait(at) => now = at.unwrap(),
            }
        }
        assert_eq!(told, [4 * 3600, 5 * 86_400]);
    }

    #[test]
    fn what_cannot_be_read_is_left_alone_for_a_while_although_it_is_late() {
        let now = Instant::now();
        let mut schedule = Schedule::new(RHYTHM);
        schedule.host_is_away(now);
        schedule.rest(id(0), Age { had: 5 * 60 * MINUTE, at: now }, now + 5 * MINUTE);
        assert_eq!(schedule.next(now), Next::Wait(Some(now + 5 * MINUTE)));
    }

    #[test]
    fn hurrying_tries_what_waits_and_asks_after_the_host() {
        let now = Instant::now();
        let mut schedule = Schedule::new(RHYTHM);
        for number in 0..3 {
            schedule.wait(id(number), Age { had: Duration::ZERO, at: now }, due(now + 60 * MINUTE));
        }
        schedule.host_is_away(now);
        assert_eq!(schedule.hurry(Some(id(7)), now), 0);
        assert_eq!(schedule.hurry(Some(id(1)), now), 1);
        assert_eq!(started(&mut schedule, now), [id(1)]);
        schedule.host_is_there();
        assert_eq!(schedule.hurry(None, now), 3);
        assert_eq!(schedule.count(), 3);
        assert_eq!(started(&mut schedule, now), [id(0)]);
    }

    #[test]
    fn places_are_given_back_however_a_message_leaves() {
        let now = Instant::now();
        let mut schedule = queue(50, now);
        for round in 0..40 {
            let out = started(&mut schedule, now);
            assert_eq!(out.len(), 1, "round {round}");
            match round % 2 {
                0 => schedule.remove(out[0]),
                _ => schedule.wait(out[0], Age { had: Duration::ZERO, at: now }, due(now + MINUTE)),
            }
            schedule.host_is_busy();
        }
        assert_eq!((schedule.retries.out, schedule.fresh.out), (0, 0));
    }
}

//! Who is inside: as many sessions as there are places, each client its part of them. When all are taken, whoever has
//! said nothing for longest makes room. Never touches a socket.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Above this part of the places, in percent, silence is cut short.
const CROWDED: usize = 80;

/// How long a client may say nothing then.
const SILENCE: Duration = Duration::from_secs(10);

/// Before others are served in its place, a new client has so long to say something,
const WELCOME: Duration = Duration::from_millis(50);

/// and, if it has, so long to hand in a message, with no pause longer than this.
const FIRST_MAIL: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// It is not waited for: we are at work for it.
const AT_WORK: u64 = u64::MAX;

/// All places.
#[derive(Debug)]
pub struct Crowd {
    places: Box<[Place]>,
    register: Mutex<Register>,
    freed: Notify,
    per_client: usize,
    begun: Instant,
}

#[derive(Debug)]
struct Place {
    /// Somebody wants the session: it is to make room, or the relay stops.
    called: Notify,
    is_cut: AtomicBool,
    /// Since when we wait for the client to get on, in milliseconds after the beginning; or [`AT_WORK`].
    waits_since: AtomicU64,
    /// When it came, in the same way.
    entered: AtomicU64,
    /// What it has shown so far.
    merit: AtomicU8,
}

/// It has said a whole command.
const HAS_SPOKEN: u8 = 1;

/// It has handed in a message, or logged in.
const HAS_PROVEN: u8 = 2;

#[derive(Debug, Default)]
struct Register {
    free: Vec<usize>,
    /// By place.
    who: Vec<Option<IpAddr>>,
    /// Sessions of each client.
    count: HashMap<IpAddr, usize>,
}

/// A session's place. It is free again when this goes.
#[derive(Debug)]
pub struct Seat {
    crowd: Arc<Crowd>,
    place: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This client has all of its own, and none of them makes room now.
    Client,
    /// Somebody is about to leave, or will be soon.
    Everywhere,
}

impl Crowd {
    /// So many places; another machine may have `per_client` of them.
    pub fn new(places: usize, per_client: usize) -> Arc<Self> {
        let place = || Place {
            called: Notify::new(),
            is_cut: AtomicBool::new(false),
            waits_since: AtomicU64::new(AT_WORK),
            entered: AtomicU64::new(0),
            merit: AtomicU8::new(0),
        };
        let register = Register { free: (0..places).rev().collect(), who: vec![None; places], count: HashMap::new() };
        Arc::new(Self {
            places: std::iter::repeat_with(place).take(places).collect(),
            register: Mutex::new(register),
            freed: Notify::new(),
            per_client,
            begun: Instant::now(),
        })
    }

    /// A place for a client. Where all are taken somebody who is silent is asked to leave, and this is to be tried again when
    /// [`freed`](Self::freed).
    pub fn enter(self: &Arc<Self>, ip: IpAddr) -> Result<Seat, Full> {
        let client = network(ip);
        let mut register = self.register();
        // All tools of this machine come from one address.
        if !client.is_loopback() && register.count.get(&client).is_some_and(|count| *count >= self.per_client) {
            let mine = (0..self.places.len()).filter(|place| register.who[*place] == Some(client));
            // Nobody else is to wait for the end of an excuse of this client's.
            return Err(if self.make_room(mine, Duration::ZERO) { Full::Everywhere } else { Full::Client });
        }
        let Some(place) = register.free.pop() else {
            self.make_room(0..self.places.len(), WELCOME);
            return Err(Full::Everywhere);
        };
        register.who[place] = Some(client);
        *register.count.entry(client).or_default() += 1;
        drop(register);
        self.places[place].entered.store(self.now(), Ordering::Relaxed);
        Ok(Seat { crowd: self.clone(), place })
    }

    /// Somebody has left since the last time.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Where there is a crowd, whoever has been silent for long must leave; how many those are.
    pub fn thin_out(&self) -> usize {
        // Held to the end, so that nobody who comes in just now is taken for somebody else.
        let register = self.register();
        if (self.places.len() - register.free.len()) * 100 <= self.places.len() * CROWDED {
            return 0;
        }
        let now = self.now();
        let silent = |place: &&Place| place.silence(now).is_some_and(|silence| silence >= SILENCE.as_millis() as u64);
        self.places.iter().filter(silent).filter(|place| place.cut()).count()
    }

    /// Sessions under way.
    pub fn taken(&self) -> usize {
        self.places.len() - self.register().free.len()
    }

    /// Places in all.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// Wakes all sessions, for something that concerns all of them.
    pub fn call_all(&self) {
        self.places.iter().for_each(|place| place.called.notify_one());
    }

    /// One of these is leaving, asked by now if need be: the one that has been silent for longest and is not excused. Whoever
    /// has said nothing is, for as long as the `welcome`.
    fn make_room(&self, among: impl Iterator<Item = usize> + Clone, welcome: Duration) -> bool {
        let places = || among.clone().map(|place| &self.places[place]);
        if places().any(Place::is_leaving) {
            return true;
        }
        let now = self.now();
        let most_silent =
            places().filter_map(|place| Some((place.burden(now, welcome)?, place))).max_by_key(|(silence, _)| *silence);
        most_silent.is_some_and(|(_, place)| place.cut())
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// How long it has said nothing; `None` where it is not its turn, or where it is leaving already.
    fn silence(&self, now: u64) -> Option<u64> {
        let since = self.waits_since.load(Ordering::Relaxed);
        (since != AT_WORK && !self.is_cut.load(Ordering::Relaxed)).then(|| now.saturating_sub(since))
    }

    /// It was asked to, and does so at once.
    fn is_leaving(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed) && self.waits_since.load(Ordering::Relaxed) != AT_WORK
    }

    /// How long it has been silent, in milliseconds, where that is no excuse for keeping others out.
    fn burden(&self, now: u64, welcome: Duration) -> Option<u64> {
        let silence = self.silence(now)?;
        let age = now.saturating_sub(self.entered.load(Ordering::Relaxed));
        let within = |time: u64, limit: Duration| time < limit.as_millis() as u64;
        let excused = match self.merit.load(Ordering::Relaxed) {
            0 => within(age, welcome),
            HAS_SPOKEN => within(age, FIRST_MAIL) && within(silence, PAUSE),
            _ => within(silence, SILENCE),
        };
        (!excused).then_some(silence)
    }

    /// True for the first who asks.
    fn cut(&self) -> bool {
        let first = !self.is_cut.swap(true, Ordering::Relaxed);
        self.called.notify_one();
        first
    }
}

impl Seat {
    /// From here on we wait for the client, for as long as it does not get on.
    pub fn waits(&self) {
        self.place().waits_since.store(self.crowd.now(), Ordering::Relaxed);
    }

    /// It has said a whole command. We are at work for it now, and it is not asked to leave.
    pub fn works(&self) {
        self.place().waits_since.store(AT_WORK, Ordering::Relaxed);
        self.place().merit.fetch_max(HAS_SPOKEN, Ordering::Relaxed);
    }

    /// It has shown that it brings mail.
    pub fn proves(&self) {
        self.place().merit.fetch_max(HAS_PROVEN, Ordering::Relaxed);
    }

    /// Until somebody wants the session; it may be for nothing.
    pub async fn called(&self) {
        self.place().called.notified().await;
    }

    /// It must make room.
    pub fn is_cut(&self) -> bool {
        self.place().is_cut.load(Ordering::Relaxed)
    }

    fn place(&self) -> &Place {
        &self.crowd.places[self.place]
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Self { crowd, place } = self;
        let mut register = crowd.register();
        // Nobody else has it yet, so that what was meant for the old session does not reach the next one.
        let state = &crowd.places[*place];
        state.is_cut.store(false, Ordering::Relaxed);
        state.merit.store(0, Ordering::Relaxed);
        state.waits_since.store(AT_WORK, Ordering::Relaxed);
        if let Some(client) = register.who[*place].take()
            && let Some(count) = register.count.get_mut(&client)
        {
            *count -= 1;
            if *count == 0 {
                register.count.remove(&client);
            }
        }
        register.free.push(*place);
        drop(register);
        crowd.freed.notify_one();
    }
}

/// What counts as one client: an address, or the /64 that somebody with IPv6 has for himself.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn seat(crowd: &Arc<Crowd>, ip: IpAddr) -> Seat {
        crowd.enter(ip).unwrap()
    }

    #[test]
    fn a_client_whose_sessions_are_all_excused_keeps_nobody_else_waiting() {
        let crowd = Crowd::new(4, 2);
        let seats = [seat(&crowd, A), seat(&crowd, A)];
        for seat in &seats {
            seat.works();
            seat.proves();
            seat.waits();
        }
        assert_eq!(crowd.enter(A).unwrap_err(), Full::Client);
        seat(&crowd, B);
    }

    #[test]
    fn another_machine_has_its_part_and_this_one_all() {
        let crowd = Crowd::new(5, 2);
        let seats = [seat(&crowd, A), seat(&crowd, A)];
        seats.iter().for_each(Seat::waits);
        // It is its own session that makes room.
        assert_eq!(crowd.enter(A).unwrap_err(), Full::Everywhere);
        assert!(seats[0].is_cut() != seats[1].is_cut());
        let _all: Vec<_> = [[127, 0, 0, 1]; 3].map(|ip| seat(&crowd, ip.into())).into();
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let crowd = Crowd::new(5, 1);
        let _first = seat(&crowd, "2001:db8:1:2::3".parse().unwrap());
        assert!(crowd.enter("2001:db8:1:2:ffff::4".parse().unwrap()).is_err());
        let _other = seat(&crowd, "2001:db8:1:3::3".parse().unwrap());
        let _mapped = seat(&crowd, "::ffff:192.0.2.1".parse().unwrap());
        assert!(crowd.enter(A).is_err());
    }

    #[test]
    fn one_makes_room_for_one() {
        let crowd = Crowd::new(3, 3);
        let seats = [A, A, B].map(|ip| seat(&crowd, ip));
        seats.iter().for_each(Seat::waits);
        std::thread::sleep(WELCOME);
        for _ in 0..3 {
            assert_eq!(crowd.enter(B).unwrap_err(), Full::Everywhere);
        }
        assert_eq!(seats.iter().filter(|seat| seat.is_cut()).count(), 1);
    }
}

//! What a run sends, to whom, and what must have become of it: every message and every recipient has a number that both
//! ends know. Never touches a socket.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use memchr::memmem;

/// Opted-out addresses are `optout0@…` to one less than this.
pub const OPTED_OUT: u64 = 1_000;

/// What one run does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Messages in all.
    pub messages: u64,
    /// Tools at work at once.
    pub sessions: usize,
    /// Bytes of a body.
    pub size: usize,
    /// Of one message.
    pub recipients: u64,
    /// Of a hundred recipients so many are on the list.
    pub opted_out: u64,
    /// The host answers so much later.
    pub round_trip: Duration,
    /// A session sends all its messages over one connection; else each message has its own.
    pub kept: bool,
}

/// One run and its account: what was acknowledged, and what arrived how often.
pub struct Run {
    pub plan: Plan,
    /// The list is enforced by somebody before the host; without, the host itself refuses who is on it.
    pub relayed: bool,
    number: u64,
    next: AtomicU64,
    /// One place for each recipient of each message.
    acknowledged: Vec<AtomicBool>,
    arrived: Vec<AtomicU8>,
    /// Messages that came with other bytes than they were sent with, or that nobody sent.
    damaged: AtomicU64,
    /// Recipients at the host who are on the list.
    leaked: AtomicU64,
    trouble: Mutex<Option<String>>,
    wire: Vec<u8>,
}

/// The account of a run, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub lost: u64,
    pub doubled: u64,
    pub damaged: u64,
    pub leaked: u64,
}

/// Stands in every message at the same place; its number is put in there.
const ID: &[u8] = b"X-Load-Id: ";
const DIGITS: usize = 16;

impl Run {
    pub fn new(number: u64, plan: Plan, relayed: bool) -> Self {
        let places = (plan.messages * plan.recipients) as usize;
        Self {
            plan,
            relayed,
            number,
            next: AtomicU64::new(0),
            acknowledged: (0..places).map(|_| AtomicBool::new(false)).collect(),
            arrived: (0..places).map(|_| AtomicU8::new(0)).collect(),
            damaged: AtomicU64::new(0),
            leaked: AtomicU64::new(0),
            trouble: Mutex::new(None),
            wire: template(plan.size),
        }
    }

    /// The number of the next message; none when all are under way.
    pub fn next(&self) -> Option<u64> {
        let message = self.next.fetch_add(1, Relaxed);
        (message < self.plan.messages && self.trouble().is_none()).then_some(message)
    }

    /// How many messages have been begun.
    pub fn begun(&self) -> u64 {
        self.next.load(Relaxed).min(self.plan.messages)
    }

    /// The message as it goes over the wire, the final dot included.
    pub fn wire(&self, message: u64) -> Vec<u8> {
        let mut wire = self.wire.clone();
        wire[ID.len()..ID.len() + DIGITS].copy_from_slice(self.id(message).as_bytes());
        wire
    }

    /// Recipient `place` of a message, and whether it is on the list.
    pub fn recipient(&self, message: u64, place: u64) -> (String, bool) {
        let serial = message * self.plan.recipients + place;
        let opted_out = serial.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32 < (self.plan.opted_out << 32) / 100;
        let name = if opted_out { opted_out_address(serial) } else { format!("buyer{place}-{}@example.com", self.id(message)) };
        (name, opted_out)
    }

    /// The tool heard 250 after the message.
    pub fn acknowledge(&self, message: u64, places: &[u64]) {
        for place in places {
            self.acknowledged[(message * self.plan.recipients + place) as usize].store(true, Relaxed);
        }
    }

    /// The host took a message, as it came over the wire, with its dot, for these recipients.
    pub fn arrive(&self, wire: &[u8], recipients: &[String]) {
        let start = memmem::find(&wire[..wire.len().min(4096)], ID).unwrap_or(0);
        let id = wire.get(start + ID.len()..start + ID.len() + DIGITS).and_then(|id| std::str::from_utf8(id).ok());
        let Some(message) = id.and_then(|id| self.message(id)) else {
            self.damaged.fetch_add(1, Relaxed);
            return;
        };
        let places: Option<Vec<_>> = recipients.iter().map(|recipient| self.place(message, recipient)).collect();
        let own = &wire[start..];
        let same = own.len() == self.wire.len() && own[ID.len() + DIGITS..] == self.wire[ID.len() + DIGITS..];
        match places {
            Some(places) if same && only_trace(&wire[..start]) => places.iter().for_each(|place| {
                self.arrived[(message * self.plan.recipients + place) as usize].fetch_add(1, Relaxed);
            }),
            _ => drop(self.damaged.fetch_add(1, Relaxed)),
        }
    }

    /// The host heard this recipient.
    pub fn hear(&self, recipient: &str) {
        if self.relayed && is_opted_out(recipient) {
            self.leaked.fetch_add(1, Relaxed);
        }
    }

    /// Something that ends the run.
    pub fn fail(&self, what: String) {
        self.trouble.lock().unwrap().get_or_insert(what);
    }

    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap().clone()
    }

    /// Everything that was acknowledged is there.
    pub fn is_complete(&self) -> bool {
        self.account().lost == 0
    }

    pub fn account(&self) -> Account {
        let mut account =
            Account { damaged: self.damaged.load(Relaxed), leaked: self.leaked.load(Relaxed), ..Account::default() };
        for (acknowledged, arrived) in self.acknowledged.iter().zip(&self.arrived) {
            let arrived = arrived.load(Relaxed);
            account.lost += u64::from(acknowledged.load(Relaxed) && arrived == 0);
            account.doubled += u64::from(arrived.saturating_sub(1));
        }
        account
    }

    fn id(&self, message: u64) -> String {
        format!("{:0DIGITS$x}", self.number << 32 | message)
    }

    fn message(&self, id: &str) -> Option<u64> {
        let id = u64::from_str_radix(id, 16).ok()?;
        let message = id & u64::from(u32::MAX);
        (id >> 32 == self.number && message < self.plan.messages).then_some(message)
    }

    fn place(&self, message: u64, recipient: &str) -> Option<u64> {
        let (place, id) = recipient.strip_prefix("buyer")?.strip_suffix("@example.com")?.split_once('-')?;
        let place = place.parse().ok().filter(|place| *place < self.plan.recipients)?;
        (self.message(id) == Some(message)).then_some(place)
    }
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.damaged += other.damaged;
        self.leaked += other.leaked;
    }
}

/// An account that cannot find anything wrong would prove nothing: all four wrongs, made on purpose, must show.
pub fn prove_account(plan: Plan) -> bool {
    let run = Run::new(1, Plan { messages: 4, recipients: 1, opted_out: 0, ..plan }, true);
    let buyer = |message| [run.recipient(message, 0).0];
    (0..4).for_each(|message| run.acknowledge(message, &[0]));
    run.arrive(&run.wire(1), &buyer(1));
    run.arrive(&run.wire(1), &buyer(1));
    run.arrive(&[b"Received: by x\r\n\tfor y\r\n", run.wire(2).as_slice()].concat(), &buyer(2));
    let mut spoiled = run.wire(3);
    spoiled.remove(300);
    run.arrive(&spoiled, &buyer(3));
    run.arrive(&run.wire(3), &buyer(2));
    run.hear(&opted_out_address(7));
    run.account() == Account { lost: 2, doubled: 1, damaged: 2, leaked: 1 }
}

pub fn opted_out_address(serial: u64) -> String {
    format!("optout{}@example.com", serial % OPTED_OUT)
}

pub fn is_opted_out(recipient: &str) -> bool {
    recipient.starts_with("optout")
}

/// What stands before the message may be `Received:` fields and nothing else.
fn only_trace(head: &[u8]) -> bool {
    head.is_empty()
        || head
            .split_inclusive(|byte| *byte == b'\n')
            .all(|line| line.starts_with(b"Received: ") || line[0].is_ascii_whitespace())
}

/// A message of every kind of line that is easily spoiled: dots in front, blanks behind, empty, long.
fn template(size: usize) -> Vec<u8> {
    let mut wire = [ID, &[b'0'; DIGITS]].concat();
    wire.extend_from_slice(b"\r\nFrom: seller@example.com\r\nTo: buyer@example.com\r\nSubject: Your order\r\n");
    wire.extend_from_slice(b"Message-ID: <1@load.example>\r\nDate: Sun, 22 Nov 2026 21:46:13 +0000\r\n\r\n");
    let lines: [&[u8]; 6] = [
        b"Thank you for your order. We hope that everything came well and in time.\r\n",
        b"..one dot in front\r\n",
        b"..\r\n",
        b"\r\n",
        b"blanks and a tab behind \t \r\n",
        &[&[b'x'; 900][..], b"\r\n"].concat(),
    ];
    let end = wire.len() + size;
    lines
        .iter()
        .cycle()
        .take_while(|line| {
            wire.extend_from_slice(line);
            wire.len() < end
        })
        .for_each(drop);
    wire.extend_from_slice(b".\r\n");
    wire
}

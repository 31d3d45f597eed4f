//! The opt-outs in force, as an index that is replaced whole and never changed. Never reads a file itself.
//!
//! One table for all exact kinds of entries: a key is hashed together with its kind by a keyed 128-bit SipHash, and
//! the hash stands for the key. Two keys with one hash are out of reach (2⁻⁸¹ for ten million entries), and an entry
//! costs 24 bytes however long its address is.

use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use md5::Md5;
use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher13};
use wildmatch::WildMatch;

use super::entry::{Action, Attributes, Kind, Subject, hex};
use super::table::{Slot, Table};
use super::{Context, Mode};
use crate::mail::{Address, Key, Order, PlusTags, ReversePath, domain_letters};

/// All opt-outs in force at one moment: those that people have written down, and those that were learned. The two are apart
/// so that one can be replaced without the other being read again.
#[derive(Debug, Default)]
pub struct OptOutList {
    written: Arc<Index>,
    learned: Arc<Index>,
    /// Of both.
    fingerprint: String,
}

/// The opt-outs of one or several files.
#[derive(Debug, Default)]
struct Index {
    files: Vec<Source>,
    /// For `list` in the log: first 16 hexadecimal digits of a SHA-256 over what was read.
    fingerprint: String,
    tags: PlusTags,
    seed: (u64, u64),
    table: Table,
    /// The first ones are the files' own: nothing but the file.
    records: Vec<Record>,
    patterns: Vec<Pattern>,
    orders: Vec<Order>,
    has: Present,
}

/// One file of the list.
#[derive(Debug)]
pub struct Source {
    /// As the configuration names it.
    pub path: PathBuf,
    /// How many entries stand in it.
    pub entries: usize,
    /// Its size.
    pub bytes: u64,
    /// The record of its entries that have no attributes.
    plain: usize,
}

/// What entries have in common: the file, and what stands beside the name.
#[derive(Debug)]
struct Record {
    file: usize,
    attributes: Attributes,
}

#[derive(Debug)]
struct Pattern {
    glob: WildMatch,
    value: String,
    line: u32,
    about: u32,
}

/// Which kinds there are at all, so that nothing is looked up in vain.
#[derive(Clone, Copy, Debug, Default)]
struct Present {
    domains: bool,
    subdomains: bool,
    sha256: bool,
    md5: bool,
}

/// The entry that decided about a recipient.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// The list it stands in.
    pub file: &'a Path,
    /// Its line, from 1.
    pub line: u32,
    /// Its kind.
    pub kind: Kind,
    /// What stands beside it.
    pub attributes: &'a Attributes,
    value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Key(Key<'a>),
    Text(&'a str),
    Below(&'a str),
    Sha256([u8; 32]),
    Md5([u8; 16]),
    Order(Order),
}

impl Rule<'_> {
    /// The order, where that is what the entry names.
    pub fn order(&self) -> Option<Order> {
        if let Value::Order(order) = self.value { Some(order) } else { None }
    }

    /// The entry in its comparing form.
    pub fn value(&self) -> String {
        match self.value {
            Value::Key(key) => key.to_string(),
            Value::Text(text) => text.to_owned(),
            Value::Below(domain) => format!("*.{domain}"),
            Value::Sha256(digest) => format!("sha256:{}", hex(&digest)),
            Value::Md5(digest) => format!("md5:{}", hex(&digest)),
            Value::Order(order) => order.to_string(),
        }
    }
}

/// Two entries for one and the same recipient, each by file index and line; in the order of the later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Twin {
    /// The later one.
    pub second: (usize, u32),
    /// The entry that was there first.
    pub first: (usize, u32),
}

/// Entries that name somebody who is named already.
#[derive(Debug, Default)]
pub struct Twins {
    /// The first hundred.
    pub shown: Vec<Twin>,
    /// All of them.
    pub count: usize,
}

/// Puts a list together, file after file; [`Builder::finish`] freezes it.
#[derive(Debug)]
pub struct Builder {
    list: Index,
    slots: Vec<Slot>,
    /// Records by the hash of what they say, the latest ones.
    seen: HashMap<u64, u32>,
}

/// So many different records are remembered while a list is read: few say many things, and those who each say something else gain nothing.
const SEEN: usize = 1 << 16;

impl Builder {
    /// An empty list in which addresses compare as `tags` says.
    pub fn new(tags: PlusTags) -> Self {
        // The keys of SipHash are the standard library's random ones: no list can be made to collide from outside.
        let random = RandomState::new();
        let list = Index { tags, seed: (random.hash_one(0_u8), random.hash_one(1_u8)), ..Index::default() };
        Self { list, slots: Vec::new(), seen: HashMap::new() }
    }

    /// Begins the next file: what is added from here on stands in it.
    pub fn file(&mut self, path: &Path) {
        self.list.records.push(Record { file: self.list.files.len(), attributes: Attributes::default() });
        self.list.files.push(Source { path: path.to_owned(), entries: 0, bytes: 0, plain: self.list.records.len() - 1 });
    }

    /// Adds one entry that stands in `line` of the file begun last.
    pub fn add(&mut self, line: u32, subject: Subject, attributes: Attributes) {
        let about = self.about(attributes);
        let list = &mut self.list;
        let hash = match &subject {
            Subject::Address(address) => list.hash_key(address.key(list.tags)),
            Subject::Domain(name) => list.hash(Kind::Domain, name.as_bytes()),
            Subject::Subdomains(name) => list.hash(Kind::Subdomains, name.as_bytes()),
            Subject::Sha256(digest) => list.hash(Kind::Sha256, digest),
            Subject::Md5(digest) => list.hash(Kind::Md5, digest),
            Subject::Order(order) => list.hash_order(*order),
            Subject::Pattern(glob) => {
                let pattern = Pattern { glob: WildMatch::new(glob), value: glob.clone(), line, about };
                return list.patterns.push(pattern);
            }
        };
        match subject {
            Subject::Domain(_) => list.has.domains = true,
            Subject::Subdomains(_) => list.has.subdomains = true,
            Subject::Sha256(_) => list.has.sha256 = true,
            Subject::Md5(_) => list.has.md5 = true,
            Subject::Order(order) => list.orders.push(order),
            Subject::Address(_) | Subject::Pattern(_) => {}
        }
        self.slots.push(Slot { hash, line, about });
    }

    /// How long the file begun last has turned out to be.
    pub fn file_read(&mut self, bytes: u64) {
        if let Some(file) = self.list.files.last_mut() {
            file.bytes = bytes;
        }
    }

    /// Gives the list the name under which the log refers to it.
    pub fn fingerprint(&mut self, fingerprint: String) {
        self.list.fingerprint = fingerprint;
    }

    /// The list, frozen.
    pub fn finish(self) -> OptOutList {
        self.finish_and_tell().0
    }

    /// The list, frozen, and what stands in it twice.
    pub fn finish_and_tell(self) -> (OptOutList, Twins) {
        let Self { mut list, mut slots, .. } = self;
        let place = |slot: &Slot| (list.record(slot).file, slot.line);
        slots.sort_unstable_by(|a, b| a.hash.cmp(&b.hash).then_with(|| place(a).cmp(&place(b))));
        let (mut first, mut count) = (BinaryHeap::new(), 0);
        slots.dedup_by(|later, known| {
            if later.hash != known.hash {
                return false;
            }
            count += 1;
            first.push(Twin { first: place(known), second: place(later) });
            if first.len() > 100 {
                first.pop();
            }
            // The same entry again says nothing new; one with other attributes stays beside the first.
            list.record(later).attributes == list.record(known).attributes
        });
        slots.shrink_to_fit();
        list.table = Table::of_sorted(slots);
        list.orders.sort_unstable();
        list.orders.dedup();
        let list = OptOutList { fingerprint: list.fingerprint.clone(), written: Arc::new(list), learned: Arc::default() };
        (list, Twins { shown: first.into_sorted_vec(), count })
    }

    fn about(&mut self, attributes: Attributes) -> u32 {
        if self.list.files.is_empty() {
            self.file(Path::new(""));
        }
        let file = self.list.files.len() - 1;
        let source = &mut self.list.files[file];
        source.entries += 1;
        let records = &mut self.list.records;
        if attributes == Attributes::default() {
            return source.plain as u32;
        }
        let is_it = |record: &Record| record.file == file && record.attributes == attributes;
        if records.last().is_some_and(is_it) {
            return records.len() as u32 - 1;
        }
        // Thousands say the same, as of one day and one source; what stands beside a name takes more room than the entry itself.
        let hash = self.seen.hasher().hash_one((file, &attributes));
        if let Some(at) = self.seen.get(&hash).filter(|at| is_it(&records[**at as usize])) {
            return *at;
        }
        if self.seen.len() == SEEN {
            self.seen.clear();
        }
        let at = records.len() as u32;
        self.seen.insert(hash, at);
        records.push(Record { file, attributes });
        at
    }
}

impl OptOutList {
    /// The same with `learned` in the place of what was learned before.
    pub fn with_learned(&self, learned: &Self) -> Self {
        Self::of(&self.written, &learned.written)
    }

    /// The same with `written` in the place of what people had written down before.
    pub fn with_written(&self, written: &Self) -> Self {
        Self::of(&written.written, &self.learned)
    }

    fn of(written: &Arc<Index>, learned: &Arc<Index>) -> Self {
        let both = Sha256::new().chain_update(&written.fingerprint).chain_update(&learned.fingerprint).finalize();
        let fingerprint = if learned.len() == 0 { written.fingerprint.clone() } else { hex(&both[..8]) };
        Self { written: written.clone(), learned: learned.clone(), fingerprint }
    }

    fn both(&self) -> [&Index; 2] {
        [&self.written, &self.learned]
    }

    /// How many entries are in the list.
    pub fn len(&self) -> usize {
        self.both().iter().map(|index| index.len()).sum()
    }

    /// Nobody has opted out.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files that people have written, in order; see [`OptOutList::learned_files`].
    pub fn files(&self) -> &[Source] {
        &self.written.files
    }

    /// The files that hold what was learned.
    pub fn learned_files(&self) -> &[Source] {
        &self.learned.files
    }

    /// Names the content of the list in the log.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Names the content of what was learned.
    pub fn learned_fingerprint(&self) -> &str {
        &self.learned.fingerprint
    }

    /// All orders that entries name, without doubles within each part of the list.
    pub fn orders(&self) -> impl Iterator<Item = Order> {
        self.written.orders.iter().chain(&self.learned.orders).copied()
    }

    /// The first entry that names this order.
    pub fn of_order(&self, order: Order) -> Option<Rule<'_>> {
        self.both().into_iter().find_map(|index| {
            let slot = index.table.find(index.hash_order(order)).next()?;
            Some(index.rule(slot, Kind::Order, Value::Order(order)))
        })
    }

    /// Some entry names an order, so the judge wants to know which ones a mail names.
    pub fn names_orders(&self) -> bool {
        self.orders().next().is_some()
    }

    /// Of all entries that name the recipient and hold for this mail, the strictest; of equals the first.
    pub fn strictest<'a>(&'a self, recipient: &'a Address, context: &Context<'_>) -> Option<Rule<'a>> {
        let mut found = Strictest { context, best: None };
        for index in self.both() {
            index.offer_all(&mut found, recipient);
        }
        found.best
    }
}

impl Index {
    fn len(&self) -> usize {
        self.table.len() + self.patterns.len()
    }

    fn offer_all<'a>(&'a self, found: &mut Strictest<'_, 'a>, recipient: &'a Address) {
        if self.len() == 0 {
            return;
        }
        let key = recipient.key(self.tags);
        self.offer(found, Kind::Address, self.hash_key(key), Value::Key(key));
        self.offer_domains(found, key.domain);
        if self.has.sha256 || self.has.md5 {
            self.offer_hashes(found, recipient, key);
        }
        if !self.patterns.is_empty() {
            self.offer_patterns(found, recipient, key);
        }
        if !self.orders.is_empty() {
            for order in found.context.orders {
                self.offer(found, Kind::Order, self.hash_order(*order), Value::Order(*order));
            }
        }
    }

    fn offer_domains<'a>(&'a self, found: &mut Strictest<'_, 'a>, domain: &'a str) {
        if self.has.domains {
            self.offer(found, Kind::Domain, self.hash(Kind::Domain, domain.as_bytes()), Value::Text(domain));
        }
        if self.has.subdomains {
            let mut below = domain;
            while let Some((_, parent)) = below.split_once('.') {
                self.offer(found, Kind::Subdomains, self.hash(Kind::Subdomains, parent.as_bytes()), Value::Below(parent));
                below = parent;
            }
        }
    }

    /// Hashes were made of the address as somebody had it: as written in lower case, or of the comparing key, with or
    /// without its tag, the domain as A-label or U-label.
    fn offer_hashes<'a>(&'a self, found: &mut Strictest<'_, 'a>, recipient: &Address, key: Key<'_>) {
        let tagged = recipient.key(PlusTags::Distinct);
        let mut texts = vec![recipient.as_str().to_lowercase(), key.to_string(), tagged.to_string()];
        let domain = &domain_letters(key.domain);
        texts.extend([Key { domain, ..key }.to_string(), Key { domain, ..tagged }.to_string()]);
        // Mostly one and the same.
        texts.sort_unstable();
        texts.dedup();
        for text in texts {
            if self.has.sha256 {
                let digest: [u8; 32] = Sha256::digest(&text).into();
                self.offer(found, Kind::Sha256, self.hash(Kind::Sha256, &digest), Value::Sha256(digest));
            }
            if self.has.md5 {
                let digest: [u8; 16] = Md5::digest(&text).into();
                self.offer(found, Kind::Md5, self.hash(Kind::Md5, &digest), Value::Md5(digest));
            }
        }
    }

    fn offer_patterns<'a>(&'a self, found: &mut Strictest<'_, 'a>, recipient: &Address, key: Key<'_>) {
        let mut texts: Vec<_> = [key, recipient.key(PlusTags::Distinct)].iter().flat_map(Key::globbed).collect();
        if texts[0].starts_with('"') {
            // Whoever writes a glob does not think of the quotes that a local part needs.
            texts.extend([key.domain, &domain_letters(key.domain)].map(|domain| format!("{}@{domain}", key.local)));
        }
        texts.dedup();
        for pattern in &self.patterns {
            if texts.iter().any(|text| pattern.glob.matches(text)) {
                let about = Slot { hash: [0; 4], line: pattern.line, about: pattern.about };
                found.take(self.rule(&about, Kind::Pattern, Value::Text(&pattern.value)));
            }
        }
    }

    fn offer<'a>(&'a self, found: &mut Strictest<'_, 'a>, kind: Kind, hash: [u32; 4], value: Value<'a>) {
        for slot in self.table.find(hash) {
            found.take(self.rule(slot, kind, value));
        }
    }

    fn rule<'a>(&'a self, slot: &Slot, kind: Kind, value: Value<'a>) -> Rule<'a> {
        let record = self.record(slot);
        let file = &self.files[record.file].path;
        Rule { file, line: slot.line, kind, attributes: &record.attributes, value }
    }

    fn record(&self, slot: &Slot) -> &Record {
        &self.records[slot.about as usize]
    }

    fn hash_key(&self, key: Key<'_>) -> [u32; 4] {
        let mut hasher = self.hasher(Kind::Address);
        hasher.write(key.local.as_bytes());
        hasher.write(b"@");
        hasher.write(key.domain.as_bytes());
        halves(&hasher)
    }

    fn hash_order(&self, order: Order) -> [u32; 4] {
        self.hash(Kind::Order, &order.number().to_le_bytes())
    }

    fn hash(&self, kind: Kind, bytes: &[u8]) -> [u32; 4] {
        let mut hasher = self.hasher(kind);
        hasher.write(bytes);
        halves(&hasher)
    }

    fn hasher(&self, kind: Kind) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        (kind as u8).hash(&mut hasher);
        hasher
    }
}

fn halves(hasher: &SipHasher13) -> [u32; 4] {
    let (a, b) = hasher.finish128().as_u64();
    [(a >> 32) as u32, a as u32, (b >> 32) as u32, b as u32]
}

/// Collects the strictest rule that holds for one mail.
struct Strictest<'c, 'a> {
    context: &'c Context<'c>,
    best: Option<Rule<'a>>,
}

impl<'a> Strictest<'_, 'a> {
    fn take(&mut self, rule: Rule<'a>) {
        if !self.holds(rule.attributes) {
            return;
        }
        let stricter = self.best.is_none_or(|best| self.rank(&rule) > self.rank(&best));
        if stricter {
            self.best = Some(rule);
        }
    }

    /// By action; of equal actions the one without an end.
    fn rank(&self, rule: &Rule<'_>) -> (Action, bool) {
        (rule.attributes.action.unwrap_or(self.context.policy.action), rule.attributes.until.is_none())
    }

    /// An entry for some senders holds for the null sender too: whose mail it is cannot be told.
    fn holds(&self, attributes: &Attributes) -> bool {
        let in_time = attributes.until.is_none_or(|until| self.context.now <= until);
        in_time && (attributes.senders.is_empty() || self.is_sender(&attributes.senders))
    }

    fn is_sender(&self, globs: &[String]) -> bool {
        match self.context.sender {
            ReversePath::Null => true,
            ReversePath::Address(sender) => {
                let texts: Vec<_> =
                    [PlusTags::Distinct, PlusTags::Ignore].iter().flat_map(|tags| sender.key(*tags).globbed()).collect();
                globs.iter().map(|glob| WildMatch::new(glob)).any(|glob| texts.iter().any(|text| glob.matches(text)))
            }
        }
    }
}

/// Told apart in the start-up line.
impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_entries_say_is_kept_once() {
        let mut builder = Builder::new(PlusTags::Ignore);
        for file in ["a.csv", "b.csv"] {
            builder.file(Path::new(file));
            for line in 1..=1000 {
                let attributes = Attributes { since: Some(format!("2020-01-{:02}", line % 10)), ..Attributes::default() };
                builder.add(line, Subject::guess(&format!("{line}@{file}.example")).unwrap(), attributes);
            }
        }
        let list = builder.finish();
        assert_eq!((list.len(), list.written.records.len()), (2000, 22), "ten days a file, and one for entries that say nothing");
        let recipient = Address::parse("17@b.csv.example").unwrap();
        let sender = ReversePath::Null;
        let policy = super::super::Policy::default();
        let context = Context {
            sender: &sender,
            now: jiff::Timestamp::UNIX_EPOCH,
            title: super::super::Title::NotYet,
            orders: &[],
            policy: &policy,
        };
        let rule = list.strictest(&recipient, &context).unwrap();
        assert_eq!((rule.file, rule.line, rule.attributes.since.as_deref()), (Path::new("b.csv"), 17, Some("2020-01-07")));
    }
}

//! Exact entries by their hash: one sorted array, and a directory of where each stretch of hashes begins. Never knows
//! what a hash stands for.
//!
//! Ten million entries take 250 MB and a look-up two cache misses. A hash table takes 420 MB for them and 630 MB while it
//! grows, which with the former list still in force is more than a small machine has.

/// Where an entry stands and what is beside it; 24 bytes, for there are millions.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Spread evenly: the output of a keyed hash function.
    pub hash: [u32; 4],
    /// Line in its file.
    pub line: u32,
    /// Index into the records of the list.
    pub about: u32,
}

/// Slots in the order of their hashes.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    /// `starts[n]..starts[n + 1]` are the slots whose hashes begin with the `bits` bits of `n`: four to eight of them.
    starts: Vec<u32>,
    bits: u32,
}

impl Table {
    /// Takes slots in the order of their hashes.
    pub fn of_sorted(slots: Vec<Slot>) -> Self {
        let bits = slots.len().max(4).ilog2() - 2;
        let mut starts = vec![0; (1 << bits) + 1];
        for slot in &slots {
            starts[stretch(slot.hash, bits) + 1] += 1;
        }
        for n in 1..starts.len() {
            starts[n] += starts[n - 1];
        }
        Self { slots, starts, bits }
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// All slots of one hash.
    pub fn find(&self, hash: [u32; 4]) -> impl Iterator<Item = &Slot> {
        let near = match self.starts.get(stretch(hash, self.bits)..) {
            Some([from, to, ..]) => &self.slots[*from as usize..*to as usize],
            _ => &[],
        };
        near.iter().filter(move |slot| slot.hash == hash)
    }
}

fn stretch(hash: [u32; 4], bits: u32) -> usize {
    (u64::from(hash[0]) >> (32 - bits)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_found_and_no_other() {
        for size in [0_u32, 1, 2, 7, 8, 100, 5_000] {
            let hash = |n: u32| [n.wrapping_mul(0x9E37_79B9), n, 0, 0];
            let mut slots: Vec<_> = (0..size).map(|line| Slot { hash: hash(line), line, about: 0 }).collect();
            slots.extend_from_within(..size as usize / 2);
            slots.sort_by_key(|slot| slot.hash);
            let table = Table::of_sorted(slots);
            for n in 0..size {
                let found: Vec<_> = table.find(hash(n)).map(|slot| slot.line).collect();
                assert_eq!(found, vec![n; if n < size / 2 { 2 } else { 1 }]);
            }
            assert_eq!(table.find(hash(size)).count() + table.find([u32::MAX; 4]).count(), 0);
            assert_eq!(table.len(), (size + size / 2) as usize);
        }
        assert_eq!(Table::default().find([0; 4]).count(), 0);
    }
}

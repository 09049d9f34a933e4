//! The cost of the tokens that a full-text table extracts from a text.
//!
//! FTS5 collects the tokens of a statement in a hash table. Its hash function is known and has no key, so a text can be
//! made whose tokens all have the same hash: then each of them is compared with all before it. So this module counts
//! tokens by their hash, and each token pays for those that it may be compared with.
//!
//! Invariant: K1 the charge follows from the statement, the schema and the content alone: it is the same on every node.
//! K2 no token is compared with more others than it pays for: FTS5 never has fewer than [`SLOTS`] slots.
//! Not here: the pages that FTS5 writes (`writes.rs`), how tokens are seen (crates/sqlite-ffi).

use sqlite_ffi::fts5::Seen;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Steps for a token that occurred before in this statement and index: 50 ns, and 200 ns or more among tens of
/// thousands.
const KNOWN: u64 = 300;
/// A token that is new, with its share of sorting and writing: 1,200 ns where there are 100,000 of them.
const NEW: u64 = 1_500;
/// Each byte of a token; each byte of a text; each other token in the same slot: 4 ns.
const BYTE: u64 = 5;
const TEXT_BYTE: u64 = 2;
const COLLISION: u64 = 5;
/// Slots of the smallest hash table of FTS5: those of its integrity check. That of an index has 1,024 and more.
const SLOTS: usize = 512;
/// The byte that FTS5 puts before the tokens of the main index.
const MAIN_INDEX: u8 = b'0';

/// The full-text tables that a statement writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenText {
    pub tables: u32,
    /// Lengths of the tokens in their prefix indexes, in characters.
    pub prefixes: BTreeSet<usize>,
}

/// Runs `work`, in which each token is charged. `left`: the steps of the command that are left; a token for which there
/// are not enough ends the statement. `flushes`: how often FTS5 has written what it had collected.
pub fn charged<T>(left: Arc<AtomicI64>, flushes: Arc<AtomicU64>, written: WrittenText, work: impl FnOnce() -> T) -> T {
    let mut tokens = Tokens::new(written);
    let mut flushed = flushes.load(Relaxed);
    let watcher = move |seen: Seen<'_>| {
        let steps = match seen {
            Seen::Text(bytes) => TEXT_BYTE * bytes as u64,
            Seen::Token(token) => {
                // What was written is new to the hash table when it comes again.
                if flushes.load(Relaxed) != flushed {
                    flushed = flushes.load(Relaxed);
                    tokens.known.clear();
                }
                tokens.add_all(token)
            }
        };
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        left.fetch_sub(steps, Relaxed) >= steps
    };
    sqlite_ffi::fts5::watch(Box::new(watcher), work)
}

/// The tokens of a statement. One table stands for those of all full-text tables that the statement writes to: a token
/// counts as new as often as there are such tables, and pays for its slot whether it is there already or not.
struct Tokens {
    written: WrittenText,
    /// How many indexes a token may go to.
    indexes: u64,
    slots: Vec<u32>,
    /// How often each token was added since FTS5 wrote last.
    known: BTreeMap<u64, u32>,
}

impl Tokens {
    fn new(written: WrittenText) -> Tokens {
        let indexes = 1 + written.prefixes.len() as u64;
        Tokens { written, indexes, slots: vec![0; SLOTS], known: BTreeMap::new() }
    }

    /// The steps that a token costs in the main index and in the prefix indexes.
    fn add_all(&mut self, token: &[u8]) -> u64 {
        let mut steps = self.add(0, token);
        let is_end = |at: usize| token.get(at).is_none_or(|byte| *byte & 0xC0 != 0x80);
        let mut ends = (1..=token.len()).filter(|at| is_end(*at));
        let mut before = 0;
        let prefixes = std::mem::take(&mut self.written.prefixes);
        for length in &prefixes {
            // A token with fewer characters has no such prefix, and no longer one.
            let Some(end) = length.checked_sub(before + 1).and_then(|skipped| ends.nth(skipped)) else { break };
            steps += self.add(*length, &token[..end]);
            before = *length;
        }
        self.written.prefixes = prefixes;
        steps
    }

    /// The steps that a token costs in one index.
    fn add(&mut self, index: usize, token: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (index, token).hash(&mut hasher);
        let times = self.known.entry(hasher.finish()).or_default();
        *times += 1;
        let slot = &mut self.slots[hash(token) as usize % SLOTS];
        let chain = u64::from(*slot);
        if *times == 1 {
            *slot += 1;
        }
        // Tokens of several indexes may meet in a slot of FTS5's that are in different ones here.
        let linear = if *times <= self.written.tables { NEW } else { KNOWN };
        linear + BYTE * token.len() as u64 + COLLISION * chain * self.indexes
    }
}

/// FTS5's hash function.
fn hash(token: &[u8]) -> u32 {
    let hash = token.iter().rev().fold(13, |hash: u32, byte| (hash << 3) ^ hash ^ u32::from(*byte));
    (hash << 3) ^ hash ^ u32::from(MAIN_INDEX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prefixes: &[usize]) -> Tokens {
        Tokens::new(WrittenText { tables: 1, prefixes: prefixes.iter().copied().collect() })
    }

    #[test]
    fn tokens_of_one_slot_cost_more_with_each_of_them() {
        let mut all = tokens(&[]);
        let same = |n: &u32| hash(n.to_string().as_bytes()) % 4_096 == 7;
        let numbers: Vec<u32> = (0..3_000_000).filter(same).take(600).collect();
        let costs: Vec<u64> = numbers.iter().map(|n| all.add_all(n.to_string().as_bytes())).collect();
        let linear = |n: &u32| NEW + BYTE * n.to_string().len() as u64;
        for (before, (number, cost)) in numbers.iter().zip(costs).enumerate() {
            assert_eq!(cost, linear(number) + COLLISION * before as u64);
        }
        let again = all.add_all(numbers[0].to_string().as_bytes());
        assert_eq!(again, linear(&numbers[0]) - NEW + KNOWN + COLLISION * numbers.len() as u64);
    }

    #[test]
    fn prefixes_are_cut_at_characters() {
        let mut all = tokens(&[1, 2, 3, 4, 999]);
        all.add_all("aé中".as_bytes());
        assert_eq!(all.known.len(), 4, "the token, and prefixes of one, two and three characters");
        assert_eq!(all.written.prefixes.len(), 5);
        let mut none = tokens(&[999]);
        assert_eq!(none.add_all(b"ab"), NEW + 2 * BYTE);
    }
}

//! The cost of the tokens that a full-text table extracts from a text.
//!
//! FTS5 collects the tokens of a statement in a hash table. Its hash function is known and has no key, so a text can be
//! constructed whose tokens all have the same hash: then each of them is compared with all before it. So this module
//! maintains a model of FTS5's hash table, and each token is charged for the length of the chain in its slot.
//!
//! Invariant: K1 the charge follows from the statement, the schema and the content alone: it is the same on every node.
//! Not here: the pages that FTS5 writes (`fulltext_writes.rs`), how tokens are seen (crates/fts5-watch).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Steps for a token that occurred before in this statement and index: 50 ns, and 200 ns or more among tens of
/// thousands.
const KNOWN: u64 = 300;
/// Steps for a new token, including its share of sorting and writing: 1,200 ns among 100,000 tokens.
const NEW: u64 = 1_500;
/// Steps for each byte of a token, and for each other token in the same slot: 4 ns.
const BYTE: u64 = 5;
const COLLISION: u64 = 6;
/// Initial number of slots in FTS5's hash table; it doubles when there are half as many tokens as slots.
const SLOTS: usize = 1_024;
/// The byte that FTS5 puts before the tokens of the main index. Those of prefix indexes follow.
const MAIN_INDEX: u8 = b'0';

/// The full-text tables that a statement writes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub tables: u32,
    /// Lengths of the tokens in their prefix indexes, in characters.
    pub prefixes: Vec<usize>,
}

/// Runs `work` and charges each token. `left`: the steps of the command that are left; a token for which there are not
/// enough ends the statement.
pub fn charged<T>(left: Arc<AtomicI64>, written: Written, work: impl FnOnce() -> T) -> T {
    let mut hashed = HashTable::new(written.tables);
    let on_token = move |token: &[u8]| {
        let mut steps = hashed.add(MAIN_INDEX, token);
        for (index, characters) in (MAIN_INDEX + 1..).zip(&written.prefixes) {
            if let Some(prefix) = prefix(token, *characters) {
                steps += hashed.add(index, prefix);
            }
        }
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        left.fetch_sub(steps, Relaxed) >= steps
    };
    fts5_watch::watch(Box::new(on_token), work)
}

/// The first characters of a token, as FTS5 counts them; `None` if it has fewer.
fn prefix(token: &[u8], characters: usize) -> Option<&[u8]> {
    let is_continued = |byte: &u8| *byte & 0xC0 == 0x80;
    let mut ends = (1..=token.len()).filter(|at| !token.get(*at).is_some_and(is_continued));
    ends.nth(characters.checked_sub(1)?).map(|end| &token[..end])
}

/// The number of tokens in each slot of a hash table like FTS5's. One model covers all tables that a statement writes
/// to: a token is charged for the chain in its slot whether or not it is already there, and counts as new as often as
/// there are tables.
struct HashTable {
    tables: u32,
    slots: Vec<u32>,
    hashes: Vec<u32>,
    /// How often each token was added.
    known: BTreeMap<u64, u32>,
}

impl HashTable {
    fn new(tables: u32) -> HashTable {
        HashTable { tables, slots: vec![0; SLOTS], hashes: Vec::new(), known: BTreeMap::new() }
    }

    /// The steps that a token costs.
    fn add(&mut self, index: u8, token: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (index, token).hash(&mut hasher);
        let times = self.known.entry(hasher.finish()).or_default();
        *times += 1;
        let (is_new, is_charged_as_new) = (*times == 1, *times <= self.tables);
        let hash = hash(index, token);
        if is_new && self.hashes.len() * 2 >= self.slots.len() {
            let mut slots = vec![0; self.slots.len() * 2];
            let count = slots.len();
            self.hashes.iter().for_each(|hash| slots[*hash as usize % count] += 1);
            self.slots = slots;
        }
        let at = hash as usize % self.slots.len();
        let chain = u64::from(self.slots[at]);
        if is_new {
            self.slots[at] += 1;
            self.hashes.push(hash);
        }
        (if is_charged_as_new { NEW } else { KNOWN }) + BYTE * token.len() as u64 + COLLISION * chain
    }
}

/// FTS5's hash function.
fn hash(index: u8, token: &[u8]) -> u32 {
    let hash = token.iter().rev().fold(13, |hash: u32, byte| (hash << 3) ^ hash ^ u32::from(*byte));
    (hash << 3) ^ hash ^ u32::from(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_one_slot_cost_more_with_each_of_them() {
        let mut table = HashTable::new(1);
        let same = |n: &u32| hash(MAIN_INDEX, n.to_string().as_bytes()) % 4_096 == 7;
        let tokens: Vec<u32> = (0..3_000_000).filter(same).take(600).collect();
        let costs: Vec<u64> = tokens.iter().map(|n| table.add(MAIN_INDEX, n.to_string().as_bytes())).collect();
        let linear = |n: &u32| NEW + BYTE * n.to_string().len() as u64;
        for (before, (token, cost)) in tokens.iter().zip(costs).enumerate() {
            assert_eq!(cost, linear(token) + COLLISION * before as u64);
        }
        let again = table.add(MAIN_INDEX, tokens[0].to_string().as_bytes());
        assert_eq!(again, linear(&tokens[0]) - NEW + KNOWN + COLLISION * tokens.len() as u64);
    }

    #[test]
    fn ordinary_tokens_meet_short_chains() {
        let mut table = HashTable::new(1);
        let total: u64 = (0..50_000_u64).map(|n| table.add(MAIN_INDEX, format!("word{n}").as_bytes())).sum();
        assert!(total < 50_000 * (NEW + BYTE * 9 + COLLISION), "{total}");
    }

    #[test]
    fn a_prefix_is_cut_at_a_character() {
        let of =
            |characters| prefix("aé中".as_bytes(), characters).map(|found| String::from_utf8_lossy(found).into_owned());
        assert_eq!([of(1), of(2), of(3), of(4)], [Some("a".into()), Some("aé".into()), Some("aé中".into()), None]);
    }
}

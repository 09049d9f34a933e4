//! Cursors of SCAN: the number that a client sends back, and the key after which its scan continues.
//!
//! The store pages through keys in order and continues after a key; cursors of Redis are numbers. An unknown number (of
//! another node, or forgotten) restarts the scan: the client may see a key twice, which SCAN allows, and never misses
//! one. Each process uses different numbers, and they fit into a double, in which some clients store them.

use crate::limits::RESP_CURSORS_MAX;
use crate::node::shared::lock;
use std::collections::VecDeque;
use std::sync::Mutex;

/// Low bits, which count; the bits above are random, drawn when the process starts.
const COUNT_BITS: u32 = 28;
/// Numbers before they repeat.
const COUNTS: u64 = 1 << COUNT_BITS;
/// Bits of a cursor in all.
const CURSOR_BITS: u32 = 52;

/// The newest cursors of this node.
#[derive(Debug)]
pub struct Cursors {
    origin: u64,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Number of the newest, within [`COUNT_BITS`].
    newest: u64,
    /// Newest last.
    keys: VecDeque<Vec<u8>>,
}

impl Cursors {
    /// `random_bits`: so that numbers of different processes differ.
    pub fn new(random_bits: u64) -> Cursors {
        let bits = (random_bits | 1) % (1 << (CURSOR_BITS - COUNT_BITS));
        Cursors { origin: bits << COUNT_BITS, known: Mutex::default() }
    }

    /// The cursor of a scan that continues after `last`.
    pub fn remember(&self, last: &[u8]) -> u64 {
        let mut known = lock(&self.known);
        if known.keys.len() == RESP_CURSORS_MAX {
            known.keys.pop_front();
        }
        known.keys.push_back(last.to_vec());
        known.newest = (known.newest + 1) % COUNTS;
        self.origin + known.newest
    }

    /// The key after which the scan continues; `None`: from the beginning.
    pub fn find(&self, cursor: u64) -> Option<Vec<u8>> {
        let number = cursor.checked_sub(self.origin).filter(|number| *number < COUNTS)?;
        let known = lock(&self.known);
        let age = (known.newest + COUNTS - number) % COUNTS;
        let place = known.keys.len().checked_sub(age as usize + 1)?;
        known.keys.get(place).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_its_key_as_often_as_it_is_asked() {
        let cursors = Cursors::new(u64::MAX);
        let (a, b) = (cursors.remember(b"a"), cursors.remember(b"b"));
        assert_ne!(a, b);
        assert!(a < 1 << 53, "{a} fits into a double");
        assert_eq!(cursors.find(a).as_deref(), Some(&b"a"[..]));
        assert_eq!(cursors.find(a).as_deref(), Some(&b"a"[..]));
        assert_eq!(cursors.find(b).as_deref(), Some(&b"b"[..]));
    }

    #[test]
    fn an_unknown_number_begins_anew_and_the_oldest_is_forgotten() {
        let (here, there) = (Cursors::new(5), Cursors::new(9));
        let first = here.remember(b"k");
        assert_eq!(there.find(first), None, "another node's");
        assert_eq!((here.find(0), here.find(u64::MAX)), (None, None));
        for _ in 0..RESP_CURSORS_MAX {
            here.remember(b"x");
        }
        assert_eq!(here.find(first), None);
    }
}

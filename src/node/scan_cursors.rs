//! Cursors of SCAN: the number that a client sends back, and the key after which its scan continues.
//!
//! The store pages through keys in order and continues after a key; cursors of Redis are numbers. A node keeps the keys
//! of its newest cursors, and each cursor contains the number of its node: another node that gets it (through a
//! balancer) asks that one for the key. If no node knows the key (the node has restarted, does not answer in time, or has
//! forgotten it), the scan starts again: its client may see a key twice, which SCAN allows, and never misses one.
//! Each process uses different numbers, and they fit into a double, in which some clients store them.
//! Not here: how nodes ask each other (`handle.rs`, `peer/acceptor.rs`).

use crate::limits::RESP_CURSORS_MAX;
use crate::lock::{Mutex, lock, wait_while};
use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Condvar;
use std::time::Instant;

/// Low bits, which count.
const COUNT_BITS: u32 = 25;
/// Numbers before they repeat.
const COUNTS: u64 = 1 << COUNT_BITS;
/// The bits above are the node's number.
const NODE_BITS: u32 = 10;
/// The bits above those are random, drawn when the process starts.
const CHANCE_BITS: u32 = 18;

/// The newest cursors of this node, and what it asks others.
#[derive(Debug)]
pub struct ScanCursors {
    me: NodeId,
    /// All bits but those that count.
    origin: u64,
    known: Mutex<KeptPositions>,
    /// Cursors of other nodes that clients of this one wait for; `Some`: the answer.
    asked: Mutex<BTreeMap<u64, Option<Position>>>,
    answered: Condvar,
}

/// The key after which a scan continues; `None`: it starts again.
pub type Position = Option<Vec<u8>>;

#[derive(Debug, Default)]
struct KeptPositions {
    /// Number of the newest, within [`COUNT_BITS`].
    newest: u64,
    /// Newest last.
    keys: VecDeque<Vec<u8>>,
}

/// Where the position of a cursor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorPlace {
    Here(Position),
    /// On another node.
    At(NodeId),
}

impl ScanCursors {
    /// `chance`: random bits, so that numbers of different processes differ.
    pub fn new(me: NodeId, chance: u64) -> ScanCursors {
        let chance = (chance | 1) % (1 << CHANCE_BITS);
        ScanCursors {
            me,
            origin: (chance << NODE_BITS | me.0) << COUNT_BITS,
            known: Mutex::default(),
            asked: Mutex::default(),
            answered: Condvar::new(),
        }
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

    /// Where the position of this cursor is. 0 begins a scan.
    pub fn find(&self, cursor: u64) -> CursorPlace {
        let node = NodeId(cursor >> COUNT_BITS & ((1 << NODE_BITS) - 1));
        match node {
            _ if cursor == 0 => CursorPlace::Here(None),
            node if node == self.me => CursorPlace::Here(self.own(cursor)),
            node => CursorPlace::At(node),
        }
    }

    /// The position of one of this node's own cursors.
    pub fn own(&self, cursor: u64) -> Position {
        let number = cursor.checked_sub(self.origin).filter(|number| *number < COUNTS)?;
        let known = lock(&self.known);
        let age = (known.newest + COUNTS - number) % COUNTS;
        let place = known.keys.len().checked_sub(age as usize + 1)?;
        known.keys.get(place).cloned()
    }

    /// Another node is about to be asked for the position of this cursor.
    pub fn expect(&self, cursor: u64) {
        lock(&self.asked).entry(cursor).or_default();
    }

    /// Another node's answer; ignored if no request waits for it.
    pub fn on_answer(&self, cursor: u64, position: Position) {
        if let Some(answer) = lock(&self.asked).get_mut(&cursor) {
            *answer = Some(position);
            self.answered.notify_all();
        }
    }

    /// Waits for the answer; without one the scan starts again.
    pub fn wait(&self, cursor: u64, deadline: Instant) -> Position {
        let is_open = |asked: &mut BTreeMap<u64, Option<Position>>| matches!(asked.get(&cursor), Some(None));
        let mut asked = wait_while(&self.answered, lock(&self.asked), deadline, is_open);
        // Another client may wait for the same cursor: it starts again without the answer.
        asked.remove(&cursor).flatten().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn here(position: &[u8]) -> CursorPlace {
        CursorPlace::Here(Some(position.to_vec()))
    }

    #[test]
    fn a_number_stands_for_its_key_as_often_as_it_is_asked() {
        let cursors = ScanCursors::new(NodeId(NodeId::MAX), u64::MAX);
        let (a, b) = (cursors.remember(b"a"), cursors.remember(b"b"));
        assert_ne!(a, b);
        assert!(a < 1 << 53, "{a} fits into a double");
        assert_eq!((cursors.find(a), cursors.find(a), cursors.find(b)), (here(b"a"), here(b"a"), here(b"b")));
    }

    #[test]
    fn an_unknown_number_begins_anew_and_the_oldest_is_forgotten() {
        let (before, now) = (ScanCursors::new(NodeId(1), 5), ScanCursors::new(NodeId(1), 9));
        let first = now.remember(b"k");
        assert_eq!(before.find(first), CursorPlace::Here(None), "an earlier process");
        assert_eq!(now.find(0), CursorPlace::Here(None));
        for _ in 0..RESP_CURSORS_MAX {
            now.remember(b"x");
        }
        assert_eq!(now.find(first), CursorPlace::Here(None));
    }

    #[test]
    fn the_number_names_its_node_which_is_asked() {
        let (one, two) = (ScanCursors::new(NodeId(1), 5), ScanCursors::new(NodeId(2), 5));
        let cursor = one.remember(b"k");
        assert_eq!(two.find(cursor), CursorPlace::At(NodeId(1)));
        two.on_answer(cursor, Some(b"nobody asked".to_vec()));
        two.expect(cursor);
        two.on_answer(cursor, one.own(cursor));
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(two.wait(cursor, soon), Some(b"k".to_vec()));
        two.expect(cursor);
        assert_eq!(two.wait(cursor, soon), None, "no answer in time");
        assert!(lock(&two.asked).is_empty());
    }
}

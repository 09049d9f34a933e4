//! A broken rule, and what all checks need: names of commands and a stable hash.

use crate::services::sessions::Tag;

/// A rule that was broken, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: &'static str,
    /// What happened, for a person.
    pub what: String,
}

/// `Ok` while no rule is broken.
pub type CheckResult<T = ()> = Result<T, Violation>;

/// The result that a rule is broken: the rule's name, then what happened as `format!` takes it.
macro_rules! violation {
    ($rule:expr, $($what:tt)+) => {
        Err($crate::sim::violation::Violation { rule: $rule, what: format!($($what)+) })
    };
}
pub(crate) use violation;

/// A hash whose value depends only on what is added (the standard library's may change between versions).
#[derive(Clone, Copy, Debug)]
pub struct Hash(u64);

impl Hash {
    /// Starts from any number.
    pub fn new(from: u64) -> Hash {
        Hash(from ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Adds a number (the mixer of SplitMix64).
    pub fn add(&mut self, value: u64) {
        let mut mixed = (self.0.rotate_left(5) ^ value).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = mixed ^ (mixed >> 31);
    }

    /// Adds bytes, with their length.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    pub fn end(self) -> u64 {
        self.0
    }
}

/// Origin and number of a command.
pub type Name = (u128, u64);

/// The name of a tagged command.
pub fn name(tag: &Tag) -> Name {
    (tag.origin.as_u128(), tag.number)
}

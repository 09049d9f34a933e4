//! Planted bugs of this module, for the simulator to find; outside tests every one of them is constant false.

use super::Options;

/// One switch per known mistake.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The vote and the term go into two records: a crash between them leaves the vote of one term under another.
    pub vote_in_its_own_record: bool,
    /// An entry that replaces a suffix replaces only the entry of its own index when the log is read again.
    pub replay_resurrects_truncated: bool,
    /// Whatever is damaged, the log is cut there and goes on.
    pub damage_is_torn_tail: bool,
    /// A failed sync is tried again, and believed if it works then.
    pub retry_failed_sync: bool,
}

/// Stands in for the switches outside tests.
#[cfg(not(test))]
pub struct Flaws {
    /// Never set.
    pub vote_in_its_own_record: bool,
    /// Never set.
    pub replay_resurrects_truncated: bool,
    /// Never set.
    pub damage_is_torn_tail: bool,
    /// Never set.
    pub retry_failed_sync: bool,
}

impl Options {
    /// Whether a planted bug is on; constant false outside tests.
    #[cfg(test)]
    pub(crate) fn flaw(&self, pick: fn(&Flaws) -> bool) -> bool {
        pick(&self.flaws)
    }

    /// Whether a planted bug is on; constant false outside tests.
    #[cfg(not(test))]
    #[inline(always)]
    pub(crate) fn flaw(&self, _pick: fn(&Flaws) -> bool) -> bool {
        false
    }
}

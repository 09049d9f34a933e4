//! Planted bugs of the database, for the simulator to find.
//!
//! Not here: how the simulator is aimed at each (`sim/planted.rs`).

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// `now` is this node's own clock.
    pub local_ms: Option<u64>,
    /// `random()` draws from a source of this node's own, which this number names.
    pub own_chance: Option<u64>,
    /// What the file has already is run once more when the log is replayed.
    pub entries_run_again: bool,
    /// The database is no part of the snapshot.
    pub left_out_of_snapshot: bool,
}

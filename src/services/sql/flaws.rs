//! Planted bugs of the database, for the simulator to find.
//!
//! Not here: how the simulator is aimed at each (`sim/planted_bugs.rs`).

/// Which of them are switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// `now` is this node's own clock.
    pub local_ms: Option<u64>,
    /// `now` is this node's own clock where it is not spelled in small letters: a guard that looks at one spelling.
    pub overlooked_now_ms: Option<u64>,
    /// The columns of an answer are those of the prepared statement before it has seen the schema.
    pub columns_before_first_step: bool,
    /// `random()` draws from a source of this node's own, which this number names.
    pub own_chance: Option<u64>,
    /// What the file has already is run once more when the log is replayed.
    pub entries_run_again: bool,
    /// Statements change the settings of full-text tables, as they could in databases that are older than that rule.
    pub settings_are_free: bool,
    /// The database is no part of the snapshot.
    pub left_out_of_snapshot: bool,
}

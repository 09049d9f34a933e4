//! What a node reports to the others about its log, for the witnesses among them.
//!
//! Not here: what follows from it (`sim/steps/witnesses.rs`).

use crate::types::Index;

/// The last report of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogReport {
    /// Its disk has the committed log up to here.
    pub held: Index,
    /// Its log is cut up to here.
    pub cut: Index,
}

//! What a node tells the others about its log, for the witnesses among them.
//!
//! Not here: what follows from it (`sim/steps/witnesses.rs`).

use crate::types::Index;

/// What a node has told last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Its disk has the committed log up to here.
    pub held: Index,
    /// Its log is cut up to here.
    pub cut: Index,
}

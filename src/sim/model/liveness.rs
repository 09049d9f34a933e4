//! The state of the last phase of a run, in which faults have stopped and progress must return.

use crate::types::Term;

/// The state of that phase.
#[derive(Debug, Default)]
pub struct LivenessPhase {
    /// When faults stopped.
    pub(crate) began: u64,
    /// Clients start nothing new.
    pub clients_stopped: bool,
    pub(crate) stopped_at: u64,
    /// When all conditions held for the first time; the highest term then, and how often workers had joined or left.
    pub(crate) settled: Option<(u64, Term, u64)>,
}

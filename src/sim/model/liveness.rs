//! Where the last phase of a run stands, in which faults have stopped and progress must return.

use crate::types::Term;

/// What the end knows.
#[derive(Debug, Default)]
pub struct LivenessPhase {
    /// When faults stopped.
    pub(crate) began: u64,
    /// Clients start nothing new.
    pub clients_stopped: bool,
    pub(crate) stopped_at: u64,
    /// Everything asked for was true for the first time; the highest term then, and how often workers had come or gone.
    pub(crate) settled: Option<(u64, Term, u64)>,
}

//! Planted bugs of the jobs, each behind a switch that exists in tests alone: the simulator must find every one.
//!
//! The code asks `flaw!(self, name)`, which is the constant `false` outside tests. No switch is part of a snapshot.
//! Not here: mistakes of workers and of the leader that calls the roll (`sim/model/host.rs`).

/// One switch per planted bug; all off by default.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// An end of an earlier attempt counts, if its worker has the job again.
    pub old_attempts_end: bool,
    /// An end counts whoever tells it, also from a worker whose jobs have gone on to others.
    pub ends_of_the_lost_count: bool,
    /// A worker that leaves keeps its jobs.
    pub leave_forgets_jobs: bool,
    /// A worker gets as many jobs as there are.
    pub slots_are_not_counted: bool,
    /// A job that has ended may end again.
    pub ended_may_end: bool,
}

/// Whether a test switched this planted bug on.
macro_rules! flaw {
    ($table:expr, $name:ident) => {{
        #[cfg(test)]
        let is_on = $table.flaws.$name;
        #[cfg(not(test))]
        let is_on = false;
        is_on
    }};
}
pub(crate) use flaw;

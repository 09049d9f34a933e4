//! Known Raft mistakes, each behind a switch that exists in tests alone: the simulator must find every one.
//!
//! The code asks `flaw!(config, name)`, which is the constant `false` outside tests, so a release carries none of this.
//! Not here: bugs planted in the disk, the services or the host; their rooms have their own switches.

/// One switch per planted bug; all off by default.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// A candidate or leader that becomes a follower in the same term forgets whom it voted for.
    pub forget_vote_on_step_down: bool,
    /// Votes, acceptances and terms leave at once instead of after the sync.
    pub answer_before_sync: bool,
    /// A leader commits an entry of an earlier term by counting copies (figure 8 of the Raft paper).
    pub commit_old_term: bool,
    /// A follower cuts everything after `prev_index` before it appends, conflict or not.
    pub truncate_after_prev: bool,
    /// A follower acknowledges its own last index instead of `prev + len`.
    pub ack_own_last_index: bool,
    /// A vote that arrives twice counts twice.
    pub count_duplicate_vote: bool,
    /// Learners' copies count towards commit.
    pub count_learner: bool,
    /// Answers from earlier sessions and from the id's earlier identity count.
    pub count_earlier_session: bool,
    /// Votes are given without looking at the candidate's log.
    pub skip_log_freshness: bool,
    /// A node refuses every candidate of a lower id than its own.
    pub priority_vetoes: bool,
    /// Reads are served before an entry of the leader's term is committed.
    pub read_before_own_commit: bool,
    /// A read joins a round that left before the read came.
    pub reuse_read_context: bool,
    /// Membership changes before an entry of the leader's term is committed.
    pub change_before_own_commit: bool,
    /// A second membership change while the first is not committed.
    pub two_changes: bool,
    /// An installed snapshot does not bring its membership.
    pub snapshot_loses_membership: bool,
    /// An installed snapshot keeps a suffix that conflicts with it.
    pub snapshot_keeps_conflict: bool,
    /// A leadership transfer that its target never took stays "in progress".
    pub transfer_never_cleared: bool,
    /// `TimeoutNow` of an older term, or for another log, is obeyed.
    pub late_transfer_obeyed: bool,
    /// Messages of unknown identities are accepted.
    pub hears_strangers: bool,
    /// Every term is believed, and after the last one comes 0.
    pub terms_wrap: bool,
}

/// Whether a test switched this planted bug on: `flaw!(self.config, commit_old_term)`.
macro_rules! flaw {
    ($config:expr, $name:ident) => {{
        #[cfg(test)]
        let is_on = $config.flaws.$name;
        #[cfg(not(test))]
        let is_on = false;
        is_on
    }};
}

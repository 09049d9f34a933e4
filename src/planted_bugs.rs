//! Known mistakes, each behind a switch that exists in tests and in builds with the feature `planted-bugs` alone: the
//! simulator and the tests of each module must find every one.
//!
//! The code asks `is_planted!(holder, name)`, which is the constant `false` in every other build, so a release carries
//! none of this; the switches are in the holder's field `bugs`, which does not exist there. No switch is part of a
//! snapshot. Not here: bugs of virtual hosts and clients (`sim/model/`), how the simulator is aimed at each bug
//! (`sim/planted_bugs/`).

/// Bugs of the consensus core. All are off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaftBugs {
    /// A candidate or leader that becomes a follower in the same term forgets its vote.
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
    /// A hand-over that its target never took stays "in progress".
    pub transfer_never_cleared: bool,
    /// `TimeoutNow` of an older term, or for another log, is obeyed.
    pub late_transfer_obeyed: bool,
    /// Messages of unknown identities are accepted.
    pub hears_unknown_senders: bool,
    /// Every term is believed, and after the last one comes 0.
    pub terms_wrap: bool,
}

/// Bugs of discovery. All are off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryBugs {
    /// Hosts that have answered need not agree: a minority of `peers` bootstraps.
    pub minority_bootstraps: bool,
    /// The right to bootstrap is not claimed from the others.
    pub claims_nothing: bool,
}

/// Bugs of the disk format and of recovery. All are off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreBugs {
    /// The vote and the term go into two records: a crash between them leaves the vote of one term under another.
    pub vote_in_its_own_record: bool,
    /// An entry that replaces a suffix replaces only the entry of its own index when the log is read again.
    pub replay_resurrects_truncated: bool,
    /// At any damage the log is cut there and the node continues.
    pub damage_is_torn_tail: bool,
    /// A failed sync is tried again, and believed if it works then.
    pub retry_failed_sync: bool,
}

/// Bugs of the jobs. Those of workers, and of the leader that looks for workers, are in `sim/model/host.rs`. All are
/// off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobsBugs {
    /// An end of an earlier attempt counts, if its worker has the job again.
    pub old_attempts_end: bool,
    /// An end counts whichever worker reports it, also one whose jobs have been given to other workers.
    pub ends_of_the_lost_count: bool,
    /// A worker that leaves keeps its jobs.
    pub leave_forgets_jobs: bool,
    /// A worker gets as many jobs as there are.
    pub slots_are_not_counted: bool,
    /// A job that has ended may end again.
    pub ended_may_end: bool,
}

/// Bugs of the database. All are off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SqlBugs {
    /// `now` is this node's own clock.
    pub local_ms: Option<u64>,
    /// `now` is this node's own clock where it is not spelled in small letters: a guard that looks at one spelling.
    pub overlooked_now_ms: Option<u64>,
    /// The columns of an answer are those of the prepared statement before it has seen the schema.
    pub columns_before_first_step: bool,
    /// `random()` starts from this number of the node as well as from the seed in the log.
    pub random_seed: Option<u64>,
    /// What the file has already is run once more when the log is replayed.
    pub entries_run_again: bool,
    /// Statements change the settings of full-text tables, as they could in databases that are older than that rule.
    pub settings_are_free: bool,
    /// The snapshot does not contain the database.
    pub left_out_of_snapshot: bool,
}

/// Bugs of the chat. All are off by default.
#[cfg(any(test, feature = "planted-bugs"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChatBugs {
    /// A message that is sent again under its client's id is delivered again.
    pub repeats_are_delivered: bool,
    /// The number of a message is that of the newest which is kept, plus one: an erased end gives its number to the next.
    pub numbers_are_counted: bool,
    /// The snapshot omits the read positions of all users.
    pub read_marks_are_not_saved: bool,
}

/// Whether a test switched this planted bug on: `is_planted!(self.config, commit_old_term)`.
macro_rules! is_planted {
    ($holder:expr, $name:ident) => {{
        #[cfg(any(test, feature = "planted-bugs"))]
        let is_on = $holder.bugs.$name;
        #[cfg(not(any(test, feature = "planted-bugs")))]
        let is_on = false;
        is_on
    }};
}
pub(crate) use is_planted;

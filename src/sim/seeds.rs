//! Seeds that once found a bug: they always run first.
//!
//! A seed means what it meant only as long as the simulator draws the same plan from it; when the simulator changes,
//! old seeds become ordinary ones. What keeps a bug from coming back for certain is a golden script of its module.

use super::tuning::{self, Tuning};

/// A seed, and what was wrong.
type Regression = (u64, &'static str);

/// Seeds whose run broke a rule before the bug behind it was fixed, by the change to their plan.
pub const REGRESSIONS: [(Option<Tuning>, &[Regression]); 3] = [
    (Some(tuning::WITHOUT_JOBS), OLDEST),
    // What each of these showed is also built on purpose, in `sim::tests`.
    (Some(tuning::WITHOUT_HOSTILE), OLDER_THAN_HOSTILE),
    (None, AS_DRAWN),
];

const OLDEST: &[Regression] = &[
    (39, "an uncommitted removal of the leader left nobody able to win (raft, thesis figure 4.6)"),
    (62, "the same with two voters"),
    (230, "heartbeats before the first read were never answered: an idle leader stepped down (raft)"),
    (254, "the same"),
    (10234, "a read round under way when a silent voter left was never confirmed, nor any read after it (raft)"),
    (41432, "a snapshot within the log was installed and the suffix rewritten; a crash in between lost it (raft)"),
    (21995, "a follower behind the compacted log, just after a snapshot, was never sent the last entry (raft)"),
];

const OLDER_THAN_HOSTILE: &[Regression] = &[
    (807516, "a worker with a hung disk was declared gone only after everything else had settled (checker)"),
    (811838, "an idle leader's hung disk was held against it, though nobody had asked it to write (checker)"),
    (10006430, "the term of a node that was removed and did not know counted (checker)"),
];

const AS_DRAWN: &[Regression] = &[
    (10115394, "gossip of the identity that a number had before drove the leader's out of a new node's ears (raft)"),
    (10034542, "an entry counted as committed in terms before its commit (checker)"),
    (10041147, "the same"),
    (10038549, "a learner whose vote a candidate needed held the newest log and could not campaign (raft)"),
    (10042090, "the same"),
    (10126926, "a node that had started again no longer heard a new node that it had voted for (raft)"),
    (10148590, "a worker that had just joined was declared gone for what its log had lacked before (jobs)"),
    (10151035, "a node did not call the address of a member that had been replaced (checker)"),
    (10085218, "a client asked by chance only nodes that take a question and never answer (checker)"),
    (10085924, "a worker that had lagged was declared gone just after all was well (checker)"),
    (10169768, "each late refusal of an earlier stream of appends began another, and so on without end (raft)"),
    (
        10132851,
        "what a leader of the past had proposed was to be answered, though nobody wrote as much again (checker)",
    ),
    (10044328, "nodes were to hear a leader of whom only a new node that knew nobody could have told (checker)"),
    (10115537, "a node was to hear a leader whom nobody that it knows could name (checker)"),
];

/// The change with which the tests run a seed that is kept here.
pub fn tuning_of(seed: u64) -> Option<Tuning> {
    let kept = REGRESSIONS.into_iter().find(|(_, seeds)| seeds.iter().any(|(kept, _)| *kept == seed));
    kept.and_then(|(tuning, _)| tuning)
}

/// Seeds that find a planted bug quickly, by the bug's name; tried before the sweep of
/// `sim::planted_bugs::tests::each_planted_bug_is_found`.
#[cfg(test)]
pub const PLANTED: &[(&str, &[u64])] = &[
    ("ack_own_last_index", &[64]),
    ("count_duplicate_vote", &[10]),
    ("read_before_own_commit", &[8]),
    ("reuse_read_context", &[120]),
    ("snapshot_keeps_conflict", &[11]),
    ("transfer_never_cleared", &[17]),
    ("retry_failed_sync", &[11]),
    ("old_attempts_end", &[124]),
    ("ended_may_end", &[19]),
    ("stuck_are_not_gone", &[42]),
    ("joins_without_a_read", &[27]),
];

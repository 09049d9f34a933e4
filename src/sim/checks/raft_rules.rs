//! Single rules of the Raft checker: each compares a state before with one after.
//!
//! Not here: what the Raft checker remembers (`raft_checker.rs`).

use super::log_model::{Committed, LogModel};
use crate::raft::{HardState, Membership};
use crate::sim::violation::{CheckResult, violation};
use crate::types::{Identity, NodeId, Term};
use std::collections::BTreeMap;

/// Who votes.
pub fn ids(membership: &Membership) -> Vec<NodeId> {
    membership.voters.keys().copied().collect()
}

/// Term and vote of one node never go back, and a vote does not change within its term.
pub fn check_hard(who: Identity, old: &HardState, new: &HardState) -> CheckResult {
    if new.term < old.term {
        return violation!("OneVotePerTerm", "{who:?} goes back from term {} to {}", old.term, new.term);
    }
    if new.term == old.term && old.vote.is_some() && new.vote != old.vote {
        return violation!(
            "OneVotePerTerm",
            "{who:?} votes for {:?} after {:?} in term {}",
            new.vote,
            old.vote,
            old.term
        );
    }
    Ok(())
}

/// A vote has reached a disk: it must never change.
pub fn note_vote(votes: &mut BTreeMap<(Identity, Term), Identity>, who: Identity, hard: HardState) -> CheckResult {
    let Some(vote) = hard.vote else { return Ok(()) };
    match votes.insert((who, hard.term), vote) {
        Some(other) if other != vote => {
            violation!("OneVotePerTerm", "{who:?} has voted for {other:?} and {vote:?} in term {}", hard.term)
        }
        _ => Ok(()),
    }
}

/// A leader creates a membership: after an entry of its own term, one at a time, one voter at a time.
pub fn check_change(
    who: Identity,
    index: u64,
    (previous_index, previous): (u64, &Membership),
    next: &Membership,
    committed: &[Committed],
    leads: Option<Term>,
) -> CheckResult {
    if previous_index > committed.len() as u64 {
        return violation!(
            "OneInFlight",
            "{who:?} changes the membership at {index} while {previous_index} is not committed"
        );
    }
    if committed.last().is_none_or(|last| Some(last.id.term) < leads) {
        return violation!("NoopFirst", "{who:?} changes the membership at {index} before its term committed");
    }
    let gone = previous.voters.iter().filter(|(id, uuid)| next.voters.get(id) != Some(uuid)).count();
    let come = next.voters.iter().filter(|(id, uuid)| previous.voters.get(id) != Some(uuid)).count();
    if gone + come > 1 || next.voters.is_empty() {
        return violation!("AdjacentOverlap", "{who:?} goes from {previous:?} to {next:?} at {index}");
    }
    Ok(())
}

/// Whether a recovered log is this stage of the model, a snapshot that was saved since taken into account.
pub fn is_same_log(recovered: &LogModel, stage: &LogModel) -> bool {
    // A snapshot may be durable before the record of its term is: no promise of that term has left then.
    let base_term = recovered.id_at(recovered.base).map_or(Term(0), |id| id.term);
    let is_raised = stage.hard.term < base_term && recovered.hard == (HardState { term: base_term, vote: None });
    if recovered.hard != stage.hard && !is_raised {
        return false;
    }
    if recovered.base > stage.last() {
        return recovered.last() == recovered.base;
    }
    // The snapshot may be newer than the log's base, never older.
    recovered.base >= stage.base
        && recovered.last() == stage.last()
        && recovered.id_at(recovered.last()) == stage.id_at(stage.last())
}

/// Committed entries that `old` held must still be in `new`, or below its base.
pub fn check_kept(who: Identity, by: &str, old: &LogModel, new: &LogModel, committed: &[Committed]) -> CheckResult {
    let mut index = old.last().min(committed.len() as u64);
    while index > new.last() {
        if old.id_at(index) == Some(committed[index as usize - 1].id) && index > old.base {
            return violation!(
                "NoTruncateCommitted",
                "{who:?} loses committed entry {index} by {by}: its log now ends at {}",
                new.last()
            );
        }
        index -= 1;
    }
    Ok(())
}

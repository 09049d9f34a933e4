//! The right to bootstrap a cluster over several hosts, which have no file and no lock in common.
//!
//! A node that wants to bootstrap claims the right from every node that looks for the same cluster; each of them, and it
//! itself, grants it to one node at a time. Invariants: C1 while a node claims the right it grants it to no other, and
//! while it has granted it, it does not claim it. C2 a grant ends only when its holder itself answers that it no longer
//! claims the right: it has given up, or its process has ended without a cluster. While the holder is silent the grant
//! stands. C3 a node grants only what its last round of questions allows: all hosts have answered, none is in a cluster,
//! and none claims or has granted the right to another. So a node that has forgotten its grant in a restart first hears
//! of the claim again. Two nodes that claim at the same time need each other's grant, or the same node's.
//! Not here: who may claim, and how many must agree (`bootstrap.rs`).

use crate::lock::{Mutex, MutexGuard, lock};
use crate::types::NodeId;
use std::collections::BTreeSet;
use uuid::Uuid;

/// What this node claims and has granted; its search and the thread that answers other nodes share it.
#[derive(Debug, Default)]
pub struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The claim of this node.
    own: Option<Uuid>,
    granted: Option<Grant>,
    /// What the last round of questions found; `None`: it forbids a grant, or there was none yet.
    found: Option<Found>,
}

/// A claim of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub to: NodeId,
    /// Its peer address, as it tells.
    pub address: String,
    /// Drawn anew for each claim.
    pub claim: Uuid,
}

/// A round of questions after which the right may be granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Nodes that look for this node's cluster.
    pub searching: BTreeSet<NodeId>,
    /// Claims that they make or have granted.
    pub claims: BTreeSet<Uuid>,
}

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// The claim that this node makes or has granted.
    pub fn current(&self) -> Option<Uuid> {
        let state = self.state();
        state.own.or(state.granted.as_ref().map(|grant| grant.claim))
    }

    /// Another node's claim; returns whether it is granted.
    pub fn grant(&self, asked: Grant) -> bool {
        let mut state = self.state();
        let is_free = state.own.is_none() && state.granted.as_ref().is_none_or(|grant| *grant == asked);
        let is_found = state.found.as_ref().is_some_and(|found| {
            found.searching.contains(&asked.to) && found.claims.iter().all(|claim| *claim == asked.claim)
        });
        if is_free && is_found {
            state.granted = Some(asked);
            return true;
        }
        false
    }

    /// Claims the right for this node; `None` if it is granted to another.
    pub(super) fn begin(&self) -> Option<Uuid> {
        let mut state = self.state();
        if state.granted.is_some() {
            return None;
        }
        state.own = Some(Uuid::new_v4());
        state.own
    }

    /// This node gives its claim up.
    pub(super) fn give_up(&self) {
        self.state().own = None;
    }

    /// The grant at the beginning of a round of questions: later ones do not end by its answers.
    pub(super) fn granted(&self) -> Option<Grant> {
        self.state().granted.clone()
    }

    /// The holder of this grant no longer claims the right (C2).
    pub(super) fn end(&self, grant: &Grant) {
        let mut state = self.state();
        if state.granted.as_ref() == Some(grant) {
            state.granted = None;
        }
    }

    /// The result of a round of questions (C3).
    pub(super) fn set_found(&self, found: Option<Found>) {
        self.state().found = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(to: u64, claim: u128) -> Grant {
        Grant { to: NodeId(to), address: format!("10.0.0.{to}:1"), claim: Uuid::from_u128(claim) }
    }

    fn found(claims: &[u128]) -> Option<Found> {
        let searching = [1, 2, 3].map(NodeId).into();
        Some(Found { searching, claims: claims.iter().map(|it| Uuid::from_u128(*it)).collect() })
    }

    #[test]
    fn a_node_grants_one_claim_and_after_a_round_of_questions_only() {
        let claims = Claims::default();
        assert!(!claims.grant(asked(3, 1)), "it has asked nobody yet");
        claims.set_found(found(&[2]));
        assert!(!claims.grant(asked(3, 1)), "another claims the right");
        claims.set_found(found(&[]));
        assert!(!claims.grant(asked(4, 1)), "an unknown node");
        assert!(claims.grant(asked(3, 1)) && claims.grant(asked(3, 1)));
        assert!(!claims.grant(asked(3, 2)) && !claims.grant(asked(2, 3)));
        assert_eq!(claims.current(), Some(Uuid::from_u128(1)));
        assert_eq!(claims.begin(), None);
        claims.end(&asked(3, 2));
        assert!(!claims.grant(asked(2, 3)), "that was another one");
        claims.end(&asked(3, 1));
        let own = claims.begin();
        assert!(own.is_some() && claims.current() == own && !claims.grant(asked(2, 3)));
        claims.give_up();
        assert!(claims.grant(asked(2, 3)));
    }
}

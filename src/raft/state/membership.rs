//! Who votes and who only follows, and how many make a quorum.
//!
//! Not here: changes of it (`raft/membership.rs`).

use crate::raft::Membership;
use crate::types::{Identity, NodeId};
use uuid::Uuid;

/// How many of `voters` it takes to elect and to commit.
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl Membership {
    /// Whether this very identity votes.
    pub fn is_voter(&self, who: &Identity) -> bool {
        self.voters.get(&who.id) == Some(&who.uuid)
    }

    /// Whether this very identity votes or listens.
    pub fn is_member(&self, who: &Identity) -> bool {
        self.uuid_of(who.id) == Some(who.uuid)
    }

    /// The identity behind an id, voter or learner.
    pub fn uuid_of(&self, id: NodeId) -> Option<Uuid> {
        self.voters.get(&id).or_else(|| self.learners.get(&id)).copied()
    }

    /// All members, voters first.
    pub fn members(&self) -> impl Iterator<Item = Identity> + '_ {
        self.voters.iter().chain(&self.learners).map(|(id, uuid)| Identity { id: *id, uuid: *uuid })
    }
}

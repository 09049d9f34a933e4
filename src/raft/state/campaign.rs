//! A candidate's campaign: which question it asks, and who has answered.
//!
//! Not here: when to campaign and who gets a vote (`raft/election.rs`).

use crate::types::NodeId;
use std::collections::BTreeSet;

/// Ticks between the first repetitions of a pre-vote: others may notice a lost link a little later.
pub(crate) const RESEND_TICKS_MIN: u64 = 2;

/// Which question a candidate asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Would you vote for me?
    PreVote,
    /// Vote for me.
    Vote {
        /// The leader asked for this campaign.
        is_transfer: bool,
    },
}

/// A candidate's campaign.
pub(crate) struct Campaign {
    pub(crate) phase: Phase,
    pub(crate) granted: BTreeSet<NodeId>,
    /// Who said no (to a vote; a refused pre-vote is asked again).
    pub(crate) refused: BTreeSet<NodeId>,
    /// Votes that a planted bug counts twice.
    pub(crate) extra: usize,
    pub(crate) resend_at: u64,
    pub(crate) resend_gap: u64,
}

impl Campaign {
    /// A campaign that begins now.
    pub(crate) fn new(phase: Phase, now: u64) -> Campaign {
        Campaign {
            phase,
            granted: BTreeSet::new(),
            refused: BTreeSet::new(),
            extra: 0,
            resend_at: now + RESEND_TICKS_MIN,
            resend_gap: RESEND_TICKS_MIN,
        }
    }
}

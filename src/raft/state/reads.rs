//! Reads that wait: a leader's for a round of heartbeats, a follower's for the leader's answer.
//!
//! Not here: when a round starts and what confirms it (`raft/read.rs`).

use crate::raft::Token;
use crate::types::{Identity, Index};

/// Who gets a read's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// This node's host.
    Host(Token),
    /// A follower.
    Peer(Identity, Token),
}

/// Reads of a leader.
pub(crate) struct Reads {
    /// Number of the newest round; every heartbeat that is to be answered carries it.
    pub(crate) round: u64,
    /// Reads that wait for the next round.
    pub(crate) waiting: Vec<Reader>,
    /// The round under way: its index and reads.
    pub(crate) under_way: Option<(Index, Vec<Reader>)>,
}

impl Reads {
    /// A new leader's: the first round is 1, for round 0 asks no answer.
    pub(crate) fn new() -> Reads {
        Reads { round: 1, waiting: Vec::new(), under_way: None }
    }

    /// Whether reads wait for the answers of a round.
    pub(crate) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

/// Reads of a follower.
#[derive(Default)]
pub(crate) struct Forwarded {
    /// Reads that wait for the next question.
    pub(crate) waiting: Vec<Token>,
    /// The question under way: its number, its reads, and the tick when it was last sent.
    pub(crate) under_way: Option<(Token, Vec<Token>, u64)>,
}

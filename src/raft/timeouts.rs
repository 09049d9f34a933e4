//! How long a node waits, from what it has measured: the time between two words of the leader, and round trips.
//!
//! A leader that is gone is noticed as soon as its silence is long *for this network*: half as long again as the longest
//! time between two of its words in the last minutes, and two heartbeats, within the bounds of the configuration. So a
//! quiet network finds a dead leader fast, and delays, losses and busy machines that have been seen depose no leader
//! that is alive. A larger factor would let a few pauses of a process drive the timeout to its bound. A campaign, and
//! whatever else needs an answer, also waits for the round trips that it takes to a quorum.
//!
//! Nothing here decides whether a promise holds: reads are confirmed by a round of heartbeats, never by time. Too short
//! a timeout costs an election, too long a one costs time without a leader.
//!
//! Invariants: T1 each timeout is at least `election_timeout_min_ticks`; those that do not depend on round trips are at
//! most `election_timeout_max_ticks`. T2 a follower's timeout is shorter than the configured one only after its process
//! has been part of a working cluster for [`MEASURED_TICKS_MIN`] and [`MEASURED_HEARTBEATS_MIN`].
//! Not here: who campaigns (`election.rs`), how the host measures round trips (`node/peer/dialer.rs`).

use super::state::Raft;
use super::state::membership::quorum;
use super::{Body, Message};
use crate::types::{NodeId, Ticks};

/// For how long a process must have heard leaders, or led a quorum, before a silence that is shorter than the configured
/// timeout counts as long. Long enough that the pauses of a machine on which nodes start are among what was heard. The
/// age of the process would say nothing: it may be old when it hears its first leader. A node that has only led has
/// heard no leader, but it is one of a quorum that would have to agree.
const MEASURED_TICKS_MIN: u64 = 600;
/// The same in heartbeats, where they are rare: so many values have been measured at least.
const MEASURED_HEARTBEATS_MIN: u64 = 60;

impl Raft {
    /// How long a follower hears nothing until its leader counts as gone. One that has measured little waits at least
    /// the configured timeout.
    pub(crate) fn silence_ticks(&self) -> u64 {
        let config = &self.config;
        let configured = config.election_timeout_ticks.0;
        let least = config.election_timeout_min_ticks.0.min(configured);
        let most = config.election_timeout_max_ticks.0.max(configured);
        let measured = self.beyond(self.silences.get(self.now)).clamp(least, most);
        if self.has_measured() { measured } else { measured.max(configured) }
    }

    /// Whether this process has been part of a working cluster for so long that the longest silence is known.
    fn has_measured(&self) -> bool {
        self.measured_ticks >= MEASURED_TICKS_MIN.max(MEASURED_HEARTBEATS_MIN * self.config.heartbeat_ticks.0)
    }

    /// How long a leader goes without answers of a quorum until it steps down, and other questions wait for an answer:
    /// the configured timeout and more.
    pub(crate) fn answer_ticks(&self) -> u64 {
        let most = self.config.election_timeout_max_ticks.0;
        let measured = self.silence_ticks().max(self.beyond(self.answers.get(self.now)).min(most));
        self.config.election_timeout_ticks.0.max(measured) + 2 * self.round_trip_ticks()
    }

    /// A time that counts as longer than what has been measured: half as long again, and two heartbeats.
    fn beyond(&self, longest: u64) -> u64 {
        longest + longest / 2 + 2 * self.config.heartbeat_ticks.0
    }

    /// Between the campaigns of two nodes, so that the first has won before the second asks. A campaign takes two round
    /// trips, and its second question reaches the others after one and a half.
    pub(crate) fn rank_ticks(&self) -> u64 {
        self.config.rank_delay_ticks.0.max(self.round_trip_ticks() * 3 / 2)
    }

    /// A peer's connection was made, which took this long.
    pub(crate) fn on_round_trip(&mut self, peer: NodeId, ticks: Ticks) {
        let ticks = ticks.0.min(self.config.election_timeout_max_ticks.0);
        // Unknown counts as none: where all are short, there is no list to look through for each message.
        if ticks > 0 || self.round_trips.contains_key(&peer) {
            self.round_trips.entry(peer).or_default().add(self.now, ticks);
        }
    }

    /// A message of the leader has arrived.
    pub(crate) fn on_leader_heard(&mut self) {
        if let Some(at) = self.heard_at {
            self.silences.add(self.now, self.now - at);
            self.measured_ticks += self.now - at;
        }
    }

    /// A peer is alive. If it is a leader whose silence was taken for its end, and it still leads, the timeout was too
    /// short. One that was replaced in time was frozen or cut off, which says nothing of the network.
    pub(crate) fn on_life_sign(&mut self, message: &Message) {
        let peer = message.from.id;
        self.lost.remove(&peer);
        let Some((_, term, at)) = self.silent_leader.filter(|(leader, ..)| *leader == peer) else { return };
        let is_word = matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. });
        if is_word && message.term == term && term == self.hard.term {
            self.silences.add(self.now, self.now - at);
            self.silent_leader = None;
        }
    }

    /// A follower answered its leader, which had not heard it for so many ticks. One that was away for more than twice
    /// the time that an answer is waited for was frozen, cut off or gone.
    pub(crate) fn on_answer_after(&mut self, ticks: u64) {
        if ticks <= 2 * self.answer_ticks() {
            self.answers.add(self.now, ticks);
        }
    }

    /// Ticks until a quorum can have answered a question, this node among them: of the round trips to the voters, the
    /// largest that is needed. Unknown ones count as none.
    pub(crate) fn round_trip_ticks(&self) -> u64 {
        if self.round_trips.is_empty() {
            return 0;
        }
        let voters = &self.membership().voters;
        let others = voters.keys().filter(|id| **id != self.config.me.id);
        let mut known: Vec<u64> =
            others.map(|id| self.round_trips.get(id).map_or(0, |recent| recent.get(self.now))).collect();
        known.sort_unstable();
        let needed = quorum(voters.len()).saturating_sub(usize::from(self.is_voter()));
        needed.checked_sub(1).and_then(|at| known.get(at).copied()).unwrap_or(0)
    }
}

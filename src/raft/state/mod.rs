//! The state of one node: data that the behaviour in the files above it changes.
//!
//! What belongs to one role lives in [`State`], so that stepping down forgets it as a whole.
//! Not here: what changes it ([`Raft::step`]).

pub(crate) mod bounds;
pub(crate) mod campaign;
pub(crate) mod disk;
pub(crate) mod leadership;
pub(crate) mod log;
pub(crate) mod membership;
pub(crate) mod progress;
pub(crate) mod promise;
pub(crate) mod reads;
pub(crate) mod recent;

use self::campaign::Campaign;
use self::disk::Disk;
use self::leadership::Leadership;
use self::log::Log;
use self::reads::Forwarded;
use self::recent::RecentMax;
use super::{Answer, Body, Config, Durable, Effects, HardState, Membership, Message, Refusal, Role, SnapshotMeta};
use crate::types::{Identity, Index, NodeId, Term};
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What a node is in its term, with what only that role needs.
pub(crate) enum State {
    /// Takes what the leader offers.
    Follower,
    /// Asks for pre-votes or votes.
    Candidate(Campaign),
    Leader(Box<Leadership>),
}

/// One node's consensus state.
pub struct Raft {
    pub(crate) config: Config,
    /// Term and vote in memory; `disk` knows whether they are durable.
    pub(crate) hard: HardState,
    pub(crate) log: Log,
    pub(crate) commit: Index,
    pub(crate) disk: Disk,
    pub(crate) state: State,
    /// Leader of this term, if known and not counted as gone.
    pub(crate) leader: Option<Identity>,
    /// Ticks since this process started.
    pub(crate) now: u64,
    /// Tick of the leader's last word, while it counts as alive.
    pub(crate) heard_at: Option<u64>,
    /// Times between two words of a leader that was alive, in ticks.
    pub(crate) silences: RecentMax,
    /// Ticks for which this process heard a leader, or led a quorum.
    pub(crate) measured_ticks: u64,
    /// A leader that counts as gone because it fell silent, with its term and the tick of its last word.
    pub(crate) silent_leader: Option<(NodeId, Term, u64)>,
    /// Times between two answers of one follower, while this node leads, in ticks.
    pub(crate) answers: RecentMax,
    /// Ticks for a question to a peer and its answer.
    pub(crate) round_trips: BTreeMap<NodeId, RecentMax>,
    /// Tick at which this node gave its vote to another.
    pub(crate) voted_at: Option<u64>,
    /// Tick at which a candidate with an older log than ours last asked for our vote.
    pub(crate) stale_candidate_at: Option<u64>,
    /// Tick of the next campaign; `None`: to be drawn at the next step.
    pub(crate) deadline: Option<u64>,
    /// Campaigns since a leader was last heard: each waits longer.
    pub(crate) attempts: u64,
    /// Peers with a process that counts as gone: the link broke and reconnecting was refused, or they led and fell
    /// silent.
    pub(crate) lost: BTreeSet<NodeId>,
    /// Nodes that stop.
    pub(crate) leaving: BTreeSet<NodeId>,
    /// Members that are witnesses, as far as this node knows: a node that does not know it is only slower to lead.
    pub(crate) witnesses: BTreeSet<NodeId>,
    /// Pre-votes refused because the leader seemed alive, with their tick: asked again when its link breaks.
    pub(crate) deferred: Vec<(u64, Message)>,
    /// Reads that wait for the leader's answer.
    pub(crate) forwarded: Forwarded,
    pub(crate) is_disk_low: bool,
    /// What was last acknowledged to a leader: its term, and up to where.
    pub(crate) acknowledged: (Term, Index),
    /// Who is heard though no membership here names it, by number.
    pub(crate) introduced: BTreeMap<NodeId, Vec<Uuid>>,
}

/// What one step carries along.
pub(crate) struct Cx<'a> {
    pub(crate) rng: &'a mut Rng,
    pub(crate) fx: &'a mut Effects,
    /// Lowest index whose entry must be written.
    pub(crate) persist_from: Option<Index>,
    /// Snapshot that takes the log's place on disk.
    pub(crate) install: Option<SnapshotMeta>,
}

/// Sender and term of outgoing messages.
#[derive(Clone, Copy)]
pub(crate) struct Envelope {
    me: Identity,
    term: Term,
}

impl Envelope {
    /// Queues a message; `finish` decides whether it must wait for the disk.
    pub(crate) fn send(self, cx: &mut Cx<'_>, to: Identity, body: Body) {
        self.send_at(cx, to, self.term, body);
    }

    /// Queues a message for another term than the current one (pre-votes).
    pub(crate) fn send_at(self, cx: &mut Cx<'_>, to: Identity, term: Term, body: Body) {
        cx.fx.send_now.push(Message { from: self.me, to, term, body });
    }
}

impl Raft {
    /// A node as it starts: with what its disk holds (nothing, for a new node).
    pub fn new(config: Config, durable: Durable) -> Raft {
        let commit = durable.snapshot.as_ref().map_or(Index(0), |meta| meta.index);
        let log = Log::new(durable.snapshot, durable.entries);
        assert!(
            log.last_term() <= durable.hard_state.term,
            "C4: log ends in term {}, term and vote on disk say {}",
            log.last_term(),
            durable.hard_state.term
        );
        let disk = Disk::new(durable.hard_state, log.last_index());
        Raft {
            config,
            hard: durable.hard_state,
            log,
            commit,
            disk,
            state: State::Follower,
            leader: None,
            now: 0,
            heard_at: None,
            silences: RecentMax::default(),
            measured_ticks: 0,
            silent_leader: None,
            answers: RecentMax::default(),
            round_trips: BTreeMap::new(),
            voted_at: None,
            stale_candidate_at: None,
            deadline: None,
            attempts: 0,
            lost: BTreeSet::new(),
            leaving: BTreeSet::new(),
            witnesses: BTreeSet::new(),
            deferred: Vec::new(),
            forwarded: Forwarded::default(),
            is_disk_low: false,
            acknowledged: (Term(0), Index(0)),
            introduced: BTreeMap::new(),
        }
    }

    /// Sender and term for messages of this step.
    pub(crate) fn envelope(&self) -> Envelope {
        Envelope { me: self.config.me, term: self.hard.term }
    }

    /// The newest membership in the log, else the snapshot's.
    pub(crate) fn membership(&self) -> &Membership {
        self.log.membership().1
    }

    /// Whether this node counts in quorums.
    pub(crate) fn is_voter(&self) -> bool {
        self.membership().is_voter(&self.config.me)
    }

    /// This node's role, for status.
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }
}

/// Answers a host's request with a refusal.
pub(crate) fn refuse(cx: &mut Cx<'_>, token: super::Token, why: Refusal) {
    cx.fx.answers.push((token, Answer::Refused(why)));
}

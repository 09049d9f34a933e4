//! Consensus, pure: inputs in, effects out. No socket, file, thread, clock or random source lives here.
//!
//! The tour: `mod.rs` (this file) holds the types that the host sees; `state/` the data of one node; `step.rs` the one
//! entry point [`Raft::step`]; `election.rs` pre-votes, votes and campaigns; `replication/` how the log and snapshots
//! reach the followers, and the commit rule; `read.rs` read index; `membership.rs` one change at a time; `transfer.rs`
//! leadership transfer; `persist.rs` what must reach the disk before which messages; `guard.rs` which senders count;
//! `view.rs` status and invariants.
//!
//! The host (`node/` or `sim/`) owes three things: it feeds inputs one by one; it carries out each step's effects in
//! order (a step's `persist` before its `after_sync` messages may leave); and it reports [`Input::Synced`] in order.
//! Not here: what commands mean (`services/`), how messages travel (`wire/`), who should be a voter
//! (`cluster/autopilot.rs`).

#[cfg(any(test, feature = "planted-bugs"))]
use crate::planted_bugs::RaftBugs;
use crate::types::{Identity, Index, NodeId, Term, Ticks};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

mod election;
mod guard;
mod membership;
mod persist;
mod read;
mod replication;
mod state;
mod step;
#[cfg(test)]
mod tests;
mod timeouts;
mod transfer;
mod view;

pub use self::state::Raft;
pub use self::state::bounds::{INDEX_MAX, TERM_JUMP_MAX, TERM_MAX};
pub use self::state::membership::quorum;
pub use self::state::promise::Promise;

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that appended it.
    pub term: Term,
    pub payload: Payload,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// First entry of each term: commits what earlier terms left.
    Noop,
    /// Opaque bytes for the services.
    Command(#[serde(with = "shared_bytes")] Arc<[u8]>),
    /// The whole membership from this index on.
    Membership(Arc<Membership>),
}

/// Serde would visit a shared slice byte by byte; the bytes on the wire are the same, the time is not.
mod shared_bytes {
    use serde::{Deserialize, Deserializer, Serializer};
    use serde_bytes::Bytes;
    use std::sync::Arc;

    pub(crate) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        <&Bytes>::deserialize(from).map(|bytes| Arc::from(&**bytes))
    }
}

/// Who votes and who only listens, with their identities. Effective as soon as it is in the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Members that count in every quorum.
    pub voters: BTreeMap<NodeId, Uuid>,
    /// Members that receive the log and count nowhere.
    pub learners: BTreeMap<NodeId, Uuid>,
}

/// One step from a membership to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A new node, or a removed node that returns; refused while another identity holds the id.
    AddLearner(Identity),
    /// A learner becomes a voter; refused until it has caught up.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
    /// A voter or learner leaves.
    Remove(NodeId),
}

/// What must be on disk before any promise of its term leaves: one record, so that they cannot disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// Newest term seen.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: Option<Identity>,
}

/// Position of a snapshot: it replaces all entries up to `index`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// Last index that it covers.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// Membership in force at that index.
    pub membership: Membership,
}

/// All that a restart finds on disk; the default is a new node's empty state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durable {
    /// Term and vote.
    pub hard_state: HardState,
    /// Newest snapshot, if any.
    pub snapshot: Option<SnapshotMeta>,
    /// Entries after the snapshot, without a hole.
    pub entries: Vec<Entry>,
}

/// Choices of one node, in ticks and bytes.
#[derive(Clone, Debug)]
pub struct Config {
    pub me: Identity,
    /// Between two heartbeats of a leader.
    pub heartbeat_ticks: Ticks,
    /// Without a word from the leader for this long, a follower campaigns (plus its rank's delay and a random part),
    /// until it has measured how regularly the leader is heard.
    pub election_timeout_ticks: Ticks,
    /// The shortest such time on a network where the leader is heard regularly; above the other one it has no effect.
    pub election_timeout_min_ticks: Ticks,
    /// The longest such time, where the leader is heard irregularly; below the first one it has no effect.
    pub election_timeout_max_ticks: Ticks,
    /// Campaign delay per live voter of higher id, so that the highest id goes first.
    pub rank_delay_ticks: Ticks,
    /// Whether campaign delays follow ids at all (`leader_preference`: `highest-id`, or `none`: only the random part).
    pub highest_id_first: bool,
    /// Hand leadership to a caught-up voter of higher id.
    pub preempt: bool,
    /// A leader (or candidate) whose oldest write has waited longer than this for its disk steps down.
    pub disk_stall_ticks: Ticks,
    /// This voter has no services (a witness, or the voter of a dead process that another node hosts): it votes and
    /// keeps the log, campaigns only while a candidate with an older log asks for its vote, and as the leader takes no
    /// commands: it passes its entries and then the leadership on.
    pub leads_only_to_pass_on: bool,
    /// Bytes of entries in one append.
    pub append_bytes_max: usize,
    /// Bytes of entries sent to one follower and not yet answered.
    pub inflight_bytes_max: usize,
    /// Bytes of entries not yet committed; beyond it proposals are refused.
    pub uncommitted_bytes_max: usize,
    /// Bugs switched on by a test.
    #[cfg(any(test, feature = "planted-bugs"))]
    pub bugs: RaftBugs,
}

/// Names a proposal, read or change of this node's host in its answer. Never used twice by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(pub u64);

/// Everything that can happen to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// One tick has passed.
    Tick,
    /// A message arrived; `from` is the identity that its connection stated. It counts only if that identity is known
    /// here.
    Message(Message),
    /// The host confirms an identity that the membership here may not name yet (`guard.rs` says when it may).
    Introduce(Identity),
    /// The connection to a peer is up (again); a question and its answer took this long.
    LinkUp { peer: NodeId, round_trip: Ticks },
    /// The connection to a peer broke *and* reconnecting was refused: its process is gone.
    LinkLost(NodeId),
    /// Append this command, if leader.
    Propose { token: Token, command: Arc<[u8]> },
    /// Answer with an index such that a service that has applied it may answer a linearizable read.
    Read { token: Token },
    /// Change the membership, if leader.
    Change { token: Token, change: Change },
    /// Hand leadership to this voter (`None`: the most caught-up live voter of highest id).
    Transfer { token: Token, to: Option<NodeId> },
    /// Take the leadership, if it can be done by asking the leader (console `L`) or by campaigning when there is none.
    Lead,
    /// All persists with `seq` up to this are on disk.
    Synced { seq: u64 },
    /// The services' snapshot at this applied index is durable; entries up to it may go.
    SnapshotSaved { index: Index },
    /// A snapshot from the leader of `term` is complete and durable beside the log, not yet in use.
    SnapshotReceived { from: Identity, term: Term, meta: SnapshotMeta },
    /// Streaming a snapshot to this follower ended; `ok` if it was received whole.
    SnapshotSent { to: NodeId, ok: bool },
    /// The disk is (`true`) or is no longer below its reserve: refuse new commands, transfer leadership, never
    /// campaign.
    DiskLow(bool),
    /// These nodes stop, as they have said: no leadership transfer goes to them.
    Leaving(BTreeSet<NodeId>),
    /// These members are witnesses: no leadership transfer goes to them, and no candidate waits for them to go first.
    Witnesses(BTreeSet<NodeId>),
}

/// Between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Sender. Answers count only from the very identity that the receiver's membership names; requests are judged by
    /// term and log alone, because it may be the receiver's membership that is stale.
    pub from: Identity,
    /// Receiver; a message for another identity is dropped.
    pub to: Identity,
    /// Sender's term (for a pre-vote: the term it would campaign in).
    pub term: Term,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Would you vote for me? Binds neither side.
    PreVote { last_index: Index, last_term: Term },
    /// `term` of the message: the asked term if granted, else the term to adopt.
    PreVoteReply { is_granted: bool },
    /// Vote for me. `is_transfer`: the leader asked me to, so voters that still hear it do not refuse (E2).
    Vote { last_index: Index, last_term: Term, is_transfer: bool },
    /// Answer to `Vote`.
    VoteReply { is_granted: bool },
    /// Entries after `prev_index` (none: a probe). `session` comes back in the answer.
    Append { session: u64, prev_index: Index, prev_term: Term, commit: Index, entries: Vec<Entry> },
    /// `Ok(matched)`: durable and equal up to there. `Err`: where the sender should try instead.
    AppendReply { session: u64, result: Result<Index, Conflict> },
    /// The sender still leads; the answer repeats `round` and confirms reads. Round 0 only carries the commit index and
    /// is not answered.
    Heartbeat { round: u64, commit: Index },
    /// Answer to `Heartbeat`.
    HeartbeatReply { round: u64 },
    /// A follower's linearizable read asks for an index.
    ReadIndex { token: Token },
    /// `None`: refused (not leader, or no own-term commit in time).
    ReadIndexReply { token: Token, index: Option<Index> },
    /// Campaign at once: you hold everything up to `last_index`.
    TimeoutNow { last_index: Index },
    /// Please hand leadership to me (console `L`, `preempt`).
    TransferMe,
}

/// Why an append was refused, with what helps the leader to find the common point fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The refused `prev_index`: distinguishes a late refusal from a current one.
    pub prev_index: Index,
    /// Highest index at which the logs may still agree.
    pub hint_index: Index,
    /// Term of the refuser's entry there.
    pub hint_term: Term,
}

/// What one step asks of the host. The host clears it (`Effects::default()`) before each step.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// Messages that may leave at once.
    pub send_now: Vec<Message>,
    /// What the disk must take, in order of `seq`.
    pub persist: Option<Persist>,
    /// Promises: they leave only when every persist up to this step's is on disk. Never without a `persist` in this
    /// step: if one is needed and there is nothing to write, `persist` is present and empty except its `seq`.
    pub after_sync: Vec<Message>,
    /// The commit index moved to here.
    pub commit: Option<Index>,
    /// Answers to proposals, reads, changes and transfers.
    pub answers: Vec<(Token, Answer)>,
    /// Stream the newest snapshot to these followers, on a connection of its own.
    pub send_snapshot: Vec<Identity>,
    /// Put the received snapshot in place of the services' state and of the log (its `Persist` says the same to disk).
    pub install: Option<SnapshotMeta>,
    /// What a person may want to know.
    pub events: Vec<Event>,
    /// A message that was not heard, and why: to be counted.
    pub refused: Option<Refused>,
}

/// Why a message was not heard. It has changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Its sender is not known here.
    UnknownSender(Identity),
    /// No honest sequence of elections leads to its term.
    TermJump(Identity, Term),
    /// Its indexes or terms contradict each other.
    Malformed(Identity),
}

/// One ordered job for the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// Grows by one with each persist of this process; comes back in [`Input::Synced`].
    pub seq: u64,
    /// New term and vote.
    pub hard_state: Option<HardState>,
    /// Drop the whole log: this received snapshot replaces it. Never together with `entries`: a crash between the
    /// two would lose entries that were accepted long ago.
    pub install: Option<SnapshotMeta>,
    /// Entries to write; the first one's index cuts everything there and after it.
    pub entries: Vec<Entry>,
}

/// How the core answers the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The proposal or change is in the log here; it is done once an entry of this very term is applied there,
    /// and certainly lost once another term's entry is.
    Appended { index: Index, term: Term },
    /// The read may be served once this index is applied.
    ReadAt(Index),
    /// The leadership transfer has begun.
    TransferStarted { to: NodeId },
    /// Certainly not done.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Ask the leader, if known.
    #[error("not the leader")]
    NotLeader,
    /// A leadership transfer is in progress.
    #[error("a leadership transfer is in progress")]
    LeadershipTransfer,
    /// Too many bytes wait for a quorum.
    #[error("too many commands wait for a quorum")]
    Busy,
    /// Too little room on the leader's disk.
    #[error("the leader's disk is nearly full")]
    DiskLow,
    /// The leader's term has not committed an entry yet; soon.
    #[error("the new leader has not committed an entry of its term yet")]
    TermNotCommitted,
    /// Another membership change is under way.
    #[error("another membership change is in progress")]
    ChangeInFlight,
    /// The learner is too far behind to vote.
    #[error("the learner has not caught up yet")]
    NotCaughtUp,
    /// Nothing can be changed about a node that is not a member, and it cannot lead.
    #[error("node {} is not a member", .0.0)]
    NotAMember(NodeId),
    /// It is to become what it is.
    #[error("node {} is a voter already", .0.0)]
    VoterAlready(NodeId),
    /// It is to become what it is.
    #[error("node {} is a learner already", .0.0)]
    LearnerAlready(NodeId),
    /// It is to become a member, and this identity is one.
    #[error("node {} is a member already", .0.0)]
    MemberAlready(NodeId),
    /// It is to become a member, and another identity has its number.
    #[error("node {} is a member already, with the uuid {}: remove that one first", .0.id.0, .0.uuid)]
    NumberTaken(Identity),
    /// A cluster without voters could never commit an entry again.
    #[error("node {} is the only voter: promote another node first", .0.0)]
    OnlyVoter(NodeId),
    /// Live voters must not lose their majority.
    #[error(
        "the change would lose the quorum: of the {voters} voters that it leaves, {live} answer and {needed} are needed"
    )]
    Unsafe { voters: u64, live: u64, needed: u64 },
    /// Only voters lead.
    #[error("node {} is a learner, and only a voter can lead", .0.0)]
    LearnerCannotLead(NodeId),
    /// It could not take over.
    #[error("node {} does not answer the leader", .0.0)]
    Silent(NodeId),
    /// It could take over, for a moment.
    #[error("node {} stops", .0.0)]
    Stops(NodeId),
    /// No voter can take over.
    #[error("no other voter can lead: each is silent or stops")]
    NoOtherVoter,
}

/// What a refusal is about, and so what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// What is over in a moment: the same request succeeds then, at this leader or the next.
    Moment,
    /// What the leader lacks: room for more.
    Room,
    /// The change that was asked for, in the present membership.
    Change,
}

impl Refusal {
    pub fn cause(&self) -> RefusalCause {
        match self {
            Refusal::NotLeader | Refusal::LeadershipTransfer | Refusal::TermNotCommitted | Refusal::ChangeInFlight => {
                RefusalCause::Moment
            }
            Refusal::Busy | Refusal::DiskLow => RefusalCause::Room,
            Refusal::NotCaughtUp
            | Refusal::NotAMember(_)
            | Refusal::VoterAlready(_)
            | Refusal::LearnerAlready(_)
            | Refusal::MemberAlready(_)
            | Refusal::NumberTaken(_)
            | Refusal::OnlyVoter(_)
            | Refusal::Unsafe { .. }
            | Refusal::LearnerCannotLead(_)
            | Refusal::Silent(_)
            | Refusal::Stops(_)
            | Refusal::NoOtherVoter => RefusalCause::Change,
        }
    }
}

/// What a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Now follows this leader.
    Following { term: Term, leader: NodeId },
    /// The leader is gone or silent; no leader is known.
    LeaderLost { term: Term, leader: NodeId, cause: LossCause },
    /// Asks for pre-votes for `term`.
    Campaigning { term: Term },
    /// It has won the election.
    BecameLeader { term: Term },
    /// The node was the leader and no longer is.
    SteppedDown { term: Term, cause: StepDownCause },
    /// Newest membership in the log changed.
    Membership { index: Index, membership: Arc<Membership> },
    /// Hand-over began, ended well, or was given up.
    TransferStarted { to: NodeId },
    /// Hand-over was given up: the target did not take over in time.
    TransferAborted { to: NodeId },
    /// On the leader: this member's log lacks what it acknowledged up to `matched`.
    FollowerForgot { who: Identity, matched: Index },
    /// On a follower: the leader offers another entry at `index`, which is committed here.
    LeaderForgot { leader: NodeId, index: Index },
}

/// Why a leader counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossCause {
    /// Its connection broke and reconnecting was refused.
    LinkLost,
    /// Nothing heard for an election timeout.
    Timeout,
    /// A message of a newer term.
    NewerTerm,
    /// It transferred leadership to this node.
    LeadershipTransfer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownCause {
    /// A message of a newer term.
    NewerTerm,
    /// No quorum answered for an election timeout (check-quorum).
    NoQuorum,
    /// Its disk made no progress.
    DiskStalled,
    /// It is not, or no longer, a voter, and what only it could bring about is committed.
    NotAVoter,
}

/// Role of a node in its term.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    #[default]
    Follower,
    /// Asks for pre-votes or votes.
    Candidate,
    Leader,
}

/// State of the core as seen from outside, for status pages and tests.
#[derive(Clone, Debug)]
pub struct View {
    pub role: Role,
    pub term: Term,
    /// Leader of the term, if known.
    pub leader: Option<NodeId>,
    /// Last index in the log, synced or not.
    pub last_index: Index,
    pub commit_index: Index,
    /// The own log is on disk up to here.
    pub durable_index: Index,
    /// What the entries in memory count towards byte limits.
    pub log_bytes: u64,
    /// Index of the newest snapshot that the log starts after (0: none).
    pub snapshot_index: Index,
    /// Newest membership in the log.
    pub membership: Arc<Membership>,
    /// What this node's disk holds and others may count on, for them to remember; `None` while it is on its way there.
    pub promised: Option<Promise>,
    /// Whether the leader has heard a quorum lately (false on followers).
    pub has_quorum: bool,
    /// Whether an entry of the leader's own term is committed.
    pub has_committed_own_term: bool,
    /// A follower counts a leader that is silent for this long as gone.
    pub silence_timeout: Ticks,
    /// Target of the leadership transfer in progress.
    pub transfer_to: Option<NodeId>,
    /// On the leader: one row per other member.
    pub peers: Vec<PeerView>,
}

/// What the leader knows of one member.
#[derive(Clone, Debug)]
pub struct PeerView {
    pub who: Identity,
    /// Known equal and durable up to here.
    pub match_index: Index,
    /// Ticks since its last answer of any kind (the leader's own evidence).
    pub silent_ticks: Ticks,
    /// It answered within the last election timeout.
    pub is_active: bool,
    /// Its log lacks what it acknowledged to this leader: its disk was replaced by an older copy, or lost data.
    pub has_forgotten: bool,
}

/// State of the node that bootstraps a cluster: term 1, a vote for itself, and one entry that makes it the only voter.
/// The host persists it before it starts the node with it.
pub fn bootstrap_state(me: Identity) -> Durable {
    let membership = Membership { voters: BTreeMap::from([(me.id, me.uuid)]), learners: BTreeMap::new() };
    Durable {
        hard_state: HardState { term: Term(1), vote: Some(me) },
        snapshot: None,
        entries: vec![Entry { index: Index(1), term: Term(1), payload: Payload::Membership(Arc::new(membership)) }],
    }
}

/// Last entry of what a restart finds: its term and index.
pub fn end_of(durable: &Durable) -> Option<(Term, Index)> {
    let entry = durable.entries.last().map(|entry| (entry.term, entry.index));
    entry.or(durable.snapshot.as_ref().map(|meta| (meta.term, meta.index)))
}

/// Newest membership of what a restart finds.
pub fn membership_of(durable: &Durable) -> Option<&Membership> {
    let entries = durable.entries.iter().rev().find_map(|entry| match &entry.payload {
        Payload::Membership(membership) => Some(&**membership),
        Payload::Command(_) | Payload::Noop => None,
    });
    entries.or(durable.snapshot.as_ref().map(|meta| &meta.membership))
}

/// What a node writes to continue alone, under a new identity, with the log of a cluster that has lost its majority
/// permanently: one entry behind all others, in a term of its own, that makes it the only voter. It breaks every
/// promise of the former identity, so the log must never again be used for the former cluster.
pub fn sole_voter(durable: &Durable, me: Identity) -> Persist {
    let (last_term, last_index) = end_of(durable).unwrap_or_default();
    let term = Term(durable.hard_state.term.max(last_term).0 + 1);
    let membership = Membership { voters: BTreeMap::from([(me.id, me.uuid)]), learners: BTreeMap::new() };
    let payload = Payload::Membership(Arc::new(membership));
    let entries = vec![Entry { index: Index(last_index.0 + 1), term, payload }];
    Persist { hard_state: Some(HardState { term, vote: Some(me) }), entries, ..Persist::default() }
}

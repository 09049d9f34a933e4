//! Bytes on the sockets between nodes: frames, the handshake, and how each message is encoded.
//!
//! A frame is a `u32` length and a `u32` CRC-32 (both little-endian), then a postcard-encoded [`Frame`]. The acceptor
//! sends the first frame (`Challenge`), the dialer answers with [`Hello`], the acceptor with [`Frame::Welcome`] or
//! [`Frame::Reject`]. If there is a `cluster_secret`, both prove it before the welcome, and each later frame is
//! followed by a tag. After that a `Peer` connection carries frames one way, from dialer to acceptor, so each pair of
//! nodes has two; on links that lose packets small frames go as datagrams beside it (`datagram.rs`). `Ask`, `Join`,
//! `Snapshot` and `State` connections have their own short exchange.
//! Not here: threads and reconnecting (`node/peer/acceptor.rs`), what a message means (`raft/`, `cluster/`).

pub mod authentication;
pub mod codec;
pub mod datagram;
pub mod datagram_codec;
pub mod handshake;
pub mod heartbeat;
#[cfg(test)]
mod tests;

use crate::outcome::{Reason, UnknownReason};
use crate::raft;
use crate::services::Reply;
use crate::services::sessions::Tag;
use crate::types::{Addresses, Identity, Index, NodeId, NodeKind, Term};
use datagram::{Ack, ConnectionId, Piece};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Version of everything in this folder, and of the meaning of commands: the states of nodes that refuse different
/// statements would differ. Nodes of other versions are rejected with a sentence.
pub const PROTOCOL: u32 = 18;

/// Maximum number of characters of another node's `cluster_name` that are shown: as many as the setting may have.
const NAME_CHARS_MAX: usize = 64;

/// Why two nodes cannot be in one cluster: what the other node's settings or version must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mismatch {
    /// Of the setting `cluster_secret`: another one, or none on one side.
    Secret,
    /// Of [`PROTOCOL`]; holds the other node's.
    Protocol(u32),
    /// Of the setting `cluster_name`; holds the other node's.
    Name(String),
}

impl Mismatch {
    /// Of the cluster's name, which is `theirs`; no longer than a name can be.
    pub fn name(theirs: &str) -> Mismatch {
        Mismatch::Name(theirs.chars().take(NAME_CHARS_MAX).collect())
    }
}

/// The difference and its cure, for a person on this node.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Secret => write!(f, "cluster_secret differs: set the same one on all nodes"),
            Mismatch::Protocol(theirs) => {
                write!(f, "peer protocol version {PROTOCOL} here, {theirs} there: run the same version on all nodes")
            }
            Mismatch::Name(theirs) => write!(f, "cluster_name is {theirs:?} there: set the same one on all nodes"),
        }
    }
}

/// First word of a dialer, after the challenge. Its form never changes, so that every version can read which one the
/// other is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Cluster of the dialer; `None` while it looks for one.
    pub cluster: Option<Uuid>,
    /// Who dials.
    pub from: Identity,
    /// Where the dialer can be reached.
    pub addresses: Addresses,
    /// With a `cluster_secret`, the dialer's part of what is proved: a random nonce, and the intended acceptor. Empty
    /// without one.
    pub opening: Vec<u8>,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Raft messages, gossip and forwarded commands, dialer to acceptor, for as long as both live.
    Peer,
    /// Asks who leads. Answered by [`Frame::DiscoveryAnswer`], then closed.
    Ask,
    /// Please make me a learner. Answered by [`Frame::Joined`] (leader), [`Frame::DiscoveryAnswer`] (others) or
    /// `Reject`.
    Join {
        /// What the node is for.
        kind: NodeKind,
    },
    /// A snapshot follows: [`Frame::SnapshotHead`], chunks, and [`Frame::SnapshotDone`] back.
    Snapshot,
    /// Please give me your state as it is now: the acceptor sends what a `Snapshot` connection carries, and the dialer
    /// answers with [`Frame::SnapshotDone`]; or `Reject`.
    State,
    /// Please let me bootstrap the cluster that you look for, too. Answered by [`Frame::DiscoveryAnswer`], which names this
    /// claim if it is granted.
    Claim { claim: Uuid },
}

/// Everything that crosses the peer port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// Acceptor's first word: 16 random bytes, its part of what is proved.
    Challenge {
        nonce: [u8; 16],
    },
    Hello(Hello),
    /// Acceptor agrees; who it is and which cluster it is in.
    Welcome {
        who: Identity,
        cluster: Option<Uuid>,
        /// What the acceptor remembers of the dialer.
        remembered: raft::Promise,
        /// The connection's name in datagrams; `None`: the acceptor takes none.
        datagrams: Option<ConnectionId>,
    },
    /// Acceptor declines, in a sentence for people.
    Reject {
        why: String,
    },
    /// Answer to `Ask`.
    DiscoveryAnswer(DiscoveryAnswer),
    /// The new node is a learner of this cluster (or was a member already).
    Joined {
        cluster: Uuid,
        members: Vec<(NodeId, Addresses)>,
        /// Their identities: the new node drops messages of others.
        identities: Vec<Identity>,
    },
    /// Consensus.
    Raft(raft::Message),
    /// What the sender remembers of the receiver, when that has changed for the worse.
    Remembered(raft::Promise),
    Gossip(heartbeat::GossipTable),
    /// To which nodes the sender has just redirected clients: node and count.
    HandedOut(Vec<(NodeId, u32)>),
    /// What a follower's clients ask of the leader, in order, each with its number there. `order` counts these frames on
    /// this connection, from 0: those in datagrams may overtake others. `None`: another node passes it on.
    Forward {
        order: Option<u64>,
        asks: Vec<(u64, Ask)>,
    },
    /// Answers to `Forward`, by number.
    Forwarded(Vec<(u64, Forwarded)>),
    /// What the coming snapshot covers.
    SnapshotHead {
        term: Term,
        meta: raft::SnapshotMeta,
        bytes: u64,
    },
    /// Part of it, in order.
    SnapshotChunk {
        offset: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Receiver's last word: all there, durable; or why not.
    SnapshotDone {
        ok: bool,
        why: String,
    },
    /// Acceptor's answer to a hello where there is a secret: who it is, its cluster, and its proof over all that was
    /// said.
    AcceptorProof {
        who: Identity,
        cluster: Option<Uuid>,
        proof: [u8; 32],
    },
    /// Dialer's, to an acceptor that has proved itself. The welcome follows, and each frame has a tag from there on.
    DialerProof {
        proof: [u8; 32],
    },
    /// A client of the sender has published this message.
    Published {
        #[serde(with = "serde_bytes")]
        channel: Vec<u8>,
        #[serde(with = "serde_bytes")]
        message: Vec<u8>,
    },
    /// A client of the sender continues a SCAN with this cursor of the receiver.
    AskScan {
        cursor: u64,
    },
    /// Answer to `AskScan`: the key after which that scan continues, if it is known.
    Scan {
        cursor: u64,
        position: Option<serde_bytes::ByteBuf>,
    },
    /// The acceptor cannot talk to this dialer. `cluster`: the one that its data belongs to, `None` for a node without
    /// data. Versions before 16 send `Reject`.
    Differs {
        what: Mismatch,
        cluster: Option<Uuid>,
    },
    /// What `config.json` of every host is to contain: the text of the newest version, from the leader.
    ConfigFile(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The sender stops, and gives its vote back.
    Goodbye,
    /// A frame for a node to which the sender has no working connection: the receiver passes it on over its own
    /// connection, once. `frame` is an encoded [`Frame`] of the kinds that [`Frame::may_be_relayed`] names.
    Relay {
        from: Identity,
        to: Identity,
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
    },
    /// Is the receiver there? The sender is about to send clients to it.
    Probe,
    /// Answer to `Probe`.
    ProbeAnswer,
    /// What no datagram has brought in time: received once, by whichever way comes first.
    Pieces(Vec<Piece>),
    /// Answer to `Pieces`: datagrams may be blocked in both directions, or in one.
    Acked(Ack),
}

impl Frame {
    /// Whether it may go as a datagram: many of them, small, and late ones are of no use; or a client waits for them.
    pub fn may_be_datagram(&self) -> bool {
        matches!(
            self,
            Frame::Raft(_)
                | Frame::Gossip(_)
                | Frame::Forward { .. }
                | Frame::Forwarded(_)
                | Frame::Relay { .. }
                | Frame::Probe
                | Frame::ProbeAnswer
        )
    }

    /// Whether another node may pass it on. A heartbeat table is not: that it arrives shows that the connection works,
    /// and its rows come from other nodes too.
    pub fn may_be_relayed(&self) -> bool {
        matches!(
            self,
            Frame::Raft(_)
                | Frame::Remembered(_)
                | Frame::HandedOut(_)
                | Frame::Forward { .. }
                | Frame::Forwarded(_)
                | Frame::Published { .. }
                | Frame::AskScan { .. }
                | Frame::Scan { .. }
                | Frame::ConfigFile(_)
                | Frame::Goodbye
                | Frame::Probe
                | Frame::ProbeAnswer
        )
    }
}

/// A request of a client that its node forwards to the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Run this service command through the log, once.
    Command {
        tag: Tag,
        /// With its routing byte.
        #[serde(with = "serde_bytes")]
        command: Vec<u8>,
        /// Answer when it is in the leader's log, without waiting for a quorum.
        is_accepted_enough: bool,
    },
    /// Change the membership by one step.
    Change(raft::Change),
    /// Transfer the leadership; `None`: to any voter.
    Transfer(Option<NodeId>),
}

/// Outcome of a forwarded command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// Applied at this index; the service's reply.
    Done { index: Index, reply: Reply },
    /// Certainly not applied.
    Refused { why: Reason },
    /// The receiver does not lead: certainly not applied, ask the leader.
    NotLeader,
    /// The leader lost its office meanwhile; it may or may not be applied.
    Unknown { why: UnknownReason },
}

impl Forwarded {
    /// Bytes on the wire, about.
    pub fn size(&self) -> usize {
        match self {
            Forwarded::Done { reply: Reply::Ok(bytes), .. } => bytes.len() + 16,
            Forwarded::Done { reply: Reply::Failed(why), .. } => why.len() + 16,
            Forwarded::Refused { why: Reason::Unreadable(text) | Reason::NoBackup(text) } => text.len() + 16,
            Forwarded::Refused { .. } | Forwarded::Unknown { .. } | Forwarded::NotLeader => 64,
        }
    }

    /// The answer, or another one if it is too large for a frame.
    pub fn within(self, bytes_max: usize) -> Forwarded {
        match (self.size(), self) {
            (size, Forwarded::Done { index, .. }) if size > bytes_max => {
                let why = format!("applied, but the answer of {size} bytes is too large to forward: ask the leader");
                Forwarded::Done { index, reply: Reply::Failed(why) }
            }
            (_, other) => other,
        }
    }
}

/// What a node knows about its cluster, for any process that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryAnswer {
    /// Its cluster; `None`: it looks for one itself.
    pub cluster: Option<Uuid>,
    pub id: Option<NodeId>,
    pub term: Term,
    /// The leader it follows, and where.
    pub leader: Option<(NodeId, Addresses)>,
    pub members: Vec<(NodeId, Addresses)>,
    /// Setting `cluster_name`.
    pub name: String,
    /// While it looks for a cluster: the claim to bootstrap one that it makes or has granted.
    pub claim: Option<Uuid>,
    /// Which uuid has the asker's number in the newest membership that it knows.
    pub holder: Option<Uuid>,
    /// What it remembers of the asker, from its welcome.
    #[serde(skip)]
    pub remembered: raft::Promise,
    /// Who answers, from its welcome.
    #[serde(skip)]
    pub who: Option<Identity>,
}

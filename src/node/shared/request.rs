//! A request to the node, from the endpoint or thread that makes it to the one that answers it.
//!
//! Not here: requests that wait (`node/threads/core/pending_requests.rs`), what is sent to other nodes (`wire/`).

use super::link::Link;
use crate::outcome::Outcome;
use crate::raft;
use crate::services::Reply;
use crate::services::sessions::Tag;
use crate::types::{Index, NodeId};
use crate::wire::{Forwarded, Frame};
use crossbeam_channel::Sender;
use std::fmt::Debug;
use std::time::Instant;

/// Answer to a request: index of the entry (0 where there is none) and the service's reply.
pub type Answered = Outcome<(Index, Reply)>;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Sees every write acknowledged before it was called.
    Linearizable,
    /// What this node has applied so far.
    Eventual,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// When a quorum has it and it is applied; the answer is the service's reply.
    Applied,
    /// When the leader has appended it to its log, before a quorum has it; the answer is an empty reply.
    Accepted,
}

#[derive(Clone, Debug)]
pub enum Operation {
    /// Run this service command, which begins with its routing byte, through the log, once. `tag`: `None`: this node
    /// assigns one.
    Command { tag: Option<Tag>, command: Vec<u8>, ack: Ack },
    /// Change the membership by one step.
    Change(raft::Change),
    /// Transfer leadership; `None`: to the best live voter.
    Transfer(Option<NodeId>),
    /// Query the services; `query` begins with its routing byte.
    Query { query: Vec<u8>, level: Level },
}

#[derive(Debug)]
pub struct Request {
    pub operation: Operation,
    /// When the client gives up.
    pub deadline: Instant,
    pub reply: ReplyTo,
}

/// Receives the answer to one request, on whichever thread has it: it must not wait for anything.
pub trait Waiter: Send + Debug {
    /// Called once.
    fn answer(self: Box<Self>, answered: Answered);
}

#[derive(Debug)]
pub enum ReplyTo {
    /// A connection thread of this node that waits for it.
    Local(Sender<Answered>),
    /// An endpoint or thread of this node that does not wait.
    Callback(Box<dyn Waiter>),
    /// The node that forwarded it, and its number there.
    Peer(Link, u64),
    /// It has been answered.
    Discard,
}

impl ReplyTo {
    /// Sends the answer; only the first call has an effect. A client that has disconnected is ignored.
    pub fn answer(&mut self, answered: Answered) {
        match std::mem::replace(self, ReplyTo::Discard) {
            ReplyTo::Local(to) => {
                let _ = to.try_send(answered);
            }
            ReplyTo::Callback(waiter) => waiter.answer(answered),
            ReplyTo::Peer(link, number) => link.send(&Frame::Forwarded(vec![(number, answered.into())])),
            ReplyTo::Discard => {}
        }
    }
}

impl From<Answered> for Forwarded {
    fn from(answered: Answered) -> Forwarded {
        match answered {
            Outcome::Done((index, reply)) => Forwarded::Done { index, reply },
            Outcome::Refused(why) => Forwarded::Refused { why },
            Outcome::Unknown(why) => Forwarded::Unknown { why },
        }
    }
}

/// A query of the services, and who asks.
pub type Question = (Vec<u8>, ReplyTo);

pub fn transferred(to: NodeId) -> Answered {
    Outcome::Done((Index(0), Reply::Ok(to.0.to_le_bytes().to_vec())))
}

/// The new leader that the reply to a leadership transfer names.
pub fn transferred_to(reply: &Reply) -> Option<NodeId> {
    match reply {
        Reply::Ok(bytes) => bytes.as_slice().try_into().ok().map(|id| NodeId(u64::from_le_bytes(id))),
        Reply::Failed(_) => None,
    }
}

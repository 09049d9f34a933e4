//! What can happen in a virtual world, and what travels in it between nodes.
//!
//! Not here: the queue and what an event leads to (`world.rs`, `sim/steps/`).

use super::model::operations::ClientResult;
use crate::raft::{Message, SnapshotMeta};
use crate::services::jobs::JobId;
use crate::types::NodeId;
use std::sync::Arc;

/// What travels between nodes.
#[derive(Clone, Debug)]
pub enum Packet {
    Raft(Message),
    /// A command for the leader, from the host of another node.
    Forward {
        life: u64,
        token: u64,
        command: Arc<[u8]>,
    },
    /// Its answer.
    Forwarded {
        life: u64,
        token: u64,
        result: ClientResult,
    },
}

#[derive(Debug)]
pub enum SimEvent {
    Tick {
        node: usize,
        life: u64,
    },
    /// A packet arrives.
    Packet {
        from: usize,
        to: usize,
        packet: Box<Packet>,
    },
    /// A disk has done what it was doing.
    DiskDone {
        node: usize,
        life: u64,
    },
    /// Committed entries reach the service.
    Apply {
        node: usize,
        life: u64,
    },
    /// A node's worker checks its assigned jobs.
    Work {
        node: usize,
        life: u64,
    },
    /// A program ends.
    Ended {
        node: usize,
        life: u64,
        job: JobId,
        attempt: u32,
    },
    /// A snapshot of the own service is written.
    Save {
        node: usize,
        life: u64,
        meta: Box<SnapshotMeta>,
        bytes: Vec<u8>,
    },
    /// A piece of a snapshot arrives.
    Chunk {
        transfer: u64,
    },
    /// The sender learns how streaming ended.
    Sent {
        node: usize,
        life: u64,
        to: NodeId,
        ok: bool,
    },
    /// A received snapshot is durable.
    Received {
        node: usize,
        life: u64,
        transfer: u64,
    },
    /// A process starts.
    Start {
        node: usize,
    },
    /// A paused process continues.
    Thaw {
        node: usize,
    },
    /// The next crash of a crash loop.
    Doom {
        node: usize,
        life: u64,
    },
    /// A node is notified about a link.
    Link {
        node: usize,
        life: u64,
        about: usize,
        is_up: bool,
    },
    /// Strike with a fault, and again later.
    Fault {
        at: usize,
    },
    /// Nodes stop in order.
    Departures,
    /// A node says that it stops.
    Goodbye {
        node: usize,
        life: u64,
    },
    /// It ends.
    Depart {
        node: usize,
        life: u64,
    },
    /// Mend the network.
    Mend,
    /// A disk is well again.
    DiskWell {
        node: usize,
    },
    /// A client does something next.
    Wake {
        client: usize,
    },
    /// A client's request arrives at a node.
    Request {
        client: usize,
        attempt: u64,
        node: usize,
    },
    Reply {
        client: usize,
        attempt: u64,
        result: ClientResult,
    },
    /// A client has waited long enough for an attempt.
    Deadline {
        client: usize,
        attempt: u64,
    },
    /// The membership driver acts.
    Driver,
    /// All nodes but one die.
    LastStanding,
    /// A process dies.
    Kill {
        node: usize,
        down_us: u64,
    },
    /// A node considers hosting the voters of dead processes.
    Takeover {
        node: usize,
        life: u64,
    },
    /// A tick of the voters that a node hosts.
    HostedTick {
        node: usize,
        life: u64,
    },
    /// A message reaches a voter that the node hosts.
    ToHosted {
        node: usize,
        life: u64,
        message: Box<Message>,
    },
    /// A message of a voter that the node hosts.
    FromHosted {
        node: usize,
        life: u64,
        message: Box<Message>,
    },
    /// A node receives gossip.
    Gossip {
        node: usize,
        life: u64,
    },
    /// A hostile process sends a message.
    Hostile,
    /// A state is altered without a log entry.
    Alter,
    /// The leader puts a checkpoint into the log.
    Checkpoint,
    /// Faults stop.
    LivenessPhase,
    /// Look whether progress has returned.
    Look,
}

//! Messages between the threads of a node: one closed enum for each inbox.
//!
//! Not here: how an inbox is reached (`inboxes.rs`), what a thread does with its messages (`node/threads/`).

use super::memory::Reservation;
use super::request::{Question, ReplyTo, Request};
use crate::cluster::gossip::GossipTable;
use crate::raft::{Entry, Message, Persist, Promise, SnapshotMeta};
use crate::services::directory::Nodes;
use crate::services::jobs::{End, JobId};
use crate::services::kv::Bytes;
use crate::services::registry::Registry;
use crate::store::{CutJob, SnapshotReader, Spare, StoreError};
use crate::types::{Addresses, Identity, Index, NodeId, Term};
use crate::wire::{Ask, Forwarded};
use crate::work::runtimes::AvailableRuntime;
use crate::work::sandbox::Sandbox;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For `core`.
#[derive(Debug)]
pub enum CoreInput {
    /// A message from a peer, its sender verified.
    Raft(Message),
    /// There is an outgoing connection to the peer; a question and its answer took this long.
    LinkUp {
        peer: NodeId,
        round_trip: Duration,
    },
    /// The peer's process is gone: its connection broke and dialing again was refused.
    LinkLost(NodeId),
    /// This node hosts this voter, and reaches it.
    Hosting(Identity),
    /// It no longer does.
    Released(Identity),
    /// Frames go to the peer another way than before: what was sent may be lost.
    Rerouted(NodeId),
    /// The peer's connection to us ended.
    PeerClosed(Identity),
    /// What a peer remembers of this node's promises. `compared` gets a message if the link may be used.
    Remembered {
        by: Identity,
        promise: Promise,
        compared: Option<Sender<()>>,
    },
    /// A member answers at this address, which may differ from the known one.
    Found {
        who: Identity,
        addresses: Addresses,
    },
    /// A node has connected. `is_proved`: it knows the cluster's secret.
    Met {
        who: Identity,
        addresses: Addresses,
        is_proved: bool,
    },
    /// A peer that this node trusts names a node of this cluster (`raft/guard.rs`).
    Vouched(Identity),
    /// This identity answered at the address of a member of the same number, where another identity was expected.
    Answers(Identity),
    Directory(Arc<Nodes>),
    /// The services have applied the entries that [`ApplyJob::Notify`] waited for.
    Applied,
    /// Everything up to this job is synced, and its promises were sent.
    Synced(u64),
    /// The services' snapshot at this index is on disk.
    SnapshotSaved(Index),
    /// A leader's snapshot is complete on disk beside the log.
    SnapshotReceived {
        from: Identity,
        term: Term,
        meta: SnapshotMeta,
        done: Sender<bool>,
    },
    /// Streaming a snapshot to a follower ended.
    SnapshotSent {
        to: NodeId,
        ok: bool,
    },
    /// A request of a client of this node.
    Request(Request),
    /// Requests of clients of another node.
    Forward {
        from: Identity,
        asks: Vec<(u64, Ask)>,
    },
    /// The leader's answers to what this node forwarded.
    Forwarded(Vec<(u64, Forwarded)>),
    /// Another node asks for this node's state.
    CopyState {
        reply: Sender<(SnapshotMeta, Registry)>,
    },
    /// A state from another node is on disk beside the log, to replace this node's, which is wrong. `reply`: whether
    /// the log contains all entries after it; if so, `apply` waits for the bytes in `data`, and then sends `done`.
    ReplaceState {
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        reply: Sender<Result<(), String>>,
        done: Sender<Result<(), String>>,
    },
    /// Whether this node's state is known to be wrong.
    Corrupt(bool),
    /// This node stops, or that one.
    Goodbye(Identity),
    /// Console command `L`.
    Lead,
    /// Whether less than the reserve is free on the disk.
    DiskLow(bool),
    Stop,
}

/// For `disk`.
#[derive(Debug)]
pub enum DiskJob {
    /// Write, sync, then send the promises.
    Persist { persist: Persist, promises: Vec<Message> },
    /// The same for a received snapshot that replaces the log; it goes to `data`, to be read, once it is in place.
    Install { persist: Persist, promises: Vec<Message>, data: Sender<SnapshotReader> },
    /// The services' state at this index is durable: drop the log below it from the store; the thread that asked
    /// removes the files.
    Compact { index: Index, job: Sender<CutJob> },
    /// The log's next segment, prepared in advance.
    Spare(Result<Spare, StoreError>),
    /// End the thread after what is queued.
    Stop,
}

/// For `apply`.
#[derive(Debug)]
pub enum ApplyJob {
    /// Committed entries in order, each with the requests that wait for it; then a snapshot, if one is due.
    Entries {
        run: Vec<(Entry, Vec<ReplyTo>)>,
        snapshot_meta: Option<SnapshotMeta>,
    },
    /// Queries for a state that has applied `at_least`.
    Queries {
        at_least: Index,
        queries: Vec<Question>,
    },
    /// Send [`CoreInput::Applied`] once what was sent before is applied.
    Notify,
    /// Replace the services' state by a snapshot, once the disk has it.
    Install {
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
    },
    /// Give a copy of the state as it is at this index.
    Copy {
        meta: SnapshotMeta,
        reply: Sender<(SnapshotMeta, Registry)>,
    },
    /// Replace a state that is wrong by the one in `data`, of the index of `meta`, and apply the later entries again.
    Replace {
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        run: Vec<Entry>,
        done: Sender<Result<(), String>>,
    },
    /// Change one part of the state without a log entry: only in a lab.
    Alter {
        part: u8,
    },
    /// Answer when the job has ended, or when a state of `at_least` (an index that the caller knows to be applied on
    /// some node) does not contain it.
    Await {
        job: JobId,
        at_least: Index,
        deadline: Instant,
        reply: ReplyTo,
    },
    /// The node stops: answer every client that waits for a job.
    AnswerWaiting,
    Stop,
}

/// For `gossip`.
#[derive(Debug)]
pub enum GossipInput {
    Heard {
        from: NodeId,
        table: GossipTable,
    },
    /// A peer's port refuses connections.
    Refused(NodeId),
    /// The front door of this node has redirected clients: inform the other front doors.
    HandedOut,
    /// The leader, the members or their addresses have changed.
    Changed,
    Stop,
}

/// For `watch`.
#[derive(Debug)]
pub enum WatchInput {
    Applied,
    /// A client waits until the key has another revision than this one; `changed` gets one message then.
    Watch {
        key: Bytes,
        revision: u64,
        deadline: Instant,
        changed: Sender<()>,
    },
    /// The node has begun to stop, or its threads are to end: `Shared` says which.
    Stop,
}

/// For `chat`.
#[derive(Debug)]
pub enum ChatInput {
    /// The chat has changed, or a client has begun to follow it.
    Changed,
    /// The node has begun to stop, or its threads are to end: `Shared` says which.
    Stop,
}

/// For `pubsub`.
#[derive(Debug)]
pub enum PubSubInput {
    /// Another node's client has published a message. `held`: its bytes in the memory budget.
    Published {
        channel: Vec<u8>,
        message: Vec<u8>,
        held: Reservation,
    },
    Stop,
}

/// For `takeover`.
#[derive(Debug)]
pub enum TakeoverInput {
    /// A message of raft to a voter that is hosted here.
    Message(Message),
    Stop,
}

/// For `worker`.
#[derive(Debug)]
pub enum WorkerInput {
    JobsChanged,
    /// The machine was probed: how programs are sandboxed, or why they cannot be, and which languages were found.
    Ready {
        sandbox: Result<Sandbox, String>,
        found: Vec<AvailableRuntime>,
    },
    /// A program has ended, or (`Err`) was not started.
    Ended {
        job: JobId,
        attempt: u32,
        end: Result<End, String>,
    },
    /// Whether a sandbox can be built now, probed again because one did not start.
    Sandbox(Result<Sandbox, String>),
    /// The end that was proposed was answered. `is_taken`: the log contains it.
    EndAnswered {
        job: JobId,
        attempt: u32,
        is_taken: bool,
    },
    /// A linearizable read was answered: this node follows the log.
    Current,
    /// End all programs, and the thread.
    Stop,
}

//! Messages between the threads of a node: one closed enum for each inbox.
//!
//! Not here: how an inbox is reached (`inboxes.rs`), what a thread does with its messages (`node/threads/`).

use super::request::{Question, ReplyTo, Request};
use crate::cluster::gossip::Table;
use crate::raft::{Entry, Message, Persist, Promise, SnapshotMeta};
use crate::services::directory::Nodes;
use crate::services::jobs::{End, JobId};
use crate::services::kv::Bytes;
use crate::services::registry::Registry;
use crate::store::{CutJob, SnapshotReader, Spare, StoreError};
use crate::types::{Addresses, Identity, Index, NodeId, Term};
use crate::wire::{Ask, Forwarded};
use crate::work::runtimes::Found;
use crate::work::sandbox::Sandbox;
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::time::Instant;

/// For `core`.
#[derive(Debug)]
pub enum CoreInput {
    /// A message from a peer, its sender verified.
    Raft(Message),
    /// The outgoing connection to a peer stands.
    LinkUp(NodeId),
    /// The peer's process is gone: its connection broke and dialing again was refused.
    LinkLost(NodeId),
    /// The peer's connection to us ended.
    PeerClosed(Identity),
    /// What a peer remembers of this node's promises.
    Remembered { by: Identity, promise: Promise, compared: Option<Sender<()>> },
    /// A member answers at this address, which is not the one that is known.
    Found { who: Identity, addresses: Addresses },
    /// A node said who and where it is; `is_proved`: and that it knows the cluster's secret.
    Met { who: Identity, addresses: Addresses, is_proved: bool },
    /// A peer that this node trusts names a node of this cluster (`raft/guard.rs`).
    Vouched(Identity),
    /// This identity answered at the address of the member whose number it has, where another was expected.
    Answers(Identity),
    /// The directory changed.
    Directory(Arc<Nodes>),
    /// The disk has everything up to this job; the promises that rest on it have left.
    Synced(u64),
    /// The services' snapshot at this index is on disk.
    SnapshotSaved(Index),
    /// A leader's snapshot arrived whole and is on disk beside the log.
    SnapshotReceived { from: Identity, term: Term, meta: SnapshotMeta, done: Sender<bool> },
    /// Streaming a snapshot to a follower ended.
    SnapshotSent { to: NodeId, ok: bool },
    /// A client of this node asks.
    Request(Request),
    /// Clients of another node ask, through it.
    Forward { from: Identity, asks: Vec<(u64, Ask)> },
    /// The leader answers what this node forwarded.
    Forwarded(Vec<(u64, Forwarded)>),
    /// Another node asks for this node's state.
    CopyState { reply: Sender<(SnapshotMeta, Registry)> },
    /// A state that another node gave is on disk beside the log, to replace this node's, which is wrong. `reply`: whether the log
    /// holds what comes after it; then `apply` waits for the bytes in `data`, and says `done`.
    ReplaceState {
        meta: SnapshotMeta,
        data: Receiver<SnapshotReader>,
        reply: Sender<Result<(), String>>,
        done: Sender<Result<(), String>>,
    },
    /// This node's state is, or is no longer, known to be wrong.
    Corrupt(bool),
    /// Console `L`.
    Lead,
    /// The disk is, or is no longer, below its reserve.
    DiskLow(bool),
    /// End the thread.
    Stop,
}

/// For `disk`.
#[derive(Debug)]
pub enum DiskJob {
    /// Write, sync, then let the promises go.
    Persist { persist: Persist, promises: Vec<Message> },
    /// The same for a received snapshot that replaces the log; it goes to `data`, to be read, once it is in place.
    Install { persist: Persist, promises: Vec<Message>, data: Sender<SnapshotReader> },
    /// The services' state at this index is durable: drop the log below it from the store; the thread that asked
    /// removes the files.
    Compact { index: Index, job: Sender<CutJob> },
    /// The log's next segment, made beforehand.
    Spare(Result<Spare, StoreError>),
    /// End the thread after what is queued.
    Stop,
}

/// For `apply`.
#[derive(Debug)]
pub enum ApplyJob {
    /// Committed entries in order, each with those who wait for its commands; then a snapshot, if one is due.
    Entries { run: Vec<(Entry, Vec<ReplyTo>)>, snapshot_meta: Option<SnapshotMeta> },
    /// Questions for a state that has applied `at_least`.
    Queries { at_least: Index, queries: Vec<Question> },
    /// Replace the services' state by a snapshot, once the disk has it.
    Install { meta: SnapshotMeta, data: Receiver<SnapshotReader> },
    /// Give a copy of the state as it is at this index.
    Copy { meta: SnapshotMeta, reply: Sender<(SnapshotMeta, Registry)> },
    /// Replace a state that is wrong by the one that comes in `data`, of the index of `meta`, and apply again what this node
    /// had applied after it.
    Replace { meta: SnapshotMeta, data: Receiver<SnapshotReader>, run: Vec<Entry>, done: Sender<Result<(), String>> },
    /// Change one part of the state without a log entry: only in a lab.
    Alter { part: u8 },
    /// Answer the job when it has ended, or when a state of `at_least` has no such job (any more).
    Await {
        /// The job.
        job: JobId,
        /// An index that the caller knows to be applied on some node.
        at_least: Index,
        /// When the caller gives up.
        deadline: Instant,
        /// Gets one answer.
        reply: ReplyTo,
    },
    /// The node stops: each client that waits for a job is answered with the job's present state.
    LetGo,
    /// End the thread.
    Stop,
}

/// For `gossip`.
#[derive(Debug)]
pub enum GossipInput {
    /// A peer's table.
    Heard { from: NodeId, table: Table },
    /// A peer's port refuses connections.
    Refused(NodeId),
    /// The front door of this node sent a client there: tell the other front doors.
    HandedOut(NodeId),
    /// The leader, the members or their addresses have changed.
    Changed,
    /// End the thread.
    Stop,
}

/// For `watch`.
#[derive(Debug)]
pub enum WatchInput {
    /// Something was applied.
    Applied,
    /// A client waits until the key's revision is another than this one.
    Watch {
        /// The key.
        key: Bytes,
        /// What the client knows.
        revision: u64,
        /// When it gives up.
        deadline: Instant,
        /// Gets one message.
        changed: Sender<()>,
    },
    /// The node has begun to stop, or its threads are to end: see which.
    Stop,
}

/// For `chat`.
#[derive(Debug)]
pub enum ChatInput {
    /// The chat has changed, or a client has begun to follow it.
    Changed,
    /// The node stops: check how far the stop has progressed.
    Stop,
}

/// For `worker`.
#[derive(Debug)]
pub enum WorkerInput {
    /// The jobs have changed.
    Look,
    /// What this machine has was found out: a way to sandbox programs, or why there is none, and its languages.
    Ready {
        /// How programs are shut in.
        sandbox: Result<Sandbox, String>,
        /// What it can run.
        found: Vec<Found>,
    },
    /// A program has ended.
    Ended {
        /// Of which job.
        job: JobId,
        /// In which attempt.
        attempt: u32,
        /// How; or why the program never began.
        end: Result<End, String>,
    },
    /// Whether sandboxes can be built now, asked again because one did not start.
    Sandbox(Result<Sandbox, String>),
    /// What became of an end that was proposed.
    EndAnswered {
        /// Of which job.
        job: JobId,
        /// In which attempt.
        attempt: u32,
        /// The log has it, whatever the jobs said to it.
        is_taken: bool,
    },
    /// A linearizable read was answered: this node follows the log.
    Current,
    /// End all programs, and the thread.
    Stop,
}

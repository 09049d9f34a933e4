//! What all connections of the Redis server share. Not here: the list of connections (`clients.rs`).

use super::commands::store::scripts::Loaded;
use crate::node::Handle;
use crossbeam_channel::Sender;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use uuid::Uuid;

/// Size that a value is assumed to have until larger ones are seen.
const VALUE_BYTES_MIN: usize = 4 << 10;

/// Shared by all connections.
pub struct ServerState {
    pub handle: Handle,
    /// Scripts that clients have loaded.
    pub scripts: Loaded,
    pub counts: Counts,
    pub started: Instant,
    /// Drawn at the start, as Redis does: INFO shows it.
    pub run_id: Uuid,
    /// Bytes of the largest value that was read or written here: an estimate for replies to reads.
    largest: AtomicUsize,
    /// Inbox of the `resp-drain` thread.
    slow: Sender<u64>,
}

/// Counts since the start.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub rejected: AtomicU64,
    pub commands: AtomicU64,
    pub protocol_errors: AtomicU64,
}

impl ServerState {
    /// A server that starts now. `slow`: the inbox of the `resp-drain` thread.
    pub fn new(handle: Handle, slow: Sender<u64>) -> ServerState {
        let run_id = Uuid::new_v4();
        ServerState {
            handle,
            scripts: Loaded::default(),
            counts: Counts::default(),
            started: Instant::now(),
            run_id,
            largest: AtomicUsize::new(0),
            slow,
        }
    }

    /// Takes note of a value's size.
    pub fn note_size(&self, bytes: usize) {
        if bytes > self.largest.load(Relaxed) {
            self.largest.fetch_max(bytes, Relaxed);
        }
    }

    /// The possible size of one value, as far as this node knows, and at least a few KiB. Values that clients have just
    /// sent may be larger than any in the store.
    pub fn value_bytes(&self) -> usize {
        self.largest.load(Relaxed).max(self.handle.largest_value()).max(VALUE_BYTES_MIN)
    }

    /// Has `resp-drain` send what a client's socket did not accept; `false`: its inbox is full.
    pub fn drain(&self, client: u64) -> bool {
        self.slow.try_send(client).is_ok()
    }
}

//! What all connections of one listener share: the node behind it, deadlines, counts, and the few things that there is
//! one of per server.
//!
//! Not here: accepting (`acceptor.rs`), what a connection does (`router.rs`, `front.rs`).

use super::host::Host;
use super::password_hasher::Passwords;
use super::protocol::conn::Deadlines;
use super::protocol::response::Origin;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What all connections of one listener share.
pub struct Server {
    /// The node behind it.
    pub host: Arc<dyn Host>,
    /// How long each phase of a connection may take.
    pub deadlines: Deadlines,
    /// For `/metrics`.
    pub counts: Counts,
    /// The newest frame as a table for people with curl, with the sequence number that it was made from.
    pub(crate) table: Mutex<(u64, Arc<str>)>,
    /// Passwords of the chat that are being hashed.
    pub(crate) passwords: Passwords,
    /// A database is being loaded: one at a time.
    pub(crate) is_loading: AtomicBool,
}

/// Counts of one server since its start.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Counts {
    pub accepted: AtomicU64,
    pub turned_away: AtomicU64,
    pub accept_errors: AtomicU64,
    pub open: AtomicU64,
    pub requests: AtomicU64,
    pub refused_requests: AtomicU64,
    pub slow_readers_dropped: AtomicU64,
}

impl Server {
    /// A server in front of a node.
    pub fn new(host: Arc<dyn Host>, deadlines: Deadlines) -> Arc<Server> {
        Arc::new(Server {
            host,
            deadlines,
            counts: Counts::default(),
            table: Mutex::new((0, "".into())),
            passwords: Passwords::default(),
            is_loading: AtomicBool::new(false),
        })
    }

    /// The leader that this node knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.host.status().status.cluster.leader.map(|leader| leader.0)
    }

    /// When a request that begins now has waited for the node for long enough (setting `request_timeout_ms`).
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.host.request_timeout()
    }

    /// Where a response of this server comes from.
    pub(crate) fn origin(&self) -> Origin {
        let frame = self.host.status();
        let status = &frame.status;
        let applied = status.nodes.iter().find(|row| row.id == status.node.id).map_or(0, |row| row.applied_index.0);
        Origin {
            node: status.node.id.0,
            leader: status.cluster.leader.map(|leader| leader.0),
            term: status.cluster.term.0,
            index: applied,
        }
    }
}

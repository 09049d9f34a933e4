//! What all connections of one listener share: the node, deadlines and counts.
//!
//! Not here: accepting (`acceptor.rs`), what a connection does (`router.rs`, `front_door.rs`).

use super::password_hasher::Passwords;
use super::protocol::conn::Conn;
use super::protocol::deadlines::{Deadlines, is_timeout};
use super::protocol::guard;
use super::protocol::head::Head;
use super::protocol::response::Origin;
use super::request_times::RequestTimes;
use crate::address;
use crate::lock::{Mutex, Permit};
use crate::node::{Addressing, Connections, Reports, Requests, Sql, SqlFiles, Watching};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The node behind a server: a [`crate::node::Handle`], or a test's.
pub trait Host:
    Addressing + Connections + Requests + Watching + Reports + Sql + SqlFiles + Send + Sync + 'static
{
}

impl<T> Host for T where
    T: Addressing + Connections + Requests + Watching + Reports + Sql + SqlFiles + Send + Sync + 'static
{
}

/// What all connections of one listener share.
pub struct Server {
    pub host: Arc<dyn Host>,
    pub deadlines: Deadlines,
    /// For `/metrics`.
    pub counts: ServerCounts,
    /// The newest frame as a table, with the sequence number of the frame.
    pub(crate) table: Mutex<(u64, Arc<str>)>,
    /// Passwords of the chat that are being hashed.
    pub(crate) passwords: Passwords,
    /// Held by the thread of a connection to the front door while it answers a request.
    pub(crate) turn: Mutex<()>,
    /// Held while a database is loaded: one at a time.
    pub(crate) loading: Permit,
}

/// Counts of one server since its start.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct ServerCounts {
    pub accepted: AtomicU64,
    pub turned_away: AtomicU64,
    pub accept_errors: AtomicU64,
    pub open: AtomicU64,
    pub requests: AtomicU64,
    pub refused_requests: AtomicU64,
    pub slow_readers_dropped: AtomicU64,
    pub times: RequestTimes,
}

impl Server {
    /// A server in front of a node.
    pub fn new(host: Arc<dyn Host>, deadlines: Deadlines) -> Arc<Server> {
        Arc::new(Server {
            host,
            deadlines,
            counts: ServerCounts::default(),
            table: Mutex::new((0, "".into())),
            passwords: Passwords::default(),
            turn: Mutex::new(()),
            loading: Permit::new(),
        })
    }

    /// The leader that this node knows.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.host.status().status.cluster.leader.map(|leader| leader.0)
    }

    /// The host by which a client reaches nodes on loopback addresses: the one by which it came, as `Host` or else its
    /// connection names it. `None`: nodes have addresses that fit any client.
    pub(crate) fn host_for(&self, head: &Head, client: &Conn) -> Option<String> {
        let settings = self.host.settings();
        if settings.advertise_host.is_some() || !address::is_unspecified(&settings.host) {
            return None;
        }
        match address::split(&head.host) {
            Some((name, _)) if guard::check_host(&*self.host, head).is_ok() => Some(name.to_string()),
            _ => client.local_ip().map(|ip| ip.to_string()),
        }
    }

    /// Setting `request_timeout_ms`.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.host.settings().request_timeout_ms)
    }

    /// Until when a request that begins now waits for the node.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.request_timeout()
    }

    /// Default file name of a program in this language, if the language is in the settings.
    pub(crate) fn file_name(&self, language: &str) -> Option<&str> {
        let runtime = self.host.settings().runtimes.iter().find(|runtime| runtime.language == language)?;
        Some(&runtime.file_name)
    }

    /// Counts a stream that ended because its client did not read.
    pub(crate) fn count_slow_reader(&self, result: &io::Result<()>) {
        if result.as_ref().is_err_and(is_timeout) {
            self.counts.slow_readers_dropped.fetch_add(1, Relaxed);
        }
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

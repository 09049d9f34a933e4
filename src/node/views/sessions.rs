//! The client connections of this node: its load, and the list on the page.
//!
//! Not here: what a connection does (`http/`), the cap on threads (`node/handle.rs`).

use super::status::Session;
use crate::lock::{Mutex, lock};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

struct Open {
    kind: &'static str,
    peer: SocketAddr,
    since: Instant,
}

/// All client connections.
#[derive(Default)]
pub struct Sessions {
    open: Mutex<BTreeMap<u64, Open>>,
    opened_total: AtomicU64,
    changes: AtomicU64,
}

impl Sessions {
    /// Registers a connection; returns its key for the methods below.
    pub fn open(&self, kind: &'static str, peer: SocketAddr) -> u64 {
        let key = self.opened_total.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.open).insert(key, Open { kind, peer, since: Instant::now() });
        self.changes.fetch_add(1, Ordering::Relaxed);
        key
    }

    pub fn set_kind(&self, key: u64, kind: &'static str) {
        if let Some(open) = lock(&self.open).get_mut(&key) {
            open.kind = kind;
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn close(&self, key: u64) {
        lock(&self.open).remove(&key);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Present number of connections: the load.
    pub fn count(&self) -> usize {
        lock(&self.open).len()
    }

    /// Present number of connections of each kind.
    pub fn count_by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        lock(&self.open).values().for_each(|open| *counts.entry(open.kind).or_insert(0) += 1);
        counts
    }

    /// Connections ever.
    pub fn opened_total(&self) -> u64 {
        self.opened_total.load(Ordering::Relaxed)
    }

    /// Grows with every change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The newest `max` of them, newest first.
    pub fn newest(&self, max: usize) -> Vec<Session> {
        let open = lock(&self.open);
        let newest = open.iter().rev().take(max);
        newest
            .map(|(key, session)| Session {
                id: id_of(*key),
                kind: session.kind.to_string(),
                peer: session.peer.to_string(),
                age_ms: session.since.elapsed().as_millis() as u64,
            })
            .collect()
    }
}

/// A client connection that counts as load until it is dropped.
pub struct SessionGuard {
    sessions: Arc<Sessions>,
    key: u64,
    id: String,
}

impl SessionGuard {
    pub fn open(sessions: Arc<Sessions>, kind: &'static str, peer: SocketAddr) -> SessionGuard {
        let key = sessions.open(kind, peer);
        SessionGuard { sessions, key, id: id_of(key) }
    }

    /// Eight hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Says what the connection turned out to be: `monitor`, `stream`, `api`, `watch`.
    pub fn set_kind(&self, kind: &'static str) {
        self.sessions.set_kind(self.key, kind);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.sessions.close(self.key);
    }
}

/// Eight hexadecimal digits that do not look like a counter, distinct for 2^32 sessions: an odd factor is a bijection.
pub fn id_of(key: u64) -> String {
    let mixed = (key as u32).wrapping_mul(0x9e37_79b1).rotate_left(15).wrapping_mul(0x85eb_ca77);
    format!("{mixed:08x}")
}

#[cfg(test)]
mod tests {
    use crate::node::views::sessions::*;

    #[test]
    fn load_counts_what_is_open_and_the_newest_come_first() {
        let sessions = Sessions::default();
        let peer: SocketAddr = "127.0.0.1:5".parse().unwrap();
        let keys: Vec<u64> = (0..3).map(|_| sessions.open("api", peer)).collect();
        sessions.set_kind(keys[2], "monitor");
        sessions.close(keys[0]);
        assert_eq!((sessions.count(), sessions.opened_total()), (2, 3));
        let newest = sessions.newest(1);
        assert_eq!((newest[0].id.clone(), newest[0].kind.as_str()), (id_of(keys[2]), "monitor"));
    }

    #[test]
    fn ids_differ() {
        let ids: std::collections::BTreeSet<String> = (0..10_000).map(id_of).collect();
        assert_eq!(ids.len(), 10_000);
    }
}

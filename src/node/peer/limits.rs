//! Limits for the number of connections on the peer port.
//!
//! A connection is unknown until its handshake has named a known identity. There are few places for unknown ones. When
//! all are taken, the oldest connection is closed: the handshake of a member takes milliseconds and only needs one of
//! the newest. A known identity has places of its own that no other identity can take; when they are taken, the oldest
//! of its connections that is silent is closed, because that one is half open. Without a `cluster_secret` a process of
//! this machine can claim a member's identity: it can take that member's places while they are free, and no more bytes
//! than that member may have, but it cannot cause a connection to be closed over which something is received.
//!
//! Invariant: P1 there are no more than [`UNKNOWN_CONNECTIONS_MAX`] unknown connections, each with a small buffer.
//! Not here: reading frames (`acceptor.rs`), the memory that frames take (`node/peer/frame_memory.rs`).

use crate::lock::{Mutex, lock};
use crate::types::Identity;
use crate::wire::Purpose;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Connections whose handshake has named no known identity yet. More: the oldest is closed.
pub const UNKNOWN_CONNECTIONS_MAX: usize = 64;
/// Connections of one known identity for one purpose: the present one, and an earlier one whose end was not noticed
/// yet. More: the oldest that is silent is closed; if none is, the new one, and its dialer tries again.
const OF_ONE_MAX: usize = 2;
/// A connection over which nothing was received (or sent, where this node is the sender) for so long may be half open:
/// gossip alone sends five times a second.
const SILENT_MS: u64 = 2000;
/// Connections of known identities. More: the new one is closed, and its dialer tries again.
const KNOWN_MAX: usize = 512;

/// The connections of the peer port.
#[derive(Debug)]
pub struct ConnectionTable {
    began: Instant,
    open: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    newest: u64,
    unknown: VecDeque<OpenConnection>,
    known: BTreeMap<(Identity, u8), VecDeque<OpenConnection>>,
}

#[derive(Debug)]
struct OpenConnection {
    number: u64,
    stream: Arc<TcpStream>,
    heard_ms: Arc<AtomicU64>,
}

/// The entry of one connection, until it is dropped.
#[derive(Debug)]
pub struct ConnectionEntry {
    table: Arc<ConnectionTable>,
    number: u64,
    /// When something was last received, by [`ConnectionTable::now_ms`].
    heard_ms: Arc<AtomicU64>,
}

impl Default for ConnectionTable {
    fn default() -> ConnectionTable {
        ConnectionTable { began: Instant::now(), open: Mutex::default() }
    }
}

impl ConnectionTable {
    /// Milliseconds since the start, plus [`SILENT_MS`].
    fn now_ms(&self) -> u64 {
        SILENT_MS + self.began.elapsed().as_millis() as u64
    }

    fn is_silent(&self, open: &OpenConnection) -> bool {
        self.now_ms().saturating_sub(open.heard_ms.load(Ordering::Relaxed)) >= SILENT_MS
    }

    /// The place of an unknown one for a connection that was just accepted.
    pub fn enter(self: &Arc<ConnectionTable>, stream: Arc<TcpStream>) -> ConnectionEntry {
        let heard_ms = Arc::new(AtomicU64::new(self.now_ms()));
        let mut table = lock(&self.open);
        table.newest += 1;
        let number = table.newest;
        table.unknown.push_back(OpenConnection { number, stream, heard_ms: Arc::clone(&heard_ms) });
        while table.unknown.len() > UNKNOWN_CONNECTIONS_MAX {
            table.unknown.pop_front().iter().for_each(OpenConnection::close);
        }
        ConnectionEntry { table: Arc::clone(self), number, heard_ms }
    }
}

impl ConnectionEntry {
    /// The connection is of a known identity; returns whether there is a place for it.
    pub fn recognize(&self, who: Identity, purpose: &Purpose) -> bool {
        let mut table = lock(&self.table.open);
        let Some(at) = table.unknown.iter().position(|open| open.number == self.number) else {
            // Closed meanwhile, or recognized before.
            return table.known.values().flatten().any(|open| open.number == self.number);
        };
        let key = (who, of(purpose));
        if let Some(own) = table.known.get_mut(&key).filter(|own| own.len() >= OF_ONE_MAX) {
            let Some(silent) = own.iter().position(|open| self.table.is_silent(open)) else { return false };
            own.remove(silent).iter().for_each(OpenConnection::close);
        }
        if table.known.values().map(VecDeque::len).sum::<usize>() >= KNOWN_MAX {
            return false;
        }
        let Some(open) = table.unknown.remove(at) else { return false };
        self.touch();
        table.known.entry(key).or_default().push_back(open);
        true
    }

    /// Something was received, or sent.
    pub fn touch(&self) {
        self.heard_ms.store(self.table.now_ms(), Ordering::Relaxed);
    }

    /// Closes the connection, wherever it stands.
    pub fn close(&self) {
        let table = lock(&self.table.open);
        let all = table.unknown.iter().chain(table.known.values().flatten());
        all.filter(|open| open.number == self.number).for_each(OpenConnection::close);
    }

    /// How long nothing was received, or sent.
    pub fn silence(&self) -> Duration {
        Duration::from_millis(self.table.now_ms().saturating_sub(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// Whether the identity is heard over another connection for this purpose: then the end of this one means nothing.
    pub fn is_one_of_many(&self, who: Identity, purpose: &Purpose) -> bool {
        let table = lock(&self.table.open);
        let own = table.known.get(&(who, of(purpose)));
        own.is_some_and(|own| own.iter().any(|open| open.number != self.number && !self.table.is_silent(open)))
    }
}

impl Drop for ConnectionEntry {
    fn drop(&mut self) {
        let mut table = lock(&self.table.open);
        table.unknown.retain(|open| open.number != self.number);
        table.known.retain(|_, own| {
            own.retain(|open| open.number != self.number);
            !own.is_empty()
        });
    }
}

impl OpenConnection {
    /// Closes the connection, so that its thread ends.
    fn close(&self) {
        // Fails if the other side has gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// Purposes that have places of their own.
fn of(purpose: &Purpose) -> u8 {
    match purpose {
        Purpose::Peer => 0,
        Purpose::Snapshot => 1,
        Purpose::Ask | Purpose::Join { .. } | Purpose::State | Purpose::Claim { .. } => 2,
    }
}

#[cfg(test)]
mod tests {
    use crate::node::peer::limits::*;
    use crate::types::NodeId;
    use std::io::Read;
    use std::net::TcpListener;
    use uuid::Uuid;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    #[test]
    fn unknown_connections_replace_each_other_and_never_a_members() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let places = Arc::new(ConnectionTable::default());
        let come = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            (client, places.enter(Arc::new(listener.accept().unwrap().0)))
        };
        let is_closed = |client: &TcpStream| {
            client.set_nonblocking(true).unwrap();
            matches!((&mut &*client).read(&mut [0]), Ok(0))
        };
        let member = come();
        assert!(member.1.recognize(who(2), &Purpose::Peer) && member.1.recognize(who(2), &Purpose::Peer));
        let unknown: Vec<_> = (0..UNKNOWN_CONNECTIONS_MAX + 3).map(|_| come()).collect();
        let closed = unknown.iter().filter(|(client, _)| is_closed(client)).count();
        assert_eq!((closed, is_closed(&member.0)), (3, false));
        assert!(is_closed(&unknown[0].0) && !unknown[0].1.recognize(who(3), &Purpose::Peer), "its place is gone");
        let other = come();
        assert!(other.1.recognize(who(2), &Purpose::Snapshot) && !is_closed(&member.0), "another purpose");
        drop((member, unknown, other));
        let table = lock(&places.open);
        assert!(table.unknown.is_empty() && table.known.is_empty());
    }

    #[test]
    fn a_member_loses_no_connection_that_is_heard_to_one_that_takes_its_name() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let places = Arc::new(ConnectionTable::default());
        let come = || {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            (client, places.enter(Arc::new(listener.accept().unwrap().0)))
        };
        let is_closed = |client: &TcpStream| matches!((&mut &*client).read(&mut [0]), Ok(0));
        let member = come();
        assert!(member.1.recognize(who(2), &Purpose::Peer) && !member.1.is_one_of_many(who(2), &Purpose::Peer));
        let claims: Vec<_> = (0..3).map(|_| come()).collect();
        let has_place = |(_, place): &(TcpStream, ConnectionEntry)| place.recognize(who(2), &Purpose::Peer);
        assert_eq!(claims.iter().map(has_place).collect::<Vec<_>>(), [true, false, false]);
        assert!(!is_closed(&member.0) && member.1.is_one_of_many(who(2), &Purpose::Peer));
        // What is half open makes room, be it the older or the newer one.
        claims[0].1.heard_ms.store(places.now_ms() - SILENT_MS, Ordering::Relaxed);
        assert!(!member.1.is_one_of_many(who(2), &Purpose::Peer));
        assert!(has_place(&claims[1]) && is_closed(&claims[0].0) && !is_closed(&member.0));
        member.1.heard_ms.store(places.now_ms() - SILENT_MS, Ordering::Relaxed);
        member.1.touch();
        assert!(!has_place(&claims[2]) && !is_closed(&member.0), "it has spoken again");
        drop((member, claims));
        let table = lock(&places.open);
        assert!(table.unknown.is_empty() && table.known.is_empty());
    }
}

//! How many connections there may be on the peer port.
//!
//! A connection is a stranger's until its handshake has named a known identity. Strangers have few places: beyond them the
//! oldest is closed, as a member's handshake takes milliseconds and needs one of the newest. A known identity has places of its
//! own, so nobody else can take them; beyond those its oldest connection is closed, which is the one that is half open. Without
//! a `cluster_secret` a process of this machine can claim a member's identity: it takes that member's places.
//!
//! Invariant: P1 strangers hold no more than [`STRANGERS_MAX`] connections, each with a small buffer.
//! Not here: reading frames (`acceptor.rs`), the memory that frames take (`node/shared/peer_frames.rs`).

use crate::node::shared::lock;
use crate::types::Identity;
use crate::wire::Purpose;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

/// Connections of strangers. More: the oldest is closed.
pub const STRANGERS_MAX: usize = 64;
/// Connections of one known identity for one purpose: the present one, and the one before it that has not been seen to end.
/// More: the oldest is closed.
const OF_ONE_MAX: usize = 2;
/// Connections of known identities. More: the newcomer is closed, and its dialer tries again.
const KNOWN_MAX: usize = 512;

/// The connections of the peer port.
#[derive(Debug, Default)]
pub struct Places(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    newest: u64,
    strangers: VecDeque<Open>,
    known: BTreeMap<(Identity, u8), VecDeque<Open>>,
}

type Open = (u64, Arc<TcpStream>);

/// The place of one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    /// A stranger's place for a connection that was just accepted.
    pub fn enter(self: &Arc<Places>, stream: Arc<TcpStream>) -> Place {
        let mut table = lock(&self.0);
        table.newest += 1;
        let number = table.newest;
        table.strangers.push_back((number, stream));
        close_beyond(&mut table.strangers, STRANGERS_MAX);
        Place { places: Arc::clone(self), number }
    }
}

impl Place {
    /// The connection turned out to be of a known identity; whether there is a place for it.
    pub fn recognize(&self, who: Identity, purpose: &Purpose) -> bool {
        let mut table = lock(&self.places.0);
        let Some(at) = table.strangers.iter().position(|(number, _)| *number == self.number) else {
            // Closed meanwhile, or recognized before.
            return table.known.values().flatten().any(|(number, _)| *number == self.number);
        };
        if table.known.values().map(VecDeque::len).sum::<usize>() >= KNOWN_MAX {
            return false;
        }
        let Some(open) = table.strangers.remove(at) else { return false };
        let purpose = match purpose {
            Purpose::Peer => 0,
            Purpose::Snapshot => 1,
            Purpose::Ask | Purpose::Join { .. } | Purpose::State => 2,
        };
        let own = table.known.entry((who, purpose)).or_default();
        own.push_back(open);
        close_beyond(own, OF_ONE_MAX);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = lock(&self.places.0);
        table.strangers.retain(|(number, _)| *number != self.number);
        table.known.retain(|_, own| {
            own.retain(|(number, _)| *number != self.number);
            !own.is_empty()
        });
    }
}

/// Closes the oldest; their threads end by themselves.
fn close_beyond(all: &mut VecDeque<Open>, most: usize) {
    while all.len() > most {
        if let Some((_, stream)) = all.pop_front() {
            // Fails if the other side has gone already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::node::peer::limits::*;
    use crate::types::NodeId;
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;
    use uuid::Uuid;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    #[test]
    fn strangers_push_out_strangers_and_never_a_member() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let places = Arc::new(Places::default());
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
        let strangers: Vec<_> = (0..STRANGERS_MAX + 3).map(|_| come()).collect();
        let closed = strangers.iter().filter(|(client, _)| is_closed(client)).count();
        assert_eq!((closed, is_closed(&member.0)), (3, false));
        assert!(is_closed(&strangers[0].0) && !strangers[0].1.recognize(who(3), &Purpose::Peer), "its place is gone");
        // Who takes a member's name takes that member's places.
        let same: Vec<_> = (0..3).map(|_| come()).collect();
        assert!(same.iter().all(|(_, place)| place.recognize(who(2), &Purpose::Peer)));
        assert!(is_closed(&member.0) && is_closed(&same[0].0) && !is_closed(&same[1].0));
        let other = come();
        assert!(other.1.recognize(who(2), &Purpose::Snapshot) && !is_closed(&same[1].0), "another purpose");
        drop((member, strangers, same, other));
        let table = lock(&places.0);
        assert!(table.strangers.is_empty() && table.known.is_empty());
    }
}

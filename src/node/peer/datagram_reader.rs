//! The thread `datagrams`: reads the datagrams of all peers from one socket.
//!
//! Each belongs to a connection that a peer has made, by the id in it. All input is from outside: what belongs to no
//! connection, is not signed as that connection's, or was received before is counted and dropped. Nothing is ever sent
//! to the address that a datagram comes from: acknowledgements go to the peer's own address, over the link to it.
//! Not here: which connections there are (`node/datagrams/`), what frames mean (`acceptor.rs`).

use super::acceptor::{belongs, note_arrival, take_pieces};
use crate::node::shared::Shared;
use crate::raft::Refused;
use crate::warn_seldom;
use crate::wire::datagram::{ConnectionId, DATAGRAM_BYTES_MAX, Datagram};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pause after an error of the socket.
const PAUSE: Duration = Duration::from_millis(20);

/// Reads until the node stops.
pub fn read_all(shared: &Arc<Shared>, socket: &UdpSocket) {
    // One byte more: a longer datagram is seen to be too long.
    let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
    loop {
        let received = socket.recv(&mut buffer);
        if shared.is_stopped() {
            return;
        }
        match received {
            Ok(len) => take(shared, &buffer[..len]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => {
                warn_seldom!("cannot read datagrams err=\"{e}\"");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn take(shared: &Arc<Shared>, bytes: &[u8]) {
    let counters = &shared.datagrams.counters;
    let count = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
    let Some(incoming) = ConnectionId::of(bytes).and_then(|connection| shared.datagrams.find(connection)) else {
        return count(&counters.unknown);
    };
    let Some(key) = &incoming.key else { return };
    let Ok((sequence, datagram)) = key.decode(bytes) else { return count(&counters.malformed) };
    if !incoming.is_new(sequence) {
        return count(&counters.repeated);
    }
    if !belongs(shared, incoming.from) {
        return shared.counters.refuse_frame(Refused::UnknownSender(incoming.from));
    }
    count(&counters.received);
    note_arrival(shared, &incoming, &shared.heard.of(incoming.from.id));
    let Datagram { is_lossy, wants_ack, ack, pieces } = datagram;
    let is_acked = wants_ack || !pieces.is_empty();
    if let Err(e) = take_pieces(shared, &incoming, pieces) {
        count(&counters.malformed);
        warn_seldom!("protocol error of peer peer={} err={e}", incoming.from.id);
        return incoming.place.close();
    }
    if let Some(link) = shared.links().get(&incoming.from.id).filter(|link| link.who == incoming.from) {
        if is_lossy {
            link.on_asked();
        }
        if let Some(ack) = ack {
            link.on_ack(&ack, true);
        }
        if let Some(ack) = incoming.ack().filter(|_| is_acked) {
            link.acknowledge(ack);
        }
    }
}

//! Datagrams beside the peer connections: small frames that a link which loses packets would hold up for seconds.
//!
//! The tour: [`outgoing::Outgoing`] decides for one link when datagrams are sent, and repeats what is not acknowledged;
//! [`incoming::Incoming`] puts frames of one accepted connection together again, each once and in order;
//! `forward_order.rs` keeps the order of forwarded requests, of which large ones go over the connection; `patience.rs`
//! says how long that may stand still. This file has the sockets, and which connections there are.
//! Not here: the bytes (`wire/datagram_codec.rs`), the thread that reads (`node/peer/datagram_reader.rs`), which links
//! lose packets (`node/threads/core/link_loss.rs`).

pub mod forward_order;
pub mod incoming;
pub mod outgoing;
pub mod patience;

use self::incoming::Incoming;
use self::outgoing::Outgoing;
use crate::faults::switch;
use crate::lock::{Mutex, lock};
use crate::node::lab;
use crate::types::NodeId;
use crate::wire::datagram::ConnectionId;
use crate::wire::datagram_codec::DatagramKey;
use rustix::net::SendFlags;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The node's UDP sockets, on the peer port; none on loopback, where no packet is lost.
#[derive(Debug, Default)]
pub struct Datagrams {
    sockets: Vec<Arc<UdpSocket>>,
    /// Connections that others have made to this node.
    open: Mutex<BTreeMap<ConnectionId, Arc<Incoming>>>,
    pub counters: DatagramCounters,
}

/// Figures for `/metrics`.
#[derive(Debug, Default)]
pub struct DatagramCounters {
    pub received: AtomicU64,
    /// Of no connection that there is.
    pub unknown: AtomicU64,
    /// With a wrong tag or checksum, or impossible.
    pub malformed: AtomicU64,
    /// Received before.
    pub repeated: AtomicU64,
}

/// Datagrams that were sent, of all links.
static SENT: AtomicU64 = AtomicU64::new(0);

/// How many datagrams this process has sent.
pub fn sent_total() -> u64 {
    SENT.load(Ordering::Relaxed)
}

impl Datagrams {
    pub fn new(sockets: Vec<UdpSocket>) -> Datagrams {
        Datagrams { sockets: sockets.into_iter().map(Arc::new).collect(), ..Datagrams::default() }
    }

    pub fn sockets(&self) -> &[Arc<UdpSocket>] {
        &self.sockets
    }

    /// The name for a connection that is being accepted, if this node takes datagrams.
    pub fn name(&self) -> Option<ConnectionId> {
        (!self.sockets.is_empty()).then(ConnectionId::random)
    }

    /// From now on datagrams of the connection are taken.
    pub fn open(&self, incoming: &Arc<Incoming>) {
        if let Some(key) = &incoming.key {
            lock(&self.open).insert(key.connection, Arc::clone(incoming));
        }
    }

    /// The connection has ended.
    pub fn close(&self, incoming: &Incoming) {
        if let Some(key) = &incoming.key {
            lock(&self.open).remove(&key.connection);
        }
    }

    pub fn find(&self, connection: ConnectionId) -> Option<Arc<Incoming>> {
        lock(&self.open).get(&connection).map(Arc::clone)
    }

    /// The way for datagrams of a connection that this node has made to `peer` at `to`; `None` on loopback outside a lab.
    /// It took `round_trip` to make it.
    pub fn path(&self, key: DatagramKey, peer: NodeId, to: SocketAddr, round_trip: Duration) -> Option<DatagramPath> {
        if to.ip().to_canonical().is_loopback() && switch::get().is_none() {
            return None;
        }
        let outgoing = Outgoing::new(key, round_trip);
        let family = |socket: &&Arc<UdpSocket>| socket.local_addr().is_ok_and(|own| own.is_ipv4() == to.is_ipv4());
        if let Some(socket) = self.sockets.iter().find(family) {
            return Some(DatagramPath { outgoing, peer, socket: Arc::clone(socket), to });
        }
        // A socket of `::` reaches IPv4 as well.
        let (IpAddr::V4(ip), Some(socket)) = (to.ip(), self.sockets.first()) else { return None };
        let to = SocketAddr::new(ip.to_ipv6_mapped().into(), to.port());
        Some(DatagramPath { outgoing, peer, socket: Arc::clone(socket), to })
    }

    /// Wakes the threads that read, so that they see that the node has stopped.
    pub fn wake(&self) {
        for socket in &self.sockets {
            // If it is not received, the thread sees it within its read timeout.
            let _ = socket.local_addr().and_then(|own| socket.send_to(&[], own));
        }
    }
}

/// The way for datagrams of one link. They go to the address to which the connection was made, regardless of the source of
/// others.
#[derive(Debug)]
pub struct DatagramPath {
    pub outgoing: Outgoing,
    peer: NodeId,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
}

impl DatagramPath {
    /// Sends without waiting; what the system does not take is lost.
    pub fn send_due(&mut self, now: Instant) {
        for bytes in self.outgoing.due(now) {
            SENT.fetch_add(1, Ordering::Relaxed);
            if switch::get().is_some_and(|it| !lab::datagrams::passes(it, self.peer, &self.socket, self.to, &bytes)) {
                continue;
            }
            let sent = rustix::net::sendto(&self.socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &self.to);
            if let Err(e) = sent {
                log::debug!("datagram not sent to={} err={}", self.to, io::Error::from(e));
            }
        }
    }
}

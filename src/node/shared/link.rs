//! One outgoing connection to a peer, for all who write to it.
//!
//! A thread that has a frame writes it to the socket itself, without waiting: waking a thread costs more than writing
//! most frames. What the socket does not accept at once is left to the thread `send-m`, which may wait. If the
//! connection is down or too far behind, the frame is dropped; raft and gossip treat that like a loss on the network.
//! While the link loses packets, small frames go as datagrams (`node/datagrams/`).
//!
//! While the connection does not work, frames go to the connection of another node, which passes them on (`Relay`): so
//! nobody who writes to a peer needs to know how it is reached.
//!
//! Invariants: L1 the bytes of `Wire::rest` come before any frame queued later. L2 no thread holds the wire's lock
//! while it waits for a socket, so `core` never waits for a peer. L3 no thread holds two of these locks.
//! Not here: the thread that keeps the connection (`node/peer/dialer.rs`), who gets a link (`node/threads/core/`), by
//! which node another one is reached (`cluster/reachability/relay.rs`).

use crate::limits::LINK_BYTES_MAX;
use crate::lock::{Mutex, lock};
use crate::node::datagrams::DatagramPath;
use crate::node::datagrams::outgoing::LOSSY_FOR;
use crate::node::datagrams::patience;
use crate::types::{Identity, NodeId};
use crate::warn_seldom;
use crate::wire::authentication::FrameTags;
use crate::wire::codec::{encode_body, encode_onto};
use crate::wire::datagram::Ack;
use crate::wire::{Ask, Frame};
use crossbeam_channel::Sender;
use log::{debug, info};
use rustix::net::SendFlags;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A turn that queues more than this writes in between.
const FLUSH_BYTES: usize = 256 << 10;

/// Frames that were dropped because no node would accept them.
static TOO_LARGE: AtomicU64 = AtomicU64::new(0);

/// Frames that were sent to another node, to be passed on.
static RELAYED: AtomicU64 = AtomicU64::new(0);

/// How many frames were sent to another node, to be passed on.
pub fn relayed_total() -> u64 {
    RELAYED.load(Ordering::Relaxed)
}

/// How many frames were dropped because they were larger than any node accepts.
pub fn too_large_total() -> u64 {
    TOO_LARGE.load(Ordering::Relaxed)
}

/// When a frame last arrived over a connection that each peer has made to this node, in milliseconds of
/// `Shared::now_ms`; 0: never. What others passed on does not count.
#[derive(Debug, Default)]
pub struct HeardTimes(Mutex<BTreeMap<NodeId, Arc<AtomicU64>>>);

impl HeardTimes {
    /// The time of one peer, for a thread that reads its frames. Peers are as many as members at most: a connection gets
    /// here after its identity is known.
    pub fn of(&self, peer: NodeId) -> Arc<AtomicU64> {
        Arc::clone(lock(&self.0).entry(peer).or_default())
    }
}

/// Messages to a `send-m` thread.
#[derive(Clone, Copy, Debug)]
pub enum LinkInput {
    /// Bytes are left that the socket did not accept.
    Drain,
    /// The peer has closed its connection to us, or a write has failed: check whether it is still there.
    Check,
    /// The peer was not heard for long, and is again. A connection that was made before this moment may stand still
    /// for seconds: TCP tries ever more seldom.
    Renew { made_before: Instant },
}

/// The connection, and what is to be written to it.
#[derive(Debug, Default)]
pub struct Wire {
    /// `None` while there is no connection.
    pub stream: Option<Arc<TcpStream>>,
    /// Tags of its frames, in the order of `rest`.
    pub tags: FrameTags,
    /// Whole frames; a part of the first one may have been sent already.
    pub rest: Vec<u8>,
    /// `send-m` is writing what came before `rest`.
    pub is_draining: bool,
    /// Frames of forwarded requests on this connection, whichever way they went.
    pub forwards: u64,
    /// `None`: no datagrams on this connection.
    pub datagrams: Option<DatagramPath>,
    /// It may stand still for longer than others (`node/datagrams/patience.rs`).
    pub is_patient: bool,
}

/// One connection, for its link and for links to peers that are reached through it.
#[derive(Clone, Debug)]
struct Line {
    peer: NodeId,
    wire: Arc<Mutex<Wire>>,
    inbox: Sender<LinkInput>,
}

/// How a peer is reached; its `send-m` thread has it too.
#[derive(Debug, Default)]
pub struct PeerRoute {
    /// Whether `through` has a line: read for each frame.
    is_relayed: AtomicBool,
    /// The line to the node that passes frames on.
    through: Mutex<Option<Line>>,
    /// The peer's port refused the last connection: its process is gone.
    is_refused: AtomicBool,
}

#[derive(Clone, Debug)]
pub struct Link {
    pub who: Identity,
    pub address: String,
    me: Identity,
    line: Line,
    route: Arc<PeerRoute>,
}

impl Link {
    /// A link without a thread, over which nothing is sent.
    #[cfg(test)]
    pub fn idle(who: Identity) -> Link {
        Link::new(who, who, String::new(), Arc::new(Mutex::default()), crossbeam_channel::bounded(1).0)
    }

    /// A link of node `me` whose `send-m` thread reads the other end of `inbox` and keeps `wire` connected.
    pub fn new(me: Identity, who: Identity, address: String, wire: Arc<Mutex<Wire>>, inbox: Sender<LinkInput>) -> Link {
        Link { who, address, me, line: Line { peer: who.id, wire, inbox }, route: Arc::default() }
    }

    /// From now on frames go through the link to another node, which passes them on; `None`: over this connection.
    /// Returns whether that is a change.
    pub fn set_way(&self, through: Option<&Link>) -> bool {
        self.route.set_line(through.map(|link| link.line.clone()))
    }

    pub fn route(&self) -> Arc<PeerRoute> {
        Arc::clone(&self.route)
    }

    /// Whether the peer's port refused the last connection: its process is gone.
    pub fn is_refused(&self) -> bool {
        self.route.is_refused.load(Ordering::SeqCst)
    }

    /// The node that passes frames on, if one does.
    fn through(&self, frame: &Frame) -> Option<Line> {
        let is_relayed = self.route.is_relayed.load(Ordering::Acquire) && frame.may_be_relayed();
        if is_relayed { lock(&self.route.through).clone() } else { None }
    }

    /// Writes a frame, now or as soon as the socket accepts it; drops it if the connection is down or far behind.
    pub fn send(&self, frame: &Frame) {
        self.queue(frame);
        self.flush();
    }

    /// Adds a frame to what the next [`Link::flush`] writes, under the same conditions.
    pub fn queue(&self, frame: &Frame) {
        if !self.queue_within(frame, LINK_BYTES_MAX) {
            debug!("link down or far behind, frame dropped peer={}", self.who.id);
        }
    }

    /// The same for a frame that the caller keeps if this returns false. Half of the buffer stays free for other
    /// frames.
    pub fn try_queue(&self, frame: &Frame) -> bool {
        self.queue_within(frame, LINK_BYTES_MAX / 2)
    }

    /// Writes a frame that is dropped if this returns false: the connection is down, or other frames would have to wait.
    pub fn try_send(&self, frame: &Frame, bytes_max: usize) -> bool {
        let is_queued = self.queue_within(frame, bytes_max);
        self.flush();
        is_queued
    }

    /// As [`Link::try_queue`], for requests of clients: they arrive in this order.
    pub fn try_forward(&self, asks: Vec<(u64, Ask)>) -> bool {
        match self.route.is_relayed.load(Ordering::Acquire) {
            // In the order in which the node that passes them on receives them.
            true => self.queue_within(&Frame::Forward { order: None, asks }, LINK_BYTES_MAX / 2),
            false => self.line.forward(asks),
        }
    }

    fn queue_within(&self, frame: &Frame, bytes_max: usize) -> bool {
        let Some(line) = self.through(frame) else { return self.line.queue_within(frame, bytes_max) };
        let Ok(body) = encode_body(frame) else { return self.line.queue_within(frame, bytes_max) };
        let frame = Frame::Relay { from: self.me, to: self.who, frame: body };
        // Half of the buffer stays free for the frames of that node itself.
        let is_queued = line.queue_within(&frame, bytes_max.min(LINK_BYTES_MAX / 2));
        RELAYED.fetch_add(u64::from(is_queued), Ordering::Relaxed);
        is_queued
    }

    /// Writes a frame of another node to this peer over its own connection: it is passed on once (Y1).
    pub fn pass_on(&self, frame: &Frame) -> bool {
        let is_queued = self.line.queue_within(frame, LINK_BYTES_MAX / 4);
        self.line.flush();
        is_queued
    }

    /// Writes what was queued as far as the socket accepts it without waiting; `send-m` writes the rest. Sends the
    /// datagrams that are due; returns whether some may be due again soon.
    pub fn flush(&self) -> bool {
        let is_waiting = self.line.flush();
        let through = match self.route.is_relayed.load(Ordering::Acquire) {
            true => lock(&self.route.through).clone(),
            false => None,
        };
        through.is_some_and(|line| line.flush()) || is_waiting
    }

    /// The link loses packets, as this node has seen: small frames go as datagrams for so long.
    pub fn on_loss(&self) {
        self.line.with_datagrams(|path, now| {
            if path.outgoing.on_loss(now, LOSSY_FOR) {
                info!("answers are late: small messages go as datagrams, too peer={}", self.who.id);
            }
        });
    }

    /// Whether the link loses packets or not, small frames go as datagrams for so long.
    pub fn use_datagrams(&self, lasts: Duration) {
        self.line.with_datagrams(|path, now| _ = path.outgoing.on_loss(now, lasts));
    }

    /// The peer says that the link loses packets.
    pub fn on_asked(&self) {
        self.line.with_datagrams(|path, now| path.outgoing.on_asked(now));
    }

    /// The peer has received these pieces. `by_datagram`: a datagram says so.
    pub fn on_ack(&self, ack: &Ack, by_datagram: bool) {
        self.line.with_datagrams(|path, now| path.outgoing.on_ack(now, ack, by_datagram));
    }

    /// Tells the peer what this node has received of its datagrams.
    pub fn acknowledge(&self, ack: Ack) {
        self.line.with_datagrams(|path, now| {
            path.outgoing.set_ack(ack);
            path.send_due(now);
        });
    }

    /// Whether the peer has a connection of this node, be it one that works or not.
    pub fn is_up(&self) -> bool {
        lock(&self.line.wire).stream.is_some()
    }

    /// Whether frames have a way to the peer.
    pub fn is_usable(&self) -> bool {
        self.route.is_relayed.load(Ordering::Acquire) || self.is_up()
    }

    /// Whether small frames go as datagrams now.
    pub fn is_lossy(&self) -> bool {
        let wire = lock(&self.line.wire);
        wire.datagrams.as_ref().is_some_and(|path| path.outgoing.is_on(Instant::now()))
    }

    /// Has the thread check whether the peer is still there.
    pub fn check(&self) {
        self.line.check();
    }

    /// Has the thread replace a connection that was made before this moment. What was sent over it and did not arrive is
    /// dropped.
    pub fn renew(&self, made_before: Instant) {
        // A full inbox means that the thread has just looked, or is about to.
        let _ = self.line.inbox.try_send(LinkInput::Renew { made_before });
    }
}

impl PeerRoute {
    fn set_line(&self, line: Option<Line>) -> bool {
        let peer = |line: &Option<Line>| line.as_ref().map(|line| line.peer);
        let mut present = lock(&self.through);
        let line = line.filter(|_| !self.is_refused.load(Ordering::SeqCst));
        let has_changed = peer(&present) != peer(&line);
        self.is_relayed.store(line.is_some(), Ordering::Release);
        *present = line;
        has_changed
    }

    /// The peer's port has refused a connection, or no longer does. While it does, nothing is sent to it through others
    /// either.
    pub fn set_refused(&self, is_refused: bool) {
        self.is_refused.store(is_refused, Ordering::SeqCst);
        if is_refused {
            self.set_line(None);
        }
    }
}

impl Line {
    fn forward(&self, asks: Vec<(u64, Ask)>) -> bool {
        let mut wire = lock(&self.wire);
        let frame = Frame::Forward { order: Some(wire.forwards), asks };
        let is_queued = self.queue_onto(&mut wire, &frame, LINK_BYTES_MAX / 2);
        wire.forwards += u64::from(is_queued);
        is_queued
    }

    fn queue_within(&self, frame: &Frame, bytes_max: usize) -> bool {
        self.queue_onto(&mut lock(&self.wire), frame, bytes_max)
    }

    fn queue_onto(&self, wire: &mut Wire, frame: &Frame, bytes_max: usize) -> bool {
        if wire.rest.len() >= FLUSH_BYTES {
            self.write(wire);
        }
        if wire.stream.is_none() {
            return false;
        }
        if let Some(path) = wire.datagrams.as_mut().filter(|_| frame.may_be_datagram()) {
            let now = Instant::now();
            let is_on = path.outgoing.is_on(now);
            if is_on && encode_body(frame).is_ok_and(|body| path.outgoing.try_add(now, &body)) {
                return true;
            }
        }
        if wire.rest.len() > bytes_max {
            return false;
        }
        let Wire { rest, tags, .. } = wire;
        let queued = encode_onto(rest, frame, tags);
        if let Err(e) = &queued {
            TOO_LARGE.fetch_add(1, Ordering::Relaxed);
            warn_seldom!("frame not sent peer={} err={e}", self.peer);
        }
        queued.is_ok()
    }

    fn flush(&self) -> bool {
        let mut wire = lock(&self.wire);
        let is_waiting = self.send_datagrams(&mut wire);
        self.write(&mut wire);
        is_waiting
    }

    fn send_datagrams(&self, wire: &mut Wire) -> bool {
        let Wire { stream, tags, rest, datagrams, is_patient, .. } = wire;
        let (Some(path), Some(stream)) = (datagrams, stream) else { return false };
        let now = Instant::now();
        let pieces = path.outgoing.for_connection(now);
        if !pieces.is_empty()
            && let Err(e) = encode_onto(rest, &Frame::Pieces(pieces), tags)
        {
            warn_seldom!("frame not sent peer={} err={e}", self.peer);
        }
        path.send_due(now);
        let is_arriving = path.outgoing.is_arriving(now);
        // If the system refuses it, the connection is about to end anyway.
        if *is_patient != is_arriving && patience::set(stream, is_arriving).is_ok() {
            *is_patient = is_arriving;
        }
        path.outgoing.is_waiting()
    }

    /// Changes the state of the datagrams, if there are any.
    fn with_datagrams(&self, change: impl FnOnce(&mut DatagramPath, Instant)) {
        if let Some(path) = &mut lock(&self.wire).datagrams {
            change(path, Instant::now());
        }
    }

    fn write(&self, wire: &mut Wire) {
        if wire.rest.is_empty() || wire.is_draining {
            return;
        }
        let Some(stream) = &wire.stream else { return };
        match rustix::net::send(stream, &wire.rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(taken) => {
                wire.rest.drain(..taken);
            }
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            Err(_) => return self.check(),
        }
        if !wire.rest.is_empty() {
            wire.is_draining = self.inbox.try_send(LinkInput::Drain).is_ok();
        } else if wire.rest.capacity() > 4 * FLUSH_BYTES {
            // Frees the memory after a burst.
            wire.rest = Vec::new();
        }
    }

    fn check(&self) {
        // A full inbox means that the thread will check anyway.
        let _ = self.inbox.try_send(LinkInput::Check);
    }
}

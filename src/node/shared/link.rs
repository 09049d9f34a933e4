//! One outgoing connection to a peer, for all who write to it.
//!
//! A thread that has a frame writes it to the socket itself, without waiting: waking a thread costs more than writing
//! most frames. What the socket does not accept at once is left to the thread `send-m`, which may wait. If the
//! connection is down or too far behind, the frame is dropped; raft and gossip treat that like a loss on the network.
//!
//! Invariants: L1 the bytes of `Wire::rest` come before any frame queued later. L2 no thread holds the wire's lock
//! while it waits for a socket, so `core` never waits for a peer.
//! Not here: the thread that keeps the connection (`node/peer/dialer.rs`), who gets a link (`node/threads/core/`).

use crate::limits::LINK_BYTES_MAX;
use crate::lock::{Mutex, lock};
use crate::types::Identity;
use crate::warn_seldom;
use crate::wire::Frame;
use crate::wire::authentication::FrameTags;
use crate::wire::codec::encode_onto;
use crossbeam_channel::Sender;
use log::debug;
use rustix::net::SendFlags;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A turn that queues more than this writes in between.
const FLUSH_BYTES: usize = 256 << 10;

/// Frames that were dropped because no node would accept them.
static TOO_LARGE: AtomicU64 = AtomicU64::new(0);

/// How many frames were dropped because they were larger than any node accepts.
pub fn too_large_total() -> u64 {
    TOO_LARGE.load(Ordering::Relaxed)
}

/// Messages to a `send-m` thread.
#[derive(Clone, Copy, Debug)]
pub enum LinkInput {
    /// Bytes are left that the socket did not accept.
    Drain,
    /// The peer has closed its connection to us, or a write has failed: check whether it is still there.
    Check,
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
}

/// One outgoing link.
#[derive(Clone, Debug)]
pub struct Link {
    /// The peer.
    pub who: Identity,
    pub address: String,
    wire: Arc<Mutex<Wire>>,
    inbox: Sender<LinkInput>,
}

impl Link {
    /// A link without a thread, over which nothing is sent.
    #[cfg(test)]
    pub fn idle(who: Identity) -> Link {
        Link { who, address: String::new(), wire: Arc::new(Mutex::default()), inbox: crossbeam_channel::bounded(1).0 }
    }

    /// A link whose `send-m` thread reads the other end of `inbox` and keeps `wire` connected.
    pub fn new(who: Identity, address: String, wire: Arc<Mutex<Wire>>, inbox: Sender<LinkInput>) -> Link {
        Link { who, address, wire, inbox }
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

    fn queue_within(&self, frame: &Frame, bytes_max: usize) -> bool {
        let mut wire = lock(&self.wire);
        if wire.rest.len() >= FLUSH_BYTES {
            self.write(&mut wire);
        }
        if wire.stream.is_none() || wire.rest.len() > bytes_max {
            return false;
        }
        let Wire { rest, tags, .. } = &mut *wire;
        let queued = encode_onto(rest, frame, tags);
        if let Err(e) = &queued {
            TOO_LARGE.fetch_add(1, Ordering::Relaxed);
            warn_seldom!("frame not sent peer={} err={e}", self.who.id);
        }
        queued.is_ok()
    }

    /// Writes what was queued as far as the socket accepts it without waiting; `send-m` writes the rest.
    pub fn flush(&self) {
        self.write(&mut lock(&self.wire));
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

    pub fn is_up(&self) -> bool {
        lock(&self.wire).stream.is_some()
    }

    /// Has the thread check whether the peer is still there.
    pub fn check(&self) {
        // A full inbox means that the thread will check anyway.
        let _ = self.inbox.try_send(LinkInput::Check);
    }
}

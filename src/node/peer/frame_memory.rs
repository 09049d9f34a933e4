//! The memory for large frames of peers that are being received.
//!
//! Each connection is read by its own thread, so without a bound every peer could make this node hold its largest frame
//! at once. A process that claims a member's identity gets no more bytes than that member may have.
//!
//! Invariant: F1 one large frame per identity is received at a time, and all of them together have at most
//! [`FRAMES_BYTES_MAX`] bytes.
//! Not here: how many connections there are (`node/peer/limits.rs`), the memory of clients (`node/shared/memory.rs`).

use crate::limits::FRAME_BYTES_MAX;
use crate::lock::{Mutex, lock, wait_while};
use crate::types::Identity;
use std::collections::BTreeSet;
use std::sync::Condvar;
use std::time::Instant;

/// Bytes of large frames that are being received. Full: the next frame waits, and so does its sender.
pub const FRAMES_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;

/// Frames up to this size need not wait: heartbeats, votes, gossip, short appends.
pub const SMALL_FRAME_BYTES: usize = 64 << 10;

/// Large frames that known identities are sending.
#[derive(Debug, Default)]
pub struct FrameMemory {
    received: Mutex<FramesInMemory>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct FramesInMemory {
    bytes: usize,
    by: BTreeSet<Identity>,
}

/// The reservation for a frame, until it is decoded.
#[derive(Debug)]
pub struct FrameBytes<'a> {
    frames: &'a FrameMemory,
    who: Identity,
    bytes: usize,
}

impl FrameMemory {
    /// Waits until there is room for a large frame; `None`: not by the deadline.
    pub fn hold(&self, who: Identity, bytes: usize, deadline: Instant) -> Option<FrameBytes<'_>> {
        assert!(bytes <= FRAMES_BYTES_MAX, "a frame of {bytes} bytes");
        let is_full = |it: &mut FramesInMemory| it.bytes + bytes > FRAMES_BYTES_MAX || it.by.contains(&who);
        let mut received = wait_while(&self.freed, lock(&self.received), deadline, is_full);
        if is_full(&mut received) {
            return None;
        }
        received.bytes += bytes;
        received.by.insert(who);
        Some(FrameBytes { frames: self, who, bytes })
    }

    /// Bytes of large frames that are being received now.
    pub fn used(&self) -> usize {
        lock(&self.received).bytes
    }
}

impl Drop for FrameBytes<'_> {
    fn drop(&mut self) {
        let mut received = lock(&self.frames.received);
        received.bytes -= self.bytes;
        received.by.remove(&self.who);
        self.frames.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crate::node::peer::frame_memory::*;
    use crate::types::NodeId;
    use std::time::Duration;
    use uuid::Uuid;

    fn who(id: u64) -> Identity {
        Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) }
    }

    #[test]
    fn large_frames_wait_for_each_other_and_one_identity_has_one() {
        let frames = FrameMemory::default();
        let soon = || Instant::now() + Duration::from_millis(20);
        let one = frames.hold(who(1), FRAME_BYTES_MAX, soon()).unwrap();
        assert!(frames.hold(who(1), 100, soon()).is_none(), "the same one");
        let two = frames.hold(who(2), FRAME_BYTES_MAX, soon()).unwrap();
        assert!(frames.hold(who(3), 100, soon()).is_none(), "all is taken");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| frames.hold(who(3), 100, Instant::now() + Duration::from_secs(20)).is_some());
            drop(one);
            assert!(waiting.join().unwrap());
        });
        drop(two);
        assert_eq!(frames.used(), 0);
    }
}

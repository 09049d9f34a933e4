//! The services' state from another node, to replace a state that is wrong.
//!
//! The log is not changed. The sender streams its present state; the receiver writes it beside its log as if it had
//! saved a snapshot there itself, replaces its services' state by it, and applies the later entries of its own log
//! again. So membership, term, vote and every entry that this node has acknowledged stay as they are.
//! Not here: which node needs a state and which may send it (`checkpoints.rs`), snapshots for a follower that is too
//! far behind (`transfer.rs`).

use super::transfer::{self, STALL_MAX};
use super::writer::{ByteCounter, SavePace};
use crate::limits::SNAPSHOT_FRAME_BYTES_MAX;
use crate::node::peer::dialer::{self, Dialed};
use crate::node::peer::limits::ConnectionEntry;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::types::{Identity, Index};
use crate::wire::authentication::{ConnectionTags, FrameTags};
use crate::wire::codec::{WireError, read_tagged, write_tagged};
use crate::wire::{Frame, Purpose};
use crossbeam_channel::bounded;
use log::info;
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for the head: a large database is copied first.
const HEAD_MAX: Duration = Duration::from_secs(120);
/// How long this node's own log may take to reach the index of the state.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// Time between two checks whether the log has reached it.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Bytes of one chunk on the wire.
const CHUNK_BYTES: usize = 1 << 20;

/// The sending side of one connection.
///
/// # Errors
/// When this node's own state may be wrong, or the receiver stalls.
pub fn send_state(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    tags: &mut ConnectionTags,
    to: Identity,
    connection: &ConnectionEntry,
) -> Result<(), WireError> {
    let ConnectionTags { outgoing, incoming, .. } = tags;
    let mut out = stream;
    let refuse = |mut out: &TcpStream, tags: &mut FrameTags, why: &str| {
        write_tagged(&mut out, &Frame::Reject { why: why.to_string() }, tags)
    };
    if !shared.view().raft.membership.is_member(&to) {
        return refuse(out, outgoing, "only members may fetch the state");
    }
    if shared.integrity.is_corrupt() || shared.integrity.is_split() {
        return refuse(out, outgoing, "this node's own state is not known to be correct");
    }
    let (reply, copy) = bounded(1);
    shared.inboxes.to_core(CoreInput::CopyState { reply });
    let Ok((meta, registry)) = copy.recv_timeout(STALL_MAX) else {
        return refuse(out, outgoing, "this node is too busy or stopping");
    };
    stream.set_write_timeout(Some(STALL_MAX))?;
    stream.set_read_timeout(Some(HEAD_MAX))?;
    let mut bytes = ByteCounter(0);
    registry.snapshot(&mut bytes)?;
    let term = shared.term();
    write_tagged(&mut out, &Frame::SnapshotHead { term, meta, bytes: bytes.0 }, outgoing)?;
    let (buffer, pace) = (Vec::with_capacity(CHUNK_BYTES), SavePace::begin());
    let mut chunks = Chunks { stream, connection, tags: outgoing, offset: 0, buffer, pace };
    registry.snapshot(&mut chunks)?;
    chunks.send()?;
    drop(registry);
    transfer::await_done(&mut out, incoming)?;
    info!("state sent peer={} bytes={}", to.id, bytes.0);
    Ok(())
}

/// Sends what is written as frames.
struct Chunks<'a> {
    stream: &'a TcpStream,
    connection: &'a ConnectionEntry,
    tags: &'a mut FrameTags,
    offset: u64,
    buffer: Vec<u8>,
    pace: SavePace,
}

impl Chunks<'_> {
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        let len = bytes.len() as u64;
        let mut to = self.stream;
        let chunk = Frame::SnapshotChunk { offset: self.offset, bytes };
        write_tagged(&mut to, &chunk, self.tags).map_err(io::Error::other)?;
        self.offset += len;
        self.connection.touch();
        self.pace.rest();
        Ok(())
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(CHUNK_BYTES - self.buffer.len())];
        self.buffer.extend_from_slice(taken);
        if self.buffer.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fetches the state of a node and replaces this node's state by it; returns the index of the state. This node must be
/// marked as corrupt, so that nothing else saves or serves its state meanwhile.
///
/// # Errors
/// A sentence: the state is unchanged, and another try may work.
pub fn fetch(shared: &Arc<Shared>, from: Identity, address: &str) -> Result<Index, String> {
    assert!(shared.integrity.is_corrupt(), "only a corrupt state may be replaced");
    try_fetch(shared, from, address).map_err(|e| e.to_string())
}

fn try_fetch(shared: &Arc<Shared>, from: Identity, address: &str) -> Result<Index, WireError> {
    let Dialed { stream: mut socket, mut tags, .. } =
        dialer::dial_as(shared, from, address, Purpose::State, STALL_MAX)?;
    socket.set_write_timeout(Some(STALL_MAX))?;
    socket.set_read_timeout(Some(HEAD_MAX))?;
    let done = receive(shared, &socket, &mut tags.incoming);
    // The sender needs the answer for its log only.
    let _ = write_tagged(&mut socket, &transfer::done_frame(&done), &mut tags.outgoing);
    done
}

fn receive(shared: &Arc<Shared>, socket: &TcpStream, tags: &mut FrameTags) -> Result<Index, WireError> {
    let mut reader = BufReader::with_capacity(64 << 10, socket);
    let (meta, bytes) = match read_tagged(&mut reader, SNAPSHOT_FRAME_BYTES_MAX, tags)? {
        Frame::SnapshotHead { meta, bytes, .. } => (meta, bytes),
        Frame::Reject { why } => return Err(WireError::Rejected(why)),
        _ => return Err(WireError::Unexpected("frame before a state's head")),
    };
    socket.set_read_timeout(Some(STALL_MAX))?;
    let permit = shared
        .incoming_snapshot
        .try_take()
        .ok_or_else(|| WireError::Rejected("a snapshot is being received".to_string()))?;
    let snapshots = shared.snapshots();
    let meta = transfer::receive_chunks(&snapshots, (&meta, bytes), &mut reader, tags, || ())?;
    let begun = Instant::now();
    loop {
        let (data, ready) = bounded(1);
        let (reply, answer) = bounded(1);
        let (done, is_done) = bounded(1);
        shared.inboxes.to_core(CoreInput::ReplaceState { meta: meta.clone(), data: ready, reply, done });
        match answer.recv_timeout(STALL_MAX) {
            Ok(Ok(())) => {
                // `apply` waits for it. From now on it is this node's newest snapshot.
                let reader = shared.disk_or_exit(snapshots.adopt(&meta));
                let _ = data.send(reader);
                return match is_done.recv() {
                    Ok(Ok(())) => Ok(meta.index),
                    Ok(Err(why)) => Err(WireError::Rejected(why)),
                    Err(_) => Err(WireError::Unexpected("end of the node")),
                };
            }
            // The entries that this node lacks may be in no log any more. Then only a snapshot of the leader brings it
            // forward, and that is refused as long as this one is being received.
            Ok(Err(why)) if permit.is_wanted() || begun.elapsed() > CATCH_UP_MAX || shared.is_stopping() => {
                return Err(WireError::Rejected(why));
            }
            Ok(Err(_)) => std::thread::sleep(RETRY_INTERVAL),
            Err(_) => return Err(WireError::Unexpected("silence of the core")),
        }
    }
}

//! Snapshots between nodes, each over a connection of its own, so that heartbeats never queue behind them.
//!
//! The sender streams the newest snapshot file in chunks; the receiver writes them beside its log, makes them durable,
//! asks `core` to put them in place, and only then answers "done".
//! Not here: when a follower needs one (`raft/`), the file format (`store/snapshot.rs`).

use super::core::CoreInput;
use super::links;
use super::shared::Shared;
use crate::limits::SNAPSHOT_FRAME_BYTES_MAX;
use crate::store::Snapshots;
use crate::types::{Identity, Term};
use crate::warn_seldom;
use crate::wire::codec::{WireError, read_frame, write_frame};
use crate::wire::{Frame, Purpose};
use log::info;
use std::io::{self, BufReader};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// Longest silence in the middle of a transfer.
const STALL_MAX: Duration = Duration::from_secs(10);

/// Body of a `snap-m` thread: sends the newest snapshot to a follower and reports to `core` how it went.
pub fn stream(shared: &Arc<Shared>, snapshots: &Snapshots, to: Identity, address: &str, term: Term) {
    let result = try_stream(shared, snapshots, to, address, term);
    match &result {
        Ok(bytes) => info!("snapshot sent peer={} bytes={bytes}", to.id),
        Err(e) => warn_seldom!("snapshot not sent peer={} err={e}", to.id),
    }
    shared.to_core(CoreInput::SnapshotSent { to: to.id, ok: result.is_ok() });
}

fn try_stream(
    shared: &Shared,
    snapshots: &Snapshots,
    to: Identity,
    address: &str,
    term: Term,
) -> Result<u64, WireError> {
    let mut reader =
        snapshots.newest().map_err(io::Error::other)?.ok_or(WireError::Unexpected("lack of a snapshot"))?;
    let (mut socket, _) = links::dial_as(shared, to, address, Purpose::Snapshot, STALL_MAX)?;
    socket.set_write_timeout(Some(STALL_MAX))?;
    socket.set_read_timeout(Some(STALL_MAX))?;
    let bytes = reader.bytes();
    write_frame(&mut socket, &Frame::SnapshotHead { term, meta: reader.meta().clone(), bytes })?;
    let mut offset = 0;
    while let Some(chunk) = reader.next_chunk().map_err(io::Error::other)? {
        let len = chunk.len() as u64;
        write_frame(&mut socket, &Frame::SnapshotChunk { offset, bytes: chunk })?;
        offset += len;
    }
    match read_frame(&mut socket, SNAPSHOT_FRAME_BYTES_MAX)? {
        Frame::SnapshotDone { ok: true, .. } => Ok(bytes),
        Frame::SnapshotDone { why, .. } => Err(WireError::Rejected(why)),
        _ => Err(WireError::Unexpected("answer to a snapshot")),
    }
}

/// The receiving side of one connection.
///
/// # Errors
/// When the sender stalls or speaks out of turn, or the disk refuses; the log is untouched then.
pub fn receive(shared: &Arc<Shared>, stream: &TcpStream, from: Identity) -> Result<(), WireError> {
    stream.set_read_timeout(Some(STALL_MAX))?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let (ok, why) = match take(shared, &mut reader, from) {
        Ok(()) => (true, String::new()),
        Err(e) => (false, e.to_string()),
    };
    let mut to = stream;
    write_frame(&mut to, &Frame::SnapshotDone { ok, why })
}

fn take(shared: &Arc<Shared>, from_wire: &mut dyn io::Read, from: Identity) -> Result<(), WireError> {
    let Frame::SnapshotHead { term, meta, bytes } = read_frame(from_wire, SNAPSHOT_FRAME_BYTES_MAX)? else {
        return Err(WireError::Unexpected("frame before a snapshot's head"));
    };
    let _one_at_a_time = shared
        .incoming_snapshot
        .try_lock()
        .map_err(|_| WireError::Rejected("another snapshot is being received".to_string()))?;
    let snapshots = shared.snapshots();
    let mut receiver = snapshots.receive(&meta, bytes).map_err(io::Error::other)?;
    while receiver.received() < bytes {
        let Frame::SnapshotChunk { offset, bytes } = read_frame(from_wire, SNAPSHOT_FRAME_BYTES_MAX)? else {
            return Err(WireError::Unexpected("frame in the middle of a snapshot"));
        };
        receiver.chunk(offset, &bytes).map_err(io::Error::other)?;
    }
    let meta = receiver.finish().map_err(io::Error::other)?;
    let (done, answer) = crossbeam_channel::bounded(1);
    shared.to_core(CoreInput::SnapshotReceived { from, term, meta, done });
    match answer.recv_timeout(STALL_MAX) {
        Ok(true) => Ok(()),
        Ok(false) => Err(WireError::Rejected("the snapshot is not needed any more".to_string())),
        Err(_) => Err(WireError::Unexpected("silence of the core")),
    }
}

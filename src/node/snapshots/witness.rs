//! Snapshots of a witness: when its own may replace the log, and the one that a leader sends to it.
//!
//! Not here: how far the log may be cut (`cluster/witness.rs`), when a snapshot is due (`schedule.rs`), the file
//! (`writer.rs`).

use super::transfer;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::node::views::events::Author;
use crate::types::{Identity, Index, Term};
use crate::wire::Frame;
use crate::wire::codec::WireError;
use crossbeam_channel::bounded;
use log::warn;
use std::time::{Duration, Instant};

/// Time between two looks at how far the full nodes are.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of one chunk on the wire.
const CHUNK_BYTES: usize = 1 << 20;

/// On a witness: waits until its log may be cut at `index`. False: the node stops.
pub fn await_release(shared: &Shared, index: Index) -> bool {
    loop {
        if shared.is_stopping() {
            return false;
        }
        if shared.releasable(Index(0)) >= index {
            return true;
        }
        let bytes = shared.view().raft.log_bytes;
        if bytes > shared.settings.witness_log_mb << 20 || shared.is_disk_low() {
            let text = format!(
                "node {}, a witness, cuts its log of {} MiB at {index} (setting witness_log_mb, or its disk is nearly full): \
                 too few full nodes hold the entries up to there",
                shared.me.id.0,
                bytes >> 20
            );
            warn!("{text}");
            shared.history_event(Author::Noticer, "witness", Some(shared.me.id), text);
            return true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// On the leader, body of a `snap-m` thread: sends a witness what it keeps of the present state, and reports to `core`
/// how it went.
pub fn stream(shared: &Shared, to: Identity, address: &str, term: Term) {
    let begun = Instant::now();
    transfer::report(shared, to, begun, &try_stream(shared, to, address, term));
}

fn try_stream(shared: &Shared, to: Identity, address: &str, term: Term) -> Result<u64, WireError> {
    let (reply, copy) = bounded(1);
    shared.inboxes.to_core(CoreInput::CopyState { reply });
    let (meta, registry) =
        copy.recv_timeout(transfer::STALL_MAX).map_err(|_| WireError::Unexpected("silence of the core"))?;
    let mut state = Vec::new();
    registry.for_witness().snapshot(&mut state)?;
    drop(registry);
    let bytes = state.len() as u64;
    let mut chunks = state.chunks(CHUNK_BYTES);
    transfer::send(shared, to, address, Frame::SnapshotHead { term, meta, bytes }, || {
        Ok(chunks.next().map(<[u8]>::to_vec))
    })?;
    Ok(bytes)
}

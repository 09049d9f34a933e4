//! Snapshots between nodes, each over a connection of its own, so that heartbeats never queue behind them.
//!
//! The sender streams the newest snapshot file in chunks; the receiver writes them beside its log, makes them durable,
//! asks `core` to put them in place, and only then answers "done". Before it sends anything the sender checks that a
//! majority of the voters has the state that it sends: otherwise a difference that no node has found yet could spread
//! to the majority.
//! A witness gets a small one of the present state instead (`witness.rs`).
//! Not here: when a follower needs one (`raft/`), the file format (`store/snapshot/`).

use crate::limits::SNAPSHOT_FRAME_BYTES_MAX;
use crate::node::peer::dialer::{self, Dialed};
use crate::node::peer::limits::ConnectionEntry;
use crate::node::shared::Shared;
use crate::node::shared::messages::CoreInput;
use crate::raft::{SnapshotMeta, View, quorum};
use crate::services::registry::checkpoint_command;
use crate::store::{SnapshotReader, Snapshots};
use crate::types::{Identity, Index, NodeId, Term};
use crate::warn_seldom;
use crate::wire::authentication::{ConnectionTags, FrameTags};
use crate::wire::codec::{WireError, read_tagged, write_tagged};
use crate::wire::{Frame, Purpose};
use log::info;
use std::collections::BTreeSet;
use std::io::{self, BufReader};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest silence in the middle of a transfer.
pub(super) const STALL_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the digests of other nodes. A node that needs longer has a database of many gigabytes.
const AGREED_WITHIN: Duration = Duration::from_secs(60);
/// Time between two checks for these digests.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Body of a `snap-m` thread: sends the newest snapshot to a follower and reports to `core` how it went.
pub fn stream(shared: &Arc<Shared>, snapshots: &Snapshots, to: Identity, address: &str, term: Term) {
    let begun = Instant::now();
    report(shared, to, begun, &try_stream(shared, snapshots, to, address, term));
}

/// Reports to `core` how it went.
pub(super) fn report(shared: &Shared, to: Identity, begun: Instant, result: &Result<u64, WireError>) {
    match result {
        Ok(bytes) => {
            shared.counters.snapshots_sent.record(begun.elapsed());
            info!("snapshot sent peer={} bytes={bytes}", to.id);
        }
        Err(e) => warn_seldom!("snapshot not sent peer={} err={e}", to.id),
    }
    shared.inboxes.to_core(CoreInput::SnapshotSent { to: to.id, ok: result.is_ok() });
}

fn try_stream(
    shared: &Shared,
    snapshots: &Snapshots,
    to: Identity,
    address: &str,
    term: Term,
) -> Result<u64, WireError> {
    let mut reader = newest_agreed(snapshots, |index| wait_until_agreed(shared, index))?;
    let (meta, bytes) = (reader.meta().clone(), reader.bytes());
    send(shared, to, address, Frame::SnapshotHead { term, meta, bytes }, || {
        reader.next_chunk().map_err(io::Error::other)
    })?;
    Ok(bytes)
}

/// Sends a snapshot over a connection of its own: its head, then its chunks in order until there is none; returns when
/// it is in place at the receiver.
pub(super) fn send(
    shared: &Shared,
    to: Identity,
    address: &str,
    head: Frame,
    mut next_chunk: impl FnMut() -> io::Result<Option<Vec<u8>>>,
) -> Result<(), WireError> {
    let Dialed { stream: mut socket, mut tags, .. } =
        dialer::dial_as(shared, to, address, Purpose::Snapshot, STALL_MAX)?;
    socket.set_write_timeout(Some(STALL_MAX))?;
    socket.set_read_timeout(Some(STALL_MAX))?;
    write_tagged(&mut socket, &head, &mut tags.outgoing)?;
    let mut offset = 0;
    while let Some(chunk) = next_chunk()? {
        let len = chunk.len() as u64;
        write_tagged(&mut socket, &Frame::SnapshotChunk { offset, bytes: chunk }, &mut tags.outgoing)?;
        offset += len;
    }
    await_done(&mut socket, &mut tags.incoming)
}

/// Waits until the receiver reports that what was sent is in place there.
pub(super) fn await_done(from: &mut dyn io::Read, tags: &mut FrameTags) -> Result<(), WireError> {
    match read_tagged(from, SNAPSHOT_FRAME_BYTES_MAX, tags)? {
        Frame::SnapshotDone { ok: true, .. } => Ok(()),
        Frame::SnapshotDone { why, .. } => Err(WireError::Rejected(why)),
        _ => Err(WireError::Unexpected("answer to a snapshot")),
    }
}

/// What the receiver reports.
pub(super) fn done_frame<T>(result: &Result<T, WireError>) -> Frame {
    let why = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
    Frame::SnapshotDone { ok: result.is_ok(), why }
}

/// Receives the chunks of a snapshot into a file beside the log, and makes it durable.
pub(super) fn receive_chunks(
    snapshots: &Snapshots,
    (meta, bytes): (&SnapshotMeta, u64),
    from: &mut dyn io::Read,
    tags: &mut FrameTags,
    on_chunk: impl Fn(),
) -> Result<SnapshotMeta, WireError> {
    let mut receiver = snapshots.receive(meta, bytes).map_err(io::Error::other)?;
    while receiver.received() < bytes {
        let Frame::SnapshotChunk { offset, bytes } = read_tagged(from, SNAPSHOT_FRAME_BYTES_MAX, tags)? else {
            return Err(WireError::Unexpected("frame in the middle of a snapshot"));
        };
        receiver.chunk(offset, &bytes).map_err(io::Error::other)?;
        on_chunk();
    }
    Ok(receiver.finish().map_err(io::Error::other)?)
}

/// Opens the newest snapshot, then has `wait` check it: a snapshot that is saved meanwhile may have no majority.
fn newest_agreed(
    snapshots: &Snapshots,
    wait: impl FnOnce(Index) -> Result<(), WireError>,
) -> Result<SnapshotReader, WireError> {
    let newest = snapshots.newest().map_err(io::Error::other)?;
    let reader = newest.ok_or(WireError::Unexpected("lack of a snapshot"))?;
    wait(reader.meta().index)?;
    Ok(reader)
}

/// Waits until a majority of the voters is known to have the state that this node had at `index` or later, as long as
/// so many voters could report it.
fn wait_until_agreed(shared: &Shared, index: Index) -> Result<(), WireError> {
    let until = Instant::now() + AGREED_WITHIN;
    let mut has_asked = false;
    loop {
        let integrity = &shared.integrity;
        if integrity.is_corrupt() || integrity.is_split() || shared.is_stopping() {
            return Err(WireError::Rejected("the state of this node may be wrong".to_string()));
        }
        let findings = integrity.findings();
        let is_agreed = findings.sound.get(&shared.me.id).is_some_and(|at| *at >= index);
        let is_late = Instant::now() >= until;
        if is_late && findings.is_disputed {
            return Err(WireError::Rejected(
                "the states of the voters differ, and it is not known yet which is right".to_string(),
            ));
        }
        // A witness has no state to compare.
        let could = || {
            let witnesses = shared.witnesses();
            could_agree(&shared.view().raft, shared.me, index, &witnesses, |id| shared.is_online(id))
        };
        if is_agreed || is_late || !could() {
            return Ok(());
        }
        if !has_asked && integrity.checkpoint() < index {
            let _ = shared.inboxes.run(checkpoint_command(), Instant::now() + STALL_MAX);
        }
        has_asked = true;
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Whether a majority of the voters has reached `index`, as far as the leader knows. A voter that has not answered for
/// a moment counts while it is online: a whole machine may have been paused.
fn could_agree(
    view: &View,
    me: Identity,
    index: Index,
    witnesses: &BTreeSet<NodeId>,
    is_online: impl Fn(NodeId) -> bool,
) -> bool {
    let has_come = |who: &Identity| {
        let peer = view.peers.iter().find(|peer| peer.who == *who && peer.match_index >= index);
        *who == me || peer.is_some_and(|peer| peer.is_active || is_online(who.id))
    };
    let voters = view.membership.voters.iter().map(|(&id, &uuid)| Identity { id, uuid });
    let full: Vec<Identity> = voters.filter(|who| !witnesses.contains(&who.id)).collect();
    full.iter().filter(|who| has_come(who)).count() >= quorum(full.len())
}

/// The receiving side of one connection.
///
/// # Errors
/// When the sender stalls or sends an unexpected frame, or on a disk error; the log is unchanged then.
pub fn receive(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    tags: &mut ConnectionTags,
    from: Identity,
    place: &ConnectionEntry,
) -> Result<(), WireError> {
    stream.set_read_timeout(Some(STALL_MAX))?;
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let received = take(shared, &mut reader, &mut tags.incoming, from, place);
    let mut to = stream;
    write_tagged(&mut to, &done_frame(&received), &mut tags.outgoing)
}

fn take(
    shared: &Arc<Shared>,
    from_wire: &mut dyn io::Read,
    tags: &mut FrameTags,
    from: Identity,
    place: &ConnectionEntry,
) -> Result<(), WireError> {
    let Frame::SnapshotHead { term, meta, bytes } = read_tagged(from_wire, SNAPSHOT_FRAME_BYTES_MAX, tags)? else {
        return Err(WireError::Unexpected("frame before a snapshot's head"));
    };
    let _one_at_a_time = shared
        .incoming_snapshot
        .try_take()
        .ok_or_else(|| WireError::Rejected("another snapshot is being received".to_string()))?;
    let meta = receive_chunks(&shared.snapshots(), (&meta, bytes), from_wire, tags, || place.touch())?;
    let (done, answer) = crossbeam_channel::bounded(1);
    shared.inboxes.to_core(CoreInput::SnapshotReceived { from, term, meta, done });
    match answer.recv_timeout(STALL_MAX) {
        Ok(true) => Ok(()),
        Ok(false) => Err(WireError::Rejected("the snapshot is no longer needed".to_string())),
        Err(_) => Err(WireError::Unexpected("silence of the core")),
    }
}

#[cfg(test)]
mod tests {
    use crate::node::snapshots::transfer::*;
    use crate::raft::{Membership, PeerView, SnapshotMeta};
    use crate::store::{Options, RealFiles, Store};
    use std::collections::BTreeMap;
    use uuid::Uuid;

    #[test]
    fn a_snapshot_that_is_saved_during_the_wait_is_not_the_one_that_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(Arc::new(RealFiles), dir.path(), Options::default()).unwrap();
        let snapshots = store.snapshots();
        let save = |index: u64, state: &[u8]| {
            let meta = SnapshotMeta { index: Index(index), term: Term(1), membership: Membership::default() };
            snapshots.save(&meta, state).unwrap();
        };
        save(4, b"agreed on");
        let mut asked = None;
        let mut reader = newest_agreed(&snapshots, |index| {
            asked = Some(index);
            save(8, b"nobody was asked about this");
            Ok(())
        })
        .unwrap();
        assert_eq!((asked, reader.meta().index), (Some(Index(4)), Index(4)));
        assert_eq!(reader.next_chunk().unwrap().unwrap(), b"agreed on");
    }

    #[test]
    fn others_are_waited_for_as_long_as_so_many_could_tell() {
        let who = |id: u64| Identity { id: NodeId(id), uuid: Uuid::from_u128(id.into()) };
        let voters: BTreeMap<_, _> = (1..=3).map(|id| (NodeId(id), who(id).uuid)).collect();
        let could_with = |witnesses: &[u64], ends: [(u64, bool); 2], online: &[u64]| {
            let peer = |(id, (end, is_active)): (u64, (u64, bool))| PeerView {
                is_active,
                ..PeerView::level(who(id), Index(end))
            };
            let membership = Membership { voters: voters.clone(), learners: BTreeMap::new() };
            let view =
                View::of_leader(NodeId(1), Index(9), membership, [2, 3].into_iter().zip(ends).map(peer).collect());
            could_agree(&view, who(1), Index(7), &witnesses.iter().copied().map(NodeId).collect(), |id| {
                online.contains(&id.0)
            })
        };
        let could = |ends, online| could_with(&[], ends, online);
        assert!(could([(9, true), (2, true)], &[2, 3]), "node 2 has come so far");
        assert!(!could_with(&[2], [(9, true), (2, true)], &[2, 3]), "node 2 has no state to compare");
        assert!(could_with(&[2], [(9, true), (9, true)], &[2, 3]), "both that have one");
        assert!(could([(9, false), (2, true)], &[2, 3]), "it has only not answered for a moment");
        assert!(!could([(9, false), (2, true)], &[3]), "it is gone");
        assert!(!could([(6, true), (2, true)], &[2, 3]), "nobody else has come so far");
    }
}

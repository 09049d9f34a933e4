//! Incoming half of the peer port: takes connections, shakes hands, and reads frames for the threads they concern.
//!
//! Everything here comes from outside: a frame that cannot be decoded or does not belong costs the connection and one
//! log line, never more. When a peer's connection ends, the outgoing half is asked to look whether the peer is gone.
//!
//! Frames are taken only from a node of this cluster: its identity is in the membership, or was vouched for (`raft/guard.rs`);
//! with a `cluster_secret` the handshake has proved as much. Anyone else may ask who leads, and ask to join. A frame of a
//! stranger is dropped as if the wire had lost it, and the connection stays: a member of which this node has not heard yet
//! is known within a round of gossip.
//! Not here: dialing (`links.rs`), what messages mean (`core.rs`, `gossip.rs`).

use super::core::CoreInput;
use super::gossip::GossipInput;
use super::shared::Shared;
use super::{join, rebuild, snapshots, threads};
use crate::limits::FRAME_BYTES_MAX;
use crate::raft::{Promise, Refused};
use crate::types::Identity;
use crate::warn_seldom;
use crate::wire::codec::{WireError, read_frame, write_frame};
use crate::wire::{Frame, Hello, Purpose, Whereabouts, handshake};
use log::debug;
use std::io::BufReader;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Peer connections at once. More: the newcomer is dropped; its dialer tries again.
const CONNECTIONS_MAX: usize = 512;
/// A peer that says nothing for so long is half open: gossip alone speaks more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Stack of a connection's thread: postcard decodes on the heap.
const STACK_BYTES: usize = 512 << 10;

/// Body of the `peers` thread: accepts until the node stops.
pub fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.is_stopped() => return,
            Err(e) => {
                warn_seldom!("peer accept failed err={e}");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        if shared.is_stopped() {
            return;
        }
        if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            open.fetch_sub(1, Ordering::Relaxed);
            debug!("peer connections at their limit, one dropped");
            continue;
        }
        let (shared, open_now) = (Arc::clone(shared), Arc::clone(&open));
        let started = threads::spawn_small("recv", STACK_BYTES, move || {
            serve(&shared, &stream);
            let _ = stream.shutdown(Shutdown::Both);
            open_now.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(e) = started {
            open.fetch_sub(1, Ordering::Relaxed);
            warn_seldom!("no thread for a peer connection err={e}");
            std::thread::sleep(ACCEPT_PAUSE);
        }
    }
}

fn serve(shared: &Arc<Shared>, stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let secret = shared.settings.cluster_secret.as_deref();
    let hello = match handshake::accept(stream, shared.me, Some(shared.cluster), secret, |hello| {
        Some(shared.remembers(&hello.from))
    }) {
        Ok(hello) => hello,
        Err(e) => {
            shared.counters.peer_handshakes_failed.fetch_add(1, Ordering::Relaxed);
            debug!("peer handshake failed err={e}");
            return;
        }
    };
    let from = hello.from;
    let ended = match hello.purpose {
        Purpose::Peer | Purpose::Snapshot if hello.cluster != Some(shared.cluster) => {
            Err(WireError::Unexpected("peer without a cluster"))
        }
        Purpose::Peer => serve_peer(shared, stream, hello),
        Purpose::Ask => answer(stream, Frame::Whereabouts(whereabouts(shared))),
        Purpose::Join { is_gateway } => answer(stream, join::admit(shared, &hello, is_gateway)),
        Purpose::Snapshot if !belongs(shared, from) => {
            shared.refuse_frame(Refused::Stranger(from));
            let why = "this node does not know yours".to_string();
            answer(stream, Frame::SnapshotDone { ok: false, why })
        }
        Purpose::Snapshot => snapshots::receive(shared, stream, from),
        Purpose::State => rebuild::give(shared, stream, from),
    };
    if let Err(e) = ended {
        debug!("peer connection ended peer={} err={e}", from.id);
    }
}

fn answer(stream: &TcpStream, frame: Frame) -> Result<(), WireError> {
    let mut to = stream;
    write_frame(&mut to, &frame)
}

/// What this node tells those who look for a cluster.
pub fn whereabouts(shared: &Shared) -> Whereabouts {
    let view = shared.view();
    let members = shared.known_addresses();
    let leader = view.raft.leader.and_then(|id| members.iter().find(|(m, _)| *m == id).cloned());
    let (cluster, id, term) = (Some(shared.cluster), Some(shared.me.id), view.raft.term);
    Whereabouts { cluster, id, term, leader, members, remembered: Promise::default() }
}

fn serve_peer(shared: &Arc<Shared>, stream: &TcpStream, hello: Hello) -> Result<(), WireError> {
    let from = hello.from;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let is_proved = shared.settings.cluster_secret.is_some();
    shared.to_core(CoreInput::Met { who: from, addresses: hello.addresses, is_proved });
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    let ended = loop {
        match read_frame(&mut reader, FRAME_BYTES_MAX) {
            Ok(_) if !belongs(shared, from) => shared.refuse_frame(Refused::Stranger(from)),
            Ok(frame) => {
                if let Err(e) = take(shared, from, frame) {
                    warn_seldom!("peer sent what it should not peer={} err={e}", from.id);
                    break Err(e);
                }
            }
            Err(e) => break Err(e),
        }
    };
    shared.to_core(CoreInput::PeerClosed(from));
    ended
}

/// Whether frames of this identity are taken. The handshake is over: where there is a secret, it has proved to know it.
fn belongs(shared: &Shared, who: Identity) -> bool {
    shared.settings.cluster_secret.is_some() || shared.view().known.contains(&who)
}

fn take(shared: &Arc<Shared>, from: Identity, frame: Frame) -> Result<(), WireError> {
    match frame {
        Frame::Raft(message) => {
            // The handshake said who speaks; a message in another's name is dropped.
            if message.from != from {
                return Err(WireError::Unexpected("message in another node's name"));
            }
            shared.to_core(CoreInput::Raft(message));
        }
        Frame::Remembered(promise) => shared.to_core(CoreInput::Remembered { by: from, promise, compared: None }),
        Frame::Gossip(table) => shared.to_gossip(GossipInput::Heard { from: from.id, table }),
        Frame::HandedOut(list) => shared.heard_handed_out(&list),
        Frame::Forward(asks) => shared.to_core(CoreInput::Forward { from, asks }),
        Frame::Forwarded(answers) => shared.to_core(CoreInput::Forwarded(answers)),
        _ => return Err(WireError::Unexpected("frame on a peer connection")),
    }
    Ok(())
}

//! Incoming half of the peer port: accepts connections, does the handshake, and reads frames for the other threads.
//!
//! All input is from outside: a frame that cannot be decoded or is not expected ends the connection, with one log line
//! at most. When a peer's connection ends, the outgoing half is asked to check whether the peer is gone.
//!
//! Frames are accepted only from a node of this cluster: its identity is in the membership, or was vouched for
//! (`raft/guard.rs`); with a `cluster_secret` the handshake has proved it. Anyone else may ask who leads, and ask to
//! join. Frames of an unknown node are dropped as they arrive, as if the network had lost them, and the connection stays
//! open for some seconds: a member that this node does not know yet becomes known within a round of gossip.
//! Not here: how many connections there are and what they may hold (`limits.rs`), dialing (`dialer.rs`), what messages
//! mean (`node/threads/core/`, `node/threads/gossip.rs`).

use super::join::{self, discovery_answer};
use super::limits::{ConnectionEntry, ConnectionTable};
use super::relay;
use crate::limits::{FRAME_BYTES_MAX, FRAME_DEADLINE};
use crate::lock::lock;
use crate::node::accept::{self, Arrival};
use crate::node::datagrams::incoming::Incoming;
use crate::node::listener::Listener;
use crate::node::peer::frame_memory::SMALL_FRAME_BYTES;
use crate::node::shared::Shared;
use crate::node::shared::messages::{CoreInput, GossipInput, PubSubInput};
use crate::node::snapshots::{rebuild, transfer};
use crate::node::spawn;
use crate::node::threads::config_writer;
use crate::raft::Refused;
use crate::types::Identity;
use crate::warn_seldom;
use crate::wire::authentication::{ConnectionTags, FrameTags};
use crate::wire::codec::{WireError, decode_body, read_body, read_header, skip_body, write_tagged};
use crate::wire::datagram::Piece;
use crate::wire::datagram_codec::DatagramKey;
use crate::wire::handshake::DeadlineReader;
use crate::wire::{Frame, Hello, Purpose, handshake};
use log::debug;
use std::cell::Cell;
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A connection without a frame for so long is half open: gossip alone sends more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long the connection of an unknown node stays open: gossip makes a member known within a second.
const UNKNOWN_NODE_MAX: Duration = Duration::from_secs(10);
/// A node that is unknown for longer than this after it connected is logged. The first frames of a new node may arrive
/// before the membership change that names it.
const NEW_NODE_MAX: Duration = Duration::from_secs(2);
/// A peer that connects anew after such a silence was cut off: the connection to it may stand still, too.
const CUT_OFF_MIN: Duration = Duration::from_millis(500);
/// Bytes that are read at once from a known node, and from an unknown one, of which frames are dropped as they arrive.
const READ_BYTES: (usize, usize) = (64 << 10, 1 << 10);
/// Pause after the system has refused a thread.
const SPAWN_PAUSE: Duration = Duration::from_millis(20);
/// Stack of a connection's thread: postcard decodes on the heap.
const STACK_BYTES: usize = 512 << 10;

/// Body of the `peers` thread: accepts until the node stops.
pub fn accept_all(shared: &Arc<Shared>, listener: &Listener) {
    let places = Arc::new(ConnectionTable::default());
    accept::accept_all(
        listener,
        "peers",
        || shared.is_stopped(),
        |arrival| {
            // The peer tries again.
            let Arrival::Client(stream, _) = arrival else { return };
            let stream = Arc::new(stream);
            let (shared, place) = (Arc::clone(shared), Arc::new(places.enter(Arc::clone(&stream))));
            let started = spawn::spawn_with_stack("recv", STACK_BYTES, move || {
                serve(&shared, &stream, &place);
                let _ = stream.shutdown(Shutdown::Both);
            });
            if let Err(e) = started {
                warn_seldom!("cannot start a thread for a peer connection err={e}");
                std::thread::sleep(SPAWN_PAUSE);
            }
        },
    );
}

fn serve(shared: &Arc<Shared>, stream: &TcpStream, place: &Arc<ConnectionEntry>) {
    let _ = stream.set_nodelay(true);
    let key = shared.peer_key.as_ref();
    let name = shared.datagrams.name();
    let (hello, mut tags) = match handshake::accept(stream, shared.me, Some(shared.cluster), key, name, |hello| {
        Some(shared.remembers(&hello.from))
    }) {
        Ok(accepted) => accepted,
        Err(e) => {
            shared.counters.peer_handshakes_failed.fetch_add(1, Ordering::Relaxed);
            debug!("peer handshake failed err={e}");
            return;
        }
    };
    let from = hello.from;
    let is_short = matches!(hello.purpose, Purpose::Ask | Purpose::Claim { .. } | Purpose::Join { .. });
    let has_place = is_short || !belongs(shared, from) || place.recognize(from, &hello.purpose);
    let ended = match hello.purpose {
        _ if !has_place => Err(WireError::Unexpected("connection: all places are taken")),
        Purpose::Peer | Purpose::Snapshot if hello.cluster != Some(shared.cluster) => {
            Err(WireError::Unexpected("peer without a cluster"))
        }
        Purpose::Peer => {
            let key = name.map(|name| DatagramKey::new(name, tags.datagrams.clone()));
            let incoming = Arc::new(Incoming::new(from, key, Arc::clone(place)));
            serve_peer(shared, stream, hello, &incoming, &mut tags.incoming)
        }
        // A node in a cluster grants no claim.
        Purpose::Ask | Purpose::Claim { .. } => {
            answer(stream, &mut tags, Frame::DiscoveryAnswer(discovery_answer(shared, from.id)))
        }
        Purpose::Join { kind } => answer(stream, &mut tags, join::admit(shared, stream, &hello, kind)),
        Purpose::Snapshot if !belongs(shared, from) => {
            shared.counters.refuse_frame(Refused::UnknownSender(from));
            let why = "this node has no address of yours".to_string();
            answer(stream, &mut tags, Frame::SnapshotDone { ok: false, why })
        }
        Purpose::Snapshot => transfer::receive(shared, stream, &mut tags, from, place),
        Purpose::State => rebuild::send_state(shared, stream, &mut tags, from, place),
    };
    if let Err(e) = ended {
        debug!("peer connection ended peer={} err={e}", from.id);
    }
}

fn answer(mut to: &TcpStream, tags: &mut ConnectionTags, frame: Frame) -> Result<(), WireError> {
    write_tagged(&mut to, &frame, &mut tags.outgoing)
}

fn serve_peer(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    hello: Hello,
    incoming: &Arc<Incoming>,
    tags: &mut FrameTags,
) -> Result<(), WireError> {
    let (from, place) = (hello.from, &incoming.place);
    let is_proved = shared.peer_key.is_some();
    shared.inboxes.to_core(CoreInput::Met { who: from, addresses: hello.addresses, is_proved });
    let Err(ended) = read_all(shared, stream, incoming, tags);
    shared.datagrams.close(incoming);
    // The end of a connection in a member's name means nothing while that member is heard over another connection.
    if !place.is_one_of_many(from, &Purpose::Peer) {
        shared.inboxes.to_core(CoreInput::PeerClosed(from));
    }
    Err(ended)
}

/// Reads frames until the connection ends.
fn read_all(
    shared: &Arc<Shared>,
    stream: &TcpStream,
    incoming: &Arc<Incoming>,
    tags: &mut FrameTags,
) -> Result<Infallible, WireError> {
    let (from, place) = (incoming.from, &incoming.place);
    let early = match belongs(shared, from) {
        true => io::Cursor::default(),
        false => wait_until_known(shared, stream, from, tags)?,
    };
    if !place.recognize(from, &Purpose::Peer) {
        return Err(WireError::Unexpected("connection: all places are taken"));
    }
    shared.datagrams.open(incoming);
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let heard = shared.heard.of(from.id);
    let deadline = Cell::new(None);
    let mut reader = BufReader::with_capacity(READ_BYTES.0, early.chain(Source { stream, place, deadline: &deadline }));
    loop {
        read_one(shared, &mut reader, &deadline, incoming, tags)?;
        note_arrival(shared, incoming, &heard);
    }
}

/// Something has arrived over this connection, or as a datagram of it.
pub(super) fn note_arrival(shared: &Shared, incoming: &Incoming, heard: &AtomicU64) {
    incoming.place.touch();
    let now_ms = shared.now_ms();
    let heard_ms = heard.swap(now_ms, Ordering::Relaxed);
    // An answer that was on its way over the last connection is lost. Not at the handshake: what is answered before the
    // other side knows that it is connected would be lost, too.
    if incoming.is_first() {
        shared.inboxes.to_core(CoreInput::Rerouted(incoming.from.id));
        let silence = Duration::from_millis(now_ms.saturating_sub(heard_ms));
        let last_heard = Instant::now().checked_sub(silence).filter(|_| silence >= CUT_OFF_MIN);
        if let (Some(link), Some(last_heard)) = (shared.links().get(&incoming.from.id), last_heard) {
            link.renew(last_heard);
        }
    }
}

/// Drops the frames of a node until it is known, by the deadline at most; returns the bytes that were read beyond them.
fn wait_until_known(
    shared: &Shared,
    stream: &TcpStream,
    from: Identity,
    tags: &mut FrameTags,
) -> Result<io::Cursor<Vec<u8>>, WireError> {
    let begun = Instant::now();
    let stream = DeadlineReader::new(stream, begun + UNKNOWN_NODE_MAX);
    let mut reader = BufReader::with_capacity(READ_BYTES.1, stream);
    loop {
        // Waits before it checks: the node may become known while it sends nothing.
        let has_more = !reader.fill_buf()?.is_empty();
        if belongs(shared, from) {
            return Ok(io::Cursor::new(reader.buffer().to_vec()));
        }
        if !has_more {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let header = read_header(&mut reader, FRAME_BYTES_MAX)?;
        skip_body(&mut reader, header, tags)?;
        match begun.elapsed() < NEW_NODE_MAX {
            true => _ = shared.counters.frames_of_unknown_senders.fetch_add(1, Ordering::Relaxed),
            false => shared.counters.refuse_frame(Refused::UnknownSender(from)),
        }
    }
}

/// The frames of a known node. While a frame has a deadline, no read lasts longer.
struct Source<'a> {
    stream: &'a TcpStream,
    place: &'a ConnectionEntry,
    deadline: &'a Cell<Option<Instant>>,
}

impl Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.deadline.get() {
            Some(deadline) => {
                let read = DeadlineReader::new(self.stream, deadline).read(into);
                self.stream.set_read_timeout(Some(SILENCE_MAX))?;
                read
            }
            None => loop {
                match (&mut &*self.stream).read(into) {
                    // All came as datagrams.
                    Err(e) if is_timeout(&e) && self.place.silence() < SILENCE_MAX => {}
                    read => return read,
                }
            },
        }
    }
}

fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Reads one frame for the thread that it is for. A large frame waits for memory, and has one deadline in total.
fn read_one(
    shared: &Arc<Shared>,
    reader: &mut dyn Read,
    deadline: &Cell<Option<Instant>>,
    incoming: &Incoming,
    tags: &mut FrameTags,
) -> Result<(), WireError> {
    let from = incoming.from;
    let header = read_header(reader, FRAME_BYTES_MAX)?;
    if !belongs(shared, from) {
        skip_body(reader, header, tags)?;
        shared.counters.refuse_frame(Refused::UnknownSender(from));
        return Ok(());
    }
    let frame = if header.len <= SMALL_FRAME_BYTES {
        read_body(reader, header, tags)?
    } else {
        let until = Instant::now() + FRAME_DEADLINE;
        let _held =
            shared.frame_memory.hold(from, header.len, until).ok_or(WireError::Unexpected("wait for memory"))?;
        deadline.set(Some(until));
        let frame = read_body(reader, header, tags)?;
        deadline.set(None);
        frame
    };
    take(shared, incoming, frame).inspect_err(|e| warn_seldom!("protocol error of peer peer={} err={e}", from.id))
}

/// Whether frames of this identity are accepted. If there is a secret, the handshake has proved that the node knows it.
pub(super) fn belongs(shared: &Shared, who: Identity) -> bool {
    shared.peer_key.is_some() || shared.view().known.contains(&who)
}

/// Takes a frame of a connection.
pub(super) fn take(shared: &Arc<Shared>, incoming: &Incoming, frame: Frame) -> Result<(), WireError> {
    let from = incoming.from;
    match frame {
        Frame::Pieces(pieces) => {
            take_pieces(shared, incoming, pieces)?;
            if let (Some(ack), Some(link)) = (incoming.ack(), shared.links().get(&from.id)) {
                link.send(&Frame::Acked(ack));
            }
        }
        Frame::Acked(ack) => {
            if let Some(link) = shared.links().get(&from.id).filter(|link| link.who == from) {
                link.on_ack(&ack, false);
            }
        }
        Frame::Forward { order: Some(order), asks } => {
            let mut forwards = lock(&incoming.forwards);
            let ready = forwards.take(order, asks).ok_or(WireError::Unexpected("order of requests"))?;
            ready.into_iter().for_each(|asks| shared.inboxes.to_core(CoreInput::Forward { from, asks }));
        }
        frame => give_on(shared, from, frame)?,
    }
    Ok(())
}

/// Gives a frame to the thread that it is for. It may have come from its sender by way of another node.
fn give_on(shared: &Arc<Shared>, from: Identity, frame: Frame) -> Result<(), WireError> {
    match frame {
        Frame::Raft(message) => {
            // The handshake has established the sender; a message in another node's name is an error.
            if message.from != from {
                return Err(WireError::Unexpected("message in another node's name"));
            }
            shared.inboxes.to_core(CoreInput::Raft(message));
        }
        Frame::Remembered(promise) => {
            shared.inboxes.to_core(CoreInput::Remembered { by: from, promise, compared: None })
        }
        Frame::Gossip(table) => shared.inboxes.to_gossip(GossipInput::Heard { from: from.id, table }),
        Frame::ConfigFile(text) => config_writer::hear(shared, from.id, &text),
        Frame::Goodbye => shared.inboxes.to_core(CoreInput::Goodbye(from)),
        Frame::HandedOut(list) => shared.on_handed_out(&list),
        Frame::Forward { asks, .. } => shared.inboxes.to_core(CoreInput::Forward { from, asks }),
        Frame::Published { channel, message } => publish(shared, channel, message),
        Frame::AskScan { cursor } => {
            if let Some(link) = shared.links().get(&from.id) {
                let position = shared.scan_cursors.own(cursor).map(serde_bytes::ByteBuf::from);
                link.send(&Frame::Scan { cursor, position });
            }
        }
        Frame::Scan { cursor, position } => {
            shared.scan_cursors.on_answer(cursor, position.map(serde_bytes::ByteBuf::into_vec));
        }
        Frame::Forwarded(answers) => shared.inboxes.to_core(CoreInput::Forwarded(answers)),
        Frame::Relay { from: origin, to, frame } => {
            let is_known = belongs(shared, origin);
            if let Some(frame) = relay::on_relay(shared, from, (origin, to), frame, is_known)? {
                // The node that passed it on did nothing wrong.
                if let Err(e) = give_on(shared, origin, frame) {
                    warn_seldom!("protocol error of peer, relayed by={} peer={} err={e}", from.id, origin.id);
                }
            }
        }
        Frame::Probe => {
            if let Some(link) = shared.links().get(&from.id) {
                link.send(&Frame::ProbeAnswer);
            }
        }
        Frame::ProbeAnswer => lock(&shared.dispatch).answered(shared.now_ms(), from.id),
        _ => return Err(WireError::Unexpected("frame on a peer connection")),
    }
    Ok(())
}

/// Gives on the frames that these pieces complete.
pub(super) fn take_pieces(shared: &Arc<Shared>, incoming: &Incoming, pieces: Vec<Piece>) -> Result<(), WireError> {
    for body in incoming.take(pieces)? {
        match decode_body(&body)? {
            Frame::Pieces(_) | Frame::Acked(_) => return Err(WireError::Unexpected("frame in a datagram")),
            frame => take(shared, incoming, frame)?,
        }
    }
    Ok(())
}

/// Passes on what another node's client has published, or drops it if there is no subscriber, memory or time.
fn publish(shared: &Shared, channel: Vec<u8>, message: Vec<u8>) {
    if !shared.channels.has_subscribers() {
        return;
    }
    let mut held = shared.memory.reservation();
    let is_held = held.resize(channel.len() + message.len()).is_ok();
    let input = PubSubInput::Published { channel, message, held };
    if !is_held || shared.inboxes.pubsub.try_send(input).is_err() {
        shared.channels.count_dropped();
    }
}

//! Outgoing half of the peer port: the thread `send-m` dials node m and keeps the connection, to which other threads
//! write.
//!
//! The death of a process is noticed at once: its kernel closes its connection to this node, the reading half
//! (`acceptor.rs`) has this thread check, and the next dial is refused. That is what [`CoreInput::LinkLost`] means: the
//! process is gone, not slow.
//! Not here: how frames get into a connection and when they are dropped (`node/shared/link.rs`), who gets a link
//! (`node/threads/core/`), the reading half (`acceptor.rs`).

use crate::address;
use crate::faults::switch;
use crate::limits::SEND_INBOX_MAX;
use crate::lock::{Mutex, lock};
use crate::node::datagrams::patience;
use crate::node::lab::link;
use crate::node::shared::Shared;
use crate::node::shared::link::{Link, LinkInput, PeerRoute, Wire};
use crate::node::shared::messages::{CoreInput, GossipInput};
use crate::types::{Identity, NodeId};
use crate::wire::authentication::ConnectionTags;
use crate::wire::codec::WireError;
use crate::wire::datagram_codec::DatagramKey;
use crate::wire::handshake::{self, HelloReply};
use crate::wire::{Hello, PROTOCOL, Purpose};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::{debug, info, warn};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a connection to be made, in the last attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Before that, a connection is tried this long: where packets are lost, TCP repeats its first one only after a second.
const QUICK_CONNECTS: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400)];
/// First and longest pause between two dials.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// A process that is dying (or just starting) may accept a connection and drop it: so many more dials follow at once.
const DYING_DIALS: u32 = 20;

/// Starts the thread of one link; it ends when the last [`Link`] is dropped.
///
/// # Errors
/// When the system refuses another thread.
pub fn start(shared: Arc<Shared>, who: Identity, address: String) -> io::Result<Link> {
    let (inbox, queue) = bounded(SEND_INBOX_MAX);
    let wire = Arc::new(Mutex::new(Wire::default()));
    let link = Link::new(shared.me, who, address.clone(), Arc::clone(&wire), inbox);
    // Not the link itself: this thread ends when no other thread holds it.
    let route = link.route();
    crate::node::spawn::spawn(&format!("send-{}", who.id.0), move || {
        Dialer { shared, who, address, wire, route }.run(&queue)
    })?;
    Ok(link)
}

struct Dialer {
    shared: Arc<Shared>,
    who: Identity,
    address: String,
    wire: Arc<Mutex<Wire>>,
    route: Arc<PeerRoute>,
}

enum LinkEnd {
    /// Dial again at once. The connection is closed when the next one is made, or cannot be: a peer that is alive hears
    /// this node over one of them at each moment, so it does not check in turn whether this node is gone.
    Doubtful,
    /// Nothing can be written to the connection: it is closed, then dialed again.
    Broken,
    /// The link is no longer needed.
    Unneeded,
}

impl Dialer {
    fn run(&self, queue: &Receiver<LinkInput>) {
        let mut backoff = BACKOFF.0;
        let mut down_since: Option<Instant> = None;
        let mut last_why = String::new();
        let mut quick_dials = DYING_DIALS;
        let mut replaced: Option<Arc<TcpStream>> = None;
        loop {
            // The next dial answers every check that was requested so far.
            while queue.try_recv().is_ok() {}
            let why = match self.connect() {
                Ok((stream, connected, round_trip)) => {
                    if let Some(since) = down_since.take() {
                        info!("peer up peer={} down_ms={}", self.who.id, since.elapsed().as_millis());
                    }
                    last_why.clear();
                    backoff = BACKOFF.0;
                    self.route.set_refused(false);
                    let stream = Arc::new(stream);
                    self.replace(Wire { stream: Some(Arc::clone(&stream)), ..connected }, replaced.take());
                    self.shared.inboxes.to_core(CoreInput::LinkUp { peer: self.who.id, round_trip });
                    match self.drain_until_broken(&stream, queue) {
                        LinkEnd::Doubtful => replaced = Some(stream),
                        LinkEnd::Broken => self.replace(Wire::default(), Some(stream)),
                        LinkEnd::Unneeded => {
                            *lock(&self.wire) = Wire::default();
                            let _ = stream.shutdown(Shutdown::Both);
                            return;
                        }
                    }
                    quick_dials = DYING_DIALS;
                    continue;
                }
                Err(e) => e,
            };
            self.replace(Wire::default(), replaced.take());
            let is_refused = matches!(&why, WireError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused);
            let is_dying = matches!(&why, WireError::Io(e) if is_hang_up(e.kind()));
            if is_dying && quick_dials > 0 {
                quick_dials -= 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            quick_dials = 0;
            // Before anyone can take the peer for dead: what another node passes on to it must not look like a sign of
            // life.
            self.route.set_refused(is_refused);
            if is_refused {
                self.shared.inboxes.to_core(CoreInput::LinkLost(self.who.id));
                self.shared.inboxes.to_gossip(GossipInput::Refused(self.who.id));
            }
            if down_since.is_none() || last_why != why.to_string() {
                last_why = why.to_string();
                match &why {
                    WireError::Rejected(why) => warn!("peer rejects us peer={} err={why:?}", self.who.id),
                    WireError::Unproved(why) => {
                        warn!(
                            "peer rejects us, unproved: any process that listens at {} can claim this peer={} err={why:?}",
                            self.address, self.who.id
                        );
                    }
                    WireError::Differs { .. } => {
                        warn!("peer rejects us, unproved: at {} peer={} err={last_why:?}", self.address, self.who.id);
                    }
                    _ => info!("peer down peer={} err={last_why:?}", self.who.id),
                }
            }
            down_since.get_or_insert_with(Instant::now);
            if !wait(queue, backoff) || self.shared.is_stopped() {
                return;
            }
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    /// A connection, and what its wire begins with.
    fn connect(&self) -> Result<(TcpStream, Wire, Duration), WireError> {
        let dialed = dial_as(&self.shared, self.who, &self.address, Purpose::Peer, CONNECT_TIMEOUT)?;
        let Dialed { stream, address, welcomed, tags, round_trip } = dialed;
        // Before the link is used: a vote from an outdated disk must not reach a node that remembers later promises.
        let (compared, is_compared) = bounded(1);
        let promise = welcomed.remembered;
        self.shared.inboxes.to_core(CoreInput::Remembered { by: self.who, promise, compared: Some(compared) });
        if is_compared.recv().is_err() {
            return Err(WireError::Io(io::ErrorKind::Interrupted.into()));
        }
        stream.set_read_timeout(None)?;
        patience::set(&stream, false)?;
        let key = welcomed.datagrams.map(|name| DatagramKey::new(name, tags.datagrams));
        let datagrams = key.and_then(|key| self.shared.datagrams.path(key, self.who.id, address, round_trip));
        Ok((stream, Wire { tags: tags.outgoing, datagrams, ..Wire::default() }, round_trip))
    }

    /// Frames are written to `wire` from now on. An earlier connection is closed, and the kernel does not send again what
    /// did not arrive over it: that would arrive after what is sent from now on.
    fn replace(&self, wire: Wire, earlier: Option<Arc<TcpStream>>) {
        *lock(&self.wire) = wire;
        if let Some(earlier) = earlier {
            // Where the system refuses that, it arrives.
            let _ = socket2::SockRef::from(&*earlier).set_linger(Some(Duration::ZERO));
        }
    }

    fn drain_until_broken(&self, stream: &TcpStream, queue: &Receiver<LinkInput>) -> LinkEnd {
        let made = Instant::now();
        loop {
            match queue.recv() {
                Ok(LinkInput::Drain) => {}
                Ok(LinkInput::Renew { made_before }) if made >= made_before => {}
                Ok(LinkInput::Check | LinkInput::Renew { .. }) => return LinkEnd::Doubtful,
                Err(_) => return LinkEnd::Unneeded,
            }
            loop {
                let bytes = {
                    let mut wire = lock(&self.wire);
                    wire.is_draining = !wire.rest.is_empty();
                    std::mem::take(&mut wire.rest)
                };
                if bytes.is_empty() {
                    break;
                }
                let mut to = stream;
                if let Err(e) = to.write_all(&bytes) {
                    debug!("write failed peer={} err={e}", self.who.id);
                    return LinkEnd::Broken;
                }
            }
        }
    }
}

/// Errors of a dial to a dying process: it accepts the connection and closes it.
fn is_hang_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Waits for `pause`, or until a check is requested; `false` when the link is no longer needed.
fn wait(queue: &Receiver<LinkInput>, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        match queue.recv_deadline(until) {
            Ok(LinkInput::Drain) => {}
            Ok(LinkInput::Check | LinkInput::Renew { .. }) | Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// A connection to a peer that has proved who it is.
pub struct Dialed {
    pub stream: TcpStream,
    /// The peer's own address.
    pub address: SocketAddr,
    pub welcomed: HelloReply,
    pub tags: ConnectionTags,
    /// How long it took to make the connection: the time of one question and its answer.
    pub round_trip: Duration,
}

/// Dials a node of this cluster, and verifies its identity.
///
/// # Errors
/// When no node answers in time, the handshake fails, or another node answers.
pub fn dial_as(
    shared: &Shared,
    to: Identity,
    address: &str,
    purpose: Purpose,
    timeout: Duration,
) -> Result<Dialed, WireError> {
    let (stream, at, round_trip) = connect(to.id, address, timeout)?;
    stream.set_nodelay(true)?;
    match handshake::dial(&stream, hello(shared, purpose), Some(to), shared.peer_key.as_ref()) {
        Ok((welcomed, tags)) => Ok(Dialed { stream, address: at, welcomed, tags, round_trip }),
        Err(WireError::Other { who, cluster }) => {
            // The same member with a replaced disk, or the member itself after another identity of its number: it
            // answers at a known address of this cluster.
            if who.id == to.id && cluster == Some(shared.cluster) {
                shared.inboxes.to_core(CoreInput::Answers(who));
            }
            Err(WireError::Rejected(format!("{who:?} answers at {address} in place of {to:?}")))
        }
        Err(e) => Err(e),
    }
}

/// Connects, at the fourth attempt at the latest; returns how long the successful one took.
fn connect(to: NodeId, address: &str, timeout: Duration) -> io::Result<(TcpStream, SocketAddr, Duration)> {
    let attempt = |within| -> io::Result<_> {
        let begun = Instant::now();
        let (stream, at) = match switch::get() {
            Some(switch) => link::connect(switch, to, within, |left| address::connect(address, left))?,
            None => {
                let stream = address::connect(address, within)?;
                let at = stream.peer_addr()?;
                (stream, at)
            }
        };
        Ok((stream, at, begun.elapsed()))
    };
    for within in QUICK_CONNECTS.into_iter().filter(|within| *within < timeout) {
        match attempt(within) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => {}
            connected => return connected,
        }
    }
    attempt(timeout)
}

/// The first frame of a connection; the handshake fills in the opening.
fn hello(shared: &Shared, purpose: Purpose) -> Hello {
    Hello {
        protocol: PROTOCOL,
        cluster: Some(shared.cluster),
        from: shared.me,
        addresses: shared.settings.addresses(shared.me.id),
        opening: Vec::new(),
        purpose,
    }
}

//! Outgoing half of each pair of nodes: `send-m` dials node m, keeps the connection, and writes what others queue.
//!
//! A dead process is known at once: its kernel closes the connection it had to us, the reading half (`peers.rs`) asks
//! this thread to look, and the redial is refused. That is what [`CoreInput::LinkLost`] means: not slow, gone.
//! A queue that is full drops the frame; raft and gossip treat it like a loss on the wire.
//! Not here: who gets a link (`core.rs`), the reading half (`peers.rs`).

use super::core::CoreInput;
use super::gossip::GossipInput;
use super::shared::Shared;
use crate::limits::SEND_INBOX_MAX;
use crate::types::{Addresses, Identity};
use crate::wire::codec::{WireError, encode};
use crate::wire::{Frame, Hello, PROTOCOL, Purpose, handshake};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{debug, info, warn};
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that takes nothing for so long (frozen, cut off) loses the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// First and longest pause between two dials.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 256 << 10;
/// A process that dies (or one that is just starting) may take a connection and drop it: dial again so often, at once.
const DYING_DIALS: u32 = 20;

/// What a `send-m` thread is told.
#[derive(Debug)]
pub enum LinkInput {
    /// Queue this frame.
    Send(Frame),
    /// The peer closed its connection to us: look whether it is still there.
    Check,
}

/// Queue of one outgoing link.
#[derive(Clone, Debug)]
pub struct Link {
    /// Whom it leads to.
    pub who: Identity,
    /// Where.
    pub address: String,
    inbox: Sender<LinkInput>,
}

impl Link {
    /// Queues a frame; drops it when the queue is full.
    pub fn send(&self, frame: Frame) {
        if self.inbox.try_send(LinkInput::Send(frame)).is_err() {
            debug!("send queue full or closed, frame dropped peer={}", self.who.id);
        }
    }

    /// Asks the thread to look whether the peer is still there.
    pub fn check(&self) {
        // A full queue means that the thread is writing and will notice by itself.
        let _ = self.inbox.try_send(LinkInput::Check);
    }
}

/// Starts the thread of one link; it ends when the last [`Link`] is dropped.
///
/// # Errors
/// When the system refuses another thread.
pub fn start(shared: Arc<Shared>, who: Identity, address: String) -> io::Result<Link> {
    let (inbox, queue) = bounded(SEND_INBOX_MAX);
    let link = Link { who, address: address.clone(), inbox };
    super::threads::spawn(&format!("send-{}", who.id.0), move || Dialer { shared, who, address }.run(&queue))?;
    Ok(link)
}

struct Dialer {
    shared: Arc<Shared>,
    who: Identity,
    address: String,
}

enum Ended {
    /// Look again at once.
    Broken,
    /// Nobody needs the link any more.
    Unneeded,
}

impl Dialer {
    fn run(&self, queue: &Receiver<LinkInput>) {
        let mut backoff = BACKOFF.0;
        let mut down_since: Option<Instant> = None;
        let mut last_why = String::new();
        let mut quick_dials = DYING_DIALS;
        loop {
            let why = match self.connect() {
                Ok(stream) => {
                    if let Some(since) = down_since.take() {
                        info!("peer up peer={} down_ms={}", self.who.id, since.elapsed().as_millis());
                    }
                    last_why.clear();
                    backoff = BACKOFF.0;
                    self.shared.to_core(CoreInput::LinkUp(self.who.id));
                    match self.write_until_broken(stream, queue) {
                        Ended::Broken => quick_dials = DYING_DIALS,
                        Ended::Unneeded => return,
                    }
                    continue;
                }
                Err(e) => e,
            };
            let is_refused = matches!(&why, WireError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused);
            let is_dying = matches!(&why, WireError::Io(e) if is_hang_up(e.kind()));
            if is_dying && quick_dials > 0 {
                quick_dials -= 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            quick_dials = 0;
            if is_refused {
                self.shared.to_core(CoreInput::LinkLost(self.who.id));
                self.shared.to_gossip(GossipInput::Refused(self.who.id));
            }
            if down_since.is_none() || last_why != why.to_string() {
                last_why = why.to_string();
                match &why {
                    WireError::Rejected(why) => warn!("peer rejects us peer={} err={why:?}", self.who.id),
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

    fn connect(&self) -> Result<TcpStream, WireError> {
        let address = resolve(&self.address)?;
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        let hello = hello(&self.shared, Purpose::Peer);
        let (who, _) = handshake::dial(&stream, hello, self.shared.settings.cluster_secret.as_deref())?;
        if who != self.who {
            return Err(WireError::Rejected(format!("{who:?} answers at {} in place of {:?}", self.address, self.who)));
        }
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(stream)
    }

    fn write_until_broken(&self, mut stream: TcpStream, queue: &Receiver<LinkInput>) -> Ended {
        loop {
            let mut bytes = match queue.recv() {
                Ok(LinkInput::Send(frame)) => encode(&frame),
                Ok(LinkInput::Check) => return Ended::Broken,
                Err(_) => return Ended::Unneeded,
            };
            let mut must_check = false;
            while bytes.len() < WRITE_BYTES {
                match queue.try_recv() {
                    Ok(LinkInput::Send(frame)) => bytes.extend_from_slice(&encode(&frame)),
                    Ok(LinkInput::Check) => must_check = true,
                    Err(_) => break,
                }
            }
            if must_check {
                return Ended::Broken;
            }
            if let Err(e) = stream.write_all(&bytes) {
                debug!("write failed peer={} err={e}", self.who.id);
                return Ended::Broken;
            }
        }
    }
}

/// How a dying process answers: it takes the connection and hangs up.
fn is_hang_up(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Drops what is queued for `pause` (or until asked to look); `false` when nobody needs the link any more.
fn wait(queue: &Receiver<LinkInput>, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    loop {
        match queue.recv_deadline(until) {
            Ok(LinkInput::Send(_)) => {}
            Ok(LinkInput::Check) | Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// First address of `host:port`.
pub fn resolve(address: &str) -> io::Result<std::net::SocketAddr> {
    address.to_socket_addrs()?.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such host"))
}

/// Our first word on any connection; the handshake fills in the proof.
pub fn hello(shared: &Shared, purpose: Purpose) -> Hello {
    let addresses: Addresses = shared.settings.addresses(shared.me.id);
    Hello { protocol: PROTOCOL, cluster: Some(shared.cluster), from: shared.me, addresses, proof: Vec::new(), purpose }
}

//! Datagrams of a lab: lost, late or held back as the faults of the link say.
//!
//! Elsewhere nodes on loopback send none, since nothing is lost there; in a lab links may lose packets.
//! Not here: connections (`link.rs`), which datagrams are sent (`node/datagrams/`).

use crate::faults::switch::Switch;
use crate::node::spawn;
use crate::types::NodeId;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Datagrams that are on their way at most; further ones are lost.
const DELAYED_MAX: usize = 4096;
/// Longest wait of the thread while nothing is on its way.
const IDLE: Duration = Duration::from_secs(3600);

/// The thread that sends what is late.
static DELAYED: OnceLock<Sender<Delayed>> = OnceLock::new();

/// A datagram and when it arrives. The earliest is the greatest, for the heap.
struct Delayed {
    due: Instant,
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl PartialEq for Delayed {
    fn eq(&self, other: &Delayed) -> bool {
        self.due == other.due
    }
}

impl Eq for Delayed {}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Delayed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Delayed {
    fn cmp(&self, other: &Delayed) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

/// When a datagram to a peer arrives, after now; `None`: it is lost.
fn delay(switch: &Switch, peer: NodeId) -> Option<Duration> {
    let quality = switch.to(peer);
    if quality.is_cut || fastrand::f64() < quality.loss {
        return None;
    }
    let jitter_ms = if quality.jitter_ms > 0 { fastrand::u64(0..=quality.jitter_ms) } else { 0 };
    Some(Duration::from_millis(quality.delay_ms + jitter_ms))
}

/// Whether a datagram is to be sent at once; else it is lost, or sent by another thread.
pub fn passes(switch: &Switch, peer: NodeId, socket: &Arc<UdpSocket>, to: SocketAddr, bytes: &[u8]) -> bool {
    match delay(switch, peer) {
        Some(Duration::ZERO) => true,
        None => false,
        Some(delay) => {
            let due = Instant::now() + delay;
            let delayed = Delayed { due, socket: Arc::clone(socket), to, bytes: bytes.to_vec() };
            // As a network whose queues are full.
            let _ = DELAYED.get_or_init(start).try_send(delayed);
            false
        }
    }
}

fn start() -> Sender<Delayed> {
    let (to, inbox) = bounded(DELAYED_MAX);
    if let Err(e) = spawn::spawn("late-datagrams", move || send_all(&inbox)) {
        log::warn!("no thread for late datagrams, they are lost err={e}");
    }
    to
}

fn send_all(inbox: &Receiver<Delayed>) {
    let mut waiting: BinaryHeap<Delayed> = BinaryHeap::new();
    loop {
        let wait = waiting.peek().map_or(IDLE, |first| first.due.saturating_duration_since(Instant::now()));
        match inbox.recv_timeout(wait) {
            Ok(delayed) if waiting.len() < DELAYED_MAX => waiting.push(delayed),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.peek().is_some_and(|first| first.due <= Instant::now()) {
            if let Some(Delayed { socket, to, bytes, .. }) = waiting.pop() {
                let _ = socket.send_to(&bytes, to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, LinkQuality, switch};

    #[test]
    fn datagrams_are_lost_late_and_in_the_order_of_their_times() {
        let (me, peer) = (NodeId(1), NodeId(2));
        let switch = switch::turn_on(me, 5700);
        let set = |quality| switch.set(&[Fault::Link { from: me, to: peer, quality }]);
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let send = |text: &[u8]| passes(switch, peer, &socket, other.local_addr().unwrap(), text);
        switch.set(&[]);
        assert!(send(b"now"));
        set(LinkQuality { is_cut: true, ..LinkQuality::default() });
        assert!(!send(b"cut"));
        set(LinkQuality { loss: 1.0, ..LinkQuality::default() });
        assert!(!send(b"lost"));
        let begun = Instant::now();
        set(LinkQuality { delay_ms: 80, ..LinkQuality::default() });
        assert!(!send(b"later"));
        set(LinkQuality { delay_ms: 40, ..LinkQuality::default() });
        assert!(!send(b"late"));
        let receive = || {
            let mut bytes = [0; 16];
            let len = other.recv(&mut bytes).unwrap();
            (String::from_utf8_lossy(&bytes[..len]).into_owned(), begun.elapsed())
        };
        let (first, second) = (receive(), receive());
        assert_eq!((first.0.as_str(), second.0.as_str()), ("late", "later"), "nothing that was cut or lost arrives");
        assert!(first.1 >= Duration::from_millis(40) && second.1 >= Duration::from_millis(80));
    }
}

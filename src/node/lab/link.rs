//! Connections of a lab, whose bytes are delayed, lost or held back as the faults of the link say.
//!
//! A connection to a peer begins at a pair of sockets within this process. For each direction one thread reads bytes and
//! notes when they are due, and another one writes them when they are: what a network would do between the two kernels.
//! So the nodes' own code sees what it would see of a real network: a cut link is silent, nothing is refused and no
//! connection closes; what was sent arrives when the link is healed, unless the connection was given up.
//!
//! Invariants: F1 bytes of one direction stay in order. F2 while a direction is cut, nothing crosses it, not even the
//! end of the connection. F3 a direction holds a bounded number of bytes; then its sender waits, as with TCP.
//! Not here: which faults there are (`faults/`), datagrams (`datagrams.rs`).

use crate::faults::switch::Switch;
use crate::faults::{LinkQuality, RETRANSMIT_MS};
use crate::node::spawn;
use crate::types::NodeId;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of one packet at most, and packets that one direction holds (F3).
const PACKET_BYTES: usize = 16 << 10;
const PACKETS_MAX: usize = 256;
/// Longest wait for a change of the faults before a thread looks whether it is still needed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Stack of a thread of a link.
const STACK_BYTES: usize = 64 << 10;

/// Makes a connection to a peer over a link with faults, and returns the peer's address. `connect` makes it without them.
///
/// # Errors
/// As `connect`, or the link is too bad for an answer within this time.
pub fn connect(
    switch: &'static Switch,
    peer: NodeId,
    within: Duration,
    connect: impl FnOnce(Duration) -> io::Result<TcpStream>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let left = wait_for_round_trip(switch, peer, Instant::now() + within)?;
    let far = connect(left)?;
    let address = far.peer_addr()?;
    let near = through(switch, peer, far)?;
    near.set_nodelay(true)?;
    Ok((near, address))
}

/// Waits as long as the first packet of a connection and its answer take; returns what is left of the time.
fn wait_for_round_trip(switch: &Switch, peer: NodeId, deadline: Instant) -> io::Result<Duration> {
    let arrives = Instant::now() + delay_of(switch.to(peer)) + delay_of(switch.from(peer));
    loop {
        let now = Instant::now();
        let left = deadline.checked_duration_since(now).filter(|left| !left.is_zero());
        let left = left.ok_or(io::ErrorKind::TimedOut)?;
        if switch.to(peer).is_cut || switch.from(peer).is_cut {
            switch.wait_for_links(left.min(LOOK_EVERY));
        } else if arrives <= now {
            return Ok(left);
        } else {
            std::thread::sleep(left.min(arrives - now));
        }
    }
}

/// The time that one packet takes, by chance.
fn delay_of(quality: LinkQuality) -> Duration {
    let jitter_ms = if quality.jitter_ms > 0 { fastrand::u64(0..=quality.jitter_ms) } else { 0 };
    let mut takes_ms = quality.delay_ms + jitter_ms;
    let mut wait_ms = RETRANSMIT_MS;
    // A packet that is lost is sent again, ever later. Where all are lost the link is as good as cut.
    while fastrand::f64() < quality.loss && wait_ms < 60_000 {
        takes_ms += wait_ms;
        wait_ms *= 2;
    }
    Duration::from_millis(takes_ms)
}

/// The near end of a connection whose far end is `far`.
fn through(switch: &'static Switch, peer: NodeId, far: TcpStream) -> io::Result<TcpStream> {
    let (near, inner) = pair()?;
    inner.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (inner, far) = (Arc::new(inner), Arc::new(far));
    let is_given_up = Arc::new(AtomicBool::new(false));
    for direction in [Direction::To, Direction::From] {
        let (reads, writes) = match direction {
            Direction::To => (&inner, &far),
            Direction::From => (&far, &inner),
        };
        let (packets, due) = bounded(PACKETS_MAX);
        let quality = move || direction.quality(switch, peer);
        let (from, given_up) = (Arc::clone(reads), Arc::clone(&is_given_up));
        spawn::spawn_with_stack("link-read", STACK_BYTES, move || {
            let is_near = direction == Direction::To;
            read_packets(&from, &packets, quality);
            if is_near {
                given_up.store(true, Ordering::Release);
            }
        })?;
        let (to, given_up) = (Arc::clone(writes), Arc::clone(&is_given_up));
        spawn::spawn_with_stack("link-write", STACK_BYTES, move || {
            let wait = |most| switch.wait_for_links(most);
            write_packets(&to, &due, quality, wait, &given_up);
            let _ = to.shutdown(Shutdown::Both);
        })?;
    }
    Ok(near)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    To,
    From,
}

impl Direction {
    fn quality(self, switch: &Switch, peer: NodeId) -> LinkQuality {
        match self {
            Direction::To => switch.to(peer),
            Direction::From => switch.from(peer),
        }
    }
}

/// Two ends of one connection within this process.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    loop {
        let (inner, from) = listener.accept()?;
        // Any process may connect to a port of loopback.
        if from == near.local_addr()? {
            return Ok((near, inner));
        }
    }
}

/// Bytes and when they arrive.
struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

/// Reads until the connection ends on this side; then the channel ends.
fn read_packets(from: &TcpStream, to: &Sender<Packet>, quality: impl Fn() -> LinkQuality) {
    let (mut buffer, mut from, mut last) = (vec![0; PACKET_BYTES], from, Instant::now());
    loop {
        let bytes = match from.read(&mut buffer) {
            // After a freeze.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => return,
            Ok(count) => buffer[..count].to_vec(),
        };
        last = last.max(Instant::now() + delay_of(quality()));
        if to.send(Packet { due: last, bytes }).is_err() {
            return;
        }
    }
}

/// Writes what is due until the channel ends, and the link lets that through.
fn write_packets(
    to: &TcpStream,
    packets: &Receiver<Packet>,
    quality: impl Fn() -> LinkQuality,
    wait: impl Fn(Duration),
    is_given_up: &AtomicBool,
) {
    let mut to = to;
    let mut is_lost = false;
    for packet in packets {
        // A connection that was given up is not continued after a cut: its sender has sent the same elsewhere.
        while quality().is_cut {
            is_lost |= is_given_up.load(Ordering::Acquire);
            wait(LOOK_EVERY);
        }
        std::thread::sleep(packet.due.saturating_duration_since(Instant::now()));
        if is_lost || to.write_all(&packet.bytes).is_err() {
            return;
        }
    }
    while quality().is_cut {
        wait(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, switch};

    const PEER: NodeId = NodeId(2);

    /// The switch is that of the process, and a test is a process.
    fn lab() -> &'static Switch {
        switch::turn_on(NodeId(1), 5700)
    }

    fn set(to: LinkQuality, from: LinkQuality) {
        let link = |from, to, quality| Fault::Link { from, to, quality };
        lab().set(&[link(NodeId(1), PEER, to), link(PEER, NodeId(1), from)]);
    }

    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dial = |left| TcpStream::connect_timeout(&address, left);
        let near = connect(lab(), PEER, Duration::from_secs(5), dial).unwrap().0;
        let far = listener.accept().unwrap().0;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        }
        (near, far)
    }

    fn read(mut from: &TcpStream, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        from.read_exact(&mut bytes).map(|()| bytes)
    }

    const CUT: LinkQuality = LinkQuality { is_cut: true, delay_ms: 0, jitter_ms: 0, loss: 0.0 };

    #[test]
    fn a_cut_holds_back_one_direction_until_it_is_healed() {
        lab().set(&[]);
        let (mut near, mut far) = connected();
        near.write_all(b"one").unwrap();
        assert_eq!(read(&far, 3).unwrap(), b"one");
        set(CUT, LinkQuality::default());
        near.write_all(b"two").unwrap();
        far.write_all(b"back").unwrap();
        assert_eq!(read(&near, 4).unwrap(), b"back");
        assert!(read(&far, 3).is_err(), "nothing crosses a cut");
        lab().set(&[]);
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(read(&far, 3).unwrap(), b"two");
        drop(near);
        assert_eq!(far.read(&mut [0; 9]).unwrap(), 0, "its end arrives");
    }

    #[test]
    fn the_end_of_a_connection_does_not_cross_a_cut() {
        lab().set(&[]);
        let (mut near, mut far) = connected();
        set(CUT, CUT);
        near.write_all(b"late").unwrap();
        drop(near);
        assert!(far.read(&mut [0; 9]).is_err(), "neither bytes nor an end");
        // The writer has seen that it is given up: it looks at least this often.
        let looked = Instant::now() + 2 * LOOK_EVERY;
        while Instant::now() < looked {
            lab().wait_for_links(LOOK_EVERY);
        }
        lab().set(&[]);
        far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(far.read(&mut [0; 9]).unwrap_or(0), 0, "what was given up does not arrive");
    }

    #[test]
    fn no_connection_is_made_over_a_cut_and_one_that_is_healed_in_time_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let dial = |left| TcpStream::connect_timeout(&address, left);
        set(LinkQuality::default(), CUT);
        let refused = connect(lab(), PEER, Duration::from_millis(50), dial).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        std::thread::scope(|scope| {
            let made = scope.spawn(|| connect(lab(), PEER, Duration::from_secs(20), dial));
            lab().wait_for_links(Duration::from_millis(50));
            lab().set(&[]);
            made.join().unwrap().unwrap();
        });
    }

    #[test]
    fn delays_are_kept_and_bytes_stay_in_order() {
        set(LinkQuality { delay_ms: 40, jitter_ms: 40, loss: 0.2, is_cut: false }, LinkQuality::default());
        let begun = Instant::now();
        let (mut near, far) = connected();
        assert!(begun.elapsed() >= Duration::from_millis(40), "a connection takes a round trip");
        far.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let sent = Instant::now();
        for n in 0..20_u8 {
            near.write_all(&[n; 7]).unwrap();
        }
        assert_eq!(read(&far, 7).unwrap(), [0; 7]);
        assert!(sent.elapsed() >= Duration::from_millis(40));
        for n in 1..20_u8 {
            assert_eq!(read(&far, 7).unwrap(), [n; 7]);
        }
    }
}

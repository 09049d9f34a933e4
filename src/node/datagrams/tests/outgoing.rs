//! Two nodes with a network between them that loses, delays, repeats and reorders, in virtual time.

use super::*;
use crate::node::datagrams::incoming::Incoming;
use crate::node::peer::limits::ConnectionTable;
use crate::types::{Identity, NodeId};
use crate::wire::datagram::{ConnectionId, PIECE_BYTES_MAX, PIECES_OF_FRAME_MAX};
use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use uuid::Uuid;

fn key() -> DatagramKey {
    DatagramKey::new(ConnectionId::random(), Default::default())
}

fn outgoing() -> Outgoing {
    Outgoing::new(key(), Duration::from_millis(10))
}

fn receiver(key: &DatagramKey) -> Incoming {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let from = Identity { id: NodeId(1), uuid: Uuid::from_u128(1) };
    let place = Arc::new(ConnectionTable::default()).enter(Arc::new(stream));
    Incoming::new(from, Some(key.clone()), Arc::new(place))
}

/// One direction with its acknowledgements, of which as many are lost.
struct Link {
    rng: fastrand::Rng,
    loss: f64,
    delay_ms: u64,
    sender: Outgoing,
    receiver: Incoming,
    /// Datagrams, pieces over the connection and acknowledgements on their way, by the time of arrival.
    under_way: BTreeMap<(u64, u64), Packet>,
    count: u64,
    sent: usize,
    on_connection: usize,
}

enum Packet {
    Datagram(Vec<u8>),
    Pieces(Vec<Piece>),
    /// In a datagram, or over the connection.
    Ack(Ack, bool),
}

impl Link {
    fn new(seed: u64, loss: f64, delay_ms: u64) -> Link {
        let sender = outgoing();
        let receiver = receiver(&sender.key);
        let (rng, under_way) = (fastrand::Rng::with_seed(seed), BTreeMap::new());
        Link { rng, loss, delay_ms, sender, receiver, under_way, count: 0, sent: 0, on_connection: 0 }
    }

    fn leave(&mut self, ms: u64, delay_ms: u64, packet: Packet) {
        self.count += 1;
        self.under_way.insert((ms + delay_ms, self.count), packet);
    }

    /// One millisecond; returns the frames that have come.
    fn pass(&mut self, begun: Instant, ms: u64) -> Vec<Vec<u8>> {
        let now = begun + Duration::from_millis(ms);
        let pieces = self.sender.for_connection(now);
        if !pieces.is_empty() {
            self.on_connection += pieces.len();
            // The connection loses nothing and takes its time.
            self.leave(ms, 3_000, Packet::Pieces(pieces));
        }
        for bytes in self.sender.due(now) {
            self.sent += 1;
            if self.rng.f64() >= self.loss {
                for _ in 0..self.rng.usize(1..=2) {
                    let delay_ms = self.delay_ms + self.rng.u64(0..=self.delay_ms);
                    self.leave(ms, delay_ms, Packet::Datagram(bytes.clone()));
                }
            }
        }
        let later = self.under_way.split_off(&(ms + 1, 0));
        let mut frames = Vec::new();
        for packet in std::mem::replace(&mut self.under_way, later).into_values() {
            let pieces = match packet {
                Packet::Ack(ack, by_datagram) => {
                    self.sender.on_ack(now, &ack, by_datagram);
                    continue;
                }
                Packet::Pieces(pieces) => {
                    frames.extend(self.receiver.take(pieces).unwrap());
                    let ack = self.receiver.ack().unwrap();
                    self.leave(ms, 3_000, Packet::Ack(ack, false));
                    continue;
                }
                Packet::Datagram(bytes) => {
                    let (sequence, datagram) = self.receiver.key.as_ref().unwrap().decode(&bytes).unwrap();
                    if !self.receiver.is_new(sequence) {
                        continue;
                    }
                    datagram.pieces
                }
            };
            frames.extend(self.receiver.take(pieces).unwrap());
            if self.rng.f64() >= self.loss {
                let ack = self.receiver.ack().unwrap();
                self.leave(ms, self.delay_ms, Packet::Ack(ack, true));
            }
        }
        frames
    }
}

/// Frames arrive whole, once and in order, whatever the network does; and soon.
#[test]
fn every_frame_arrives_once_in_order_and_soon() {
    let begun = Instant::now();
    for seed in 0..60 {
        let (loss, delay_ms) = ([0.0, 0.1, 0.3, 0.6][seed as usize % 4], 1 + seed % 40);
        let mut link = Link::new(seed, loss, delay_ms);
        let (mut queued, mut arrived, mut waits) = (Vec::new(), 0, Vec::new());
        for ms in 0..20_000 {
            if ms < 10_000 && ms % 20 == 0 {
                link.sender.on_loss(begun + Duration::from_millis(ms), LOSSY_FOR);
                let frame = vec![ms as u8; link.rng.usize(1..300)];
                if link.sender.try_add(begun + Duration::from_millis(ms), &frame) {
                    queued.push((ms, frame));
                }
            }
            for frame in link.pass(begun, ms) {
                assert_eq!(frame, queued[arrived].1, "seed {seed}");
                waits.push(ms - queued[arrived].0);
                arrived += 1;
            }
        }
        assert_eq!(arrived, queued.len(), "seed {seed}");
        waits.sort_unstable();
        let (median, p99) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
        if loss <= 0.3 {
            assert!(queued.len() >= 499 && median <= 3 * delay_ms + 40, "seed {seed}: {median} ms");
            assert!(p99 <= 12 * delay_ms + 150, "seed {seed}, loss {loss}, delay {delay_ms}: p99 {p99} ms");
            // Once it is known that datagrams arrive, the connection is spared.
            assert!(link.on_connection < 40, "seed {seed}: {} pieces on the connection", link.on_connection);
        }
        assert!(link.sender.unacked.is_empty(), "seed {seed}");
    }
}

#[test]
fn blocked_datagrams_fall_back_to_the_connection() {
    let begun = Instant::now();
    let mut link = Link::new(1, 1.0, 5);
    let (mut queued, mut refused, mut arrived) = (0_u64, 0_u64, Vec::new());
    for ms in 0..60_000 {
        if ms % 20 == 0 {
            let now = begun + Duration::from_millis(ms);
            link.sender.on_loss(now, LOSSY_FOR);
            // What is refused goes over the connection like any other frame.
            if link.sender.try_add(now, &queued.to_le_bytes()) { queued += 1 } else { refused += 1 }
        }
        arrived.extend(link.pass(begun, ms));
    }
    assert!(queued > 8 * WINDOW_PIECES && refused > 1000, "{queued} queued, {refused} refused");
    let expected = (0..queued).map(|number| number.to_le_bytes().to_vec()).take(arrived.len());
    assert_eq!(arrived, expected.collect::<Vec<_>>());
    assert!(queued - arrived.len() as u64 <= WINDOW_PIECES && !link.sender.is_proven);
    assert!((60..UNANSWERED_MAX as usize + 64).contains(&link.sent), "{} datagrams in a minute", link.sent);
}

#[test]
fn datagrams_that_are_blocked_in_the_middle_delay_a_frame_by_a_second() {
    let begun = Instant::now();
    let mut link = Link::new(2, 0.0, 5);
    link.sender.on_loss(begun, LOSSY_FOR);
    assert!((0..100).all(|ms| link.pass(begun, ms).is_empty()));
    assert!(link.sender.is_proven, "the first datagram asks whether it arrives");
    link.loss = 1.0;
    assert!(link.sender.try_add(begun + Duration::from_millis(100), b"late"));
    let arrived = (100..6_000).find(|ms| !link.pass(begun, *ms).is_empty());
    assert_eq!(arrived, Some(100 + LATE.as_millis() as u64 + 3_000));
    assert_eq!(link.on_connection, 1, "once");
}

#[test]
fn without_a_loss_nothing_is_sent_and_it_ends_by_itself() {
    let begun = Instant::now();
    let later = |seconds| begun + Duration::from_secs(seconds);
    let mut sender = outgoing();
    assert!(!sender.is_on(begun) && sender.due(begun).is_empty());
    assert!(sender.on_loss(begun, LOSSY_FOR) && !sender.on_loss(begun, LOSSY_FOR), "news once");
    assert!(sender.is_on(later(29)) && !sender.is_on(later(30)));
    sender.on_asked(later(100));
    assert!(sender.is_on(later(104)) && !sender.is_on(later(105)));
    // What the other side asks for is not a sign of its own: the two do not keep each other awake.
    let key = sender.key.clone();
    let asked: Vec<bool> = sender.due(later(101)).iter().map(|bytes| key.decode(bytes).unwrap().1.is_lossy).collect();
    assert_eq!(asked, [false]);
}

#[test]
fn an_acknowledgement_counts_for_its_connection_and_for_what_was_sent() {
    let now = Instant::now();
    let mut sender = outgoing();
    sender.on_loss(now, LOSSY_FOR);
    assert!((0..4).all(|_| sender.try_add(now, b"x")) && !sender.due(now).is_empty());
    let ack = Ack { connection: sender.key.connection, below: 1, beyond: 0b10 };
    sender.on_ack(now, &Ack { connection: ConnectionId::random(), ..ack }, true);
    sender.on_ack(now, &Ack { below: 5, ..ack }, true);
    assert!(sender.unacked.len() == 4 && !sender.is_proven);
    sender.on_ack(now, &ack, false);
    assert!(!sender.is_proven, "it came over the connection");
    let left: Vec<u64> = sender.unacked.iter().map(|sent| sent.piece.number).collect();
    assert_eq!(left, [1, 2], "0 and 3 were received");
    assert!(!sender.try_add(now, &[0; PIECE_BYTES_MAX * PIECES_OF_FRAME_MAX + 1]), "too large");
}

#[test]
fn datagrams_arrive_from_the_first_acknowledgement_until_one_is_late_or_none_is_sent() {
    let (mut sender, begun) = (outgoing(), Instant::now());
    let at = |ms| begun + Duration::from_millis(ms);
    let ack = Ack { connection: sender.key.connection, below: 1, beyond: 0 };
    sender.on_loss(at(0), LOSSY_FOR);
    assert!(sender.try_add(at(0), b"first") && !sender.due(at(0)).is_empty());
    assert!(!sender.is_arriving(at(10)), "nothing was acknowledged");
    sender.on_ack(at(10), &ack, false);
    assert!(!sender.is_arriving(at(10)), "the connection says nothing of datagrams");
    sender.on_ack(at(20), &ack, true);
    assert!(sender.is_arriving(at(20)) && !sender.is_arriving(at(0) + LOSSY_FOR));
    assert!(sender.try_add(at(30), b"second") && sender.for_connection(at(900)).is_empty());
    assert!(sender.is_arriving(at(900)));
    assert_eq!(sender.for_connection(at(30) + LATE).len(), 1);
    assert!(!sender.is_arriving(at(30) + LATE), "the network may be cut");
}

#[test]
fn the_first_arrival_on_a_connection_is_told_apart() {
    let receiver = receiver(&key());
    assert!(receiver.is_first() && !receiver.is_first());
}

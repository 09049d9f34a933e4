//! Datagrams of one link: whether they are sent, and what is repeated.
//!
//! They are sent while the link is *lossy*: this node has seen that its questions or their answers are late, or that a
//! piece had to be repeated; or the other side says so. Where nothing is lost there are none. As long as no datagram
//! was acknowledged (a firewall may drop them all), each piece also goes over the connection; afterwards only those
//! that are late. So a frame is never lost while the connection lives, and the connection is not filled with what has
//! arrived.
//!
//! Invariants: U1 a piece is kept until it is acknowledged. U2 the pieces that are kept lie within one window. U3 while
//! nothing is acknowledged, datagrams are few.
//! Not here: the bytes (`wire/datagram_codec.rs`), who notices losses (`node/threads/core/link_loss.rs`), sending
//! (`node/shared/link.rs`).

use crate::wire::datagram::{Ack, Datagram, Piece, WINDOW_PIECES, cut};
use crate::wire::datagram_codec::DatagramKey;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a link counts as lossy after the last sign of it.
pub const LOSSY_FOR: Duration = Duration::from_secs(30);
/// The same after a datagram of the other side that says so.
const ASKED_FOR: Duration = Duration::from_secs(5);
/// The time after which a piece is repeated: half as long again as a question and its answer, and this; doubled with
/// each repetition, up to eight times.
const REPEAT_SLACK: Duration = Duration::from_millis(10);
const REPEAT_BOUNDS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
const REPEAT_DOUBLINGS_MAX: u32 = 3;
/// A piece that was sent less long ago is not repeated with the next datagram.
const FILL_GAP: Duration = Duration::from_millis(5);
/// A piece that is not acknowledged for so long, or for four round trips, goes over the connection as well.
const LATE: Duration = Duration::from_secs(1);
/// Datagrams without an acknowledgement after which there is one in each [`PROBE_GAP`].
const UNANSWERED_MAX: u32 = 64;
const PROBE_GAP: Duration = Duration::from_secs(1);
/// A round trip is believed up to here, and that of the connection's first packets up to there.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);
const ROUND_TRIP_ASSUMED_MAX: Duration = Duration::from_millis(200);

/// The sender's side of one connection.
#[derive(Debug)]
pub struct Outgoing {
    key: DatagramKey,
    /// Of the next datagram.
    sequence: u64,
    /// Of the next piece.
    next: u64,
    unacked: VecDeque<UnackedPiece>,
    /// Smoothed.
    round_trip: Duration,
    lossy_until: Option<Instant>,
    asked_until: Option<Instant>,
    /// A datagram was acknowledged, and nothing was late since then.
    is_proven: bool,
    /// Datagrams since the last acknowledgement.
    unanswered: u32,
    sent_at: Option<Instant>,
    /// The other side was not asked yet whether datagrams arrive.
    wants_ack: bool,
    /// What this node has received of the other side's datagrams.
    ack: Option<Ack>,
    is_ack_due: bool,
}

/// A piece that is not acknowledged.
#[derive(Debug)]
struct UnackedPiece {
    piece: Piece,
    queued_at: Instant,
    /// When it was last sent as a datagram.
    sent_at: Option<Instant>,
    /// How often it was due again.
    repeats: u32,
    /// More than one datagram has carried it.
    is_repeated: bool,
    /// It went over the connection, too.
    is_on_connection: bool,
}

impl Outgoing {
    pub fn new(key: DatagramKey, round_trip: Duration) -> Outgoing {
        Outgoing {
            key,
            sequence: 0,
            next: 0,
            unacked: VecDeque::new(),
            // A connection that took long to make may have lost its first packet.
            round_trip: round_trip.min(ROUND_TRIP_ASSUMED_MAX),
            lossy_until: None,
            asked_until: None,
            is_proven: false,
            unanswered: 0,
            sent_at: None,
            wants_ack: false,
            ack: None,
            is_ack_due: false,
        }
    }

    /// The link loses packets, as this node has seen. Returns whether that is news.
    pub fn on_loss(&mut self, now: Instant, lasts: Duration) -> bool {
        let was_on = self.is_on(now);
        self.begin(now);
        self.lossy_until = self.lossy_until.max(Some(now + lasts));
        !was_on
    }

    /// The other side says that the link loses packets.
    pub fn on_asked(&mut self, now: Instant) {
        self.begin(now);
        self.asked_until = Some(now + ASKED_FOR);
    }

    fn begin(&mut self, now: Instant) {
        if !self.is_on(now) {
            // What was true when datagrams were last sent may not be true any more.
            self.is_proven = false;
            self.unanswered = 0;
            self.wants_ack = true;
        }
    }

    /// Whether small frames go as datagrams.
    pub fn is_on(&self, now: Instant) -> bool {
        self.lossy_until.max(self.asked_until).is_some_and(|until| now < until)
    }

    /// Whether small frames go as datagrams, and these arrive.
    pub fn is_arriving(&self, now: Instant) -> bool {
        self.is_proven && self.is_on(now)
    }

    /// Whether a datagram may be due before the next frame is added.
    pub fn is_waiting(&self) -> bool {
        !self.unacked.is_empty() && self.unanswered < UNANSWERED_MAX
    }

    /// Takes a frame, or not: it is too large, or too much is not acknowledged.
    pub fn try_add(&mut self, now: Instant, body: &[u8]) -> bool {
        let first = self.unacked.front().map_or(self.next, |sent| sent.piece.number);
        let Some(pieces) = cut(body, self.next) else { return false };
        if self.next + pieces.len() as u64 > first + WINDOW_PIECES {
            return false;
        }
        self.next += pieces.len() as u64;
        self.unacked.extend(pieces.into_iter().map(|piece| UnackedPiece {
            piece,
            queued_at: now,
            sent_at: None,
            repeats: 0,
            is_repeated: false,
            is_on_connection: false,
        }));
        true
    }

    /// The other side has received these. `by_datagram`: a datagram says so.
    pub fn on_ack(&mut self, now: Instant, ack: &Ack, by_datagram: bool) {
        if ack.connection != self.key.connection || ack.below > self.next {
            return;
        }
        let is_acked = |number: u64| {
            let beyond = number.checked_sub(ack.below + 1).filter(|bit| *bit < u64::from(u64::BITS));
            number < ack.below || beyond.is_some_and(|bit| ack.beyond >> bit & 1 == 1)
        };
        let mut sample = None;
        self.unacked.retain(|sent| {
            let is_acked = is_acked(sent.piece.number);
            // After a repetition it is not known which of the two was acknowledged.
            let is_clear = is_acked && !sent.is_repeated && !sent.is_on_connection;
            if let Some(at) = sent.sent_at.filter(|_| is_clear) {
                sample = Some(now.saturating_duration_since(at).min(ROUND_TRIP_MAX));
            }
            !is_acked
        });
        if let Some(sample) = sample {
            self.round_trip = (self.round_trip * 3 + sample) / 4;
        }
        if by_datagram {
            self.is_proven = true;
            self.unanswered = 0;
        }
    }

    /// What this node has received from the other side: told in each datagram, and in one of its own if there is none.
    pub fn set_ack(&mut self, ack: Ack) {
        self.ack = Some(ack);
        self.is_ack_due = true;
    }

    /// Pieces that must go over the connection now.
    pub fn for_connection(&mut self, now: Instant) -> Vec<Piece> {
        let late = LATE.max(self.round_trip * 4);
        let is_late =
            |sent: &UnackedPiece| !sent.is_on_connection && now.saturating_duration_since(sent.queued_at) >= late;
        if self.is_proven && self.unacked.iter().any(is_late) {
            self.is_proven = false;
            self.wants_ack = true;
        }
        if self.is_proven {
            return Vec::new();
        }
        let missing = self.unacked.iter_mut().filter(|sent| !sent.is_on_connection);
        missing
            .map(|sent| {
                sent.is_on_connection = true;
                sent.piece.clone()
            })
            .collect()
    }

    /// The datagrams that are due.
    pub fn due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let is_on = self.is_on(now);
        let is_silent = self.sent_at.is_none_or(|at| now.saturating_duration_since(at) >= PROBE_GAP);
        if self.unanswered >= UNANSWERED_MAX && !is_silent && !self.is_ack_due {
            return Vec::new();
        }
        // While nothing is acknowledged, one is sent from time to time: the path may have become free.
        let is_probe = is_on && (self.wants_ack || (!self.is_proven && is_silent));
        let mut datagrams = self.with_due_pieces(now);
        if datagrams.is_empty() && (self.is_ack_due || is_probe) {
            datagrams.push(Datagram::default());
        }
        if self.unanswered >= UNANSWERED_MAX {
            datagrams.truncate(1);
        }
        let Some(last) = datagrams.last_mut() else { return Vec::new() };
        last.wants_ack = is_probe;
        // What is not acknowledged is repeated in the room that is left.
        for sent in &mut self.unacked {
            let is_old = sent.sent_at.is_some_and(|at| now.saturating_duration_since(at) >= FILL_GAP);
            sent.is_repeated |= is_old && last.try_add(&sent.piece);
        }
        (self.wants_ack, self.is_ack_due, self.sent_at) = (false, false, Some(now));
        let is_lossy = self.lossy_until.is_some_and(|until| now < until);
        let encode = |datagram: Datagram| {
            self.unanswered += u32::from(datagram.wants_ack || !datagram.pieces.is_empty());
            self.sequence += 1;
            self.key.encode(self.sequence, &Datagram { is_lossy, ack: self.ack, ..datagram })
        };
        datagrams.into_iter().map(encode).collect()
    }

    /// Datagrams of the pieces that were never sent, or not for too long.
    fn with_due_pieces(&mut self, now: Instant) -> Vec<Datagram> {
        let gap = (self.round_trip * 3 / 2 + REPEAT_SLACK).clamp(REPEAT_BOUNDS.0, REPEAT_BOUNDS.1);
        let (mut datagrams, mut has_repeated) = (Vec::<Datagram>::new(), false);
        for sent in &mut self.unacked {
            let doublings = sent.repeats.min(REPEAT_DOUBLINGS_MAX);
            let is_due = sent.sent_at.is_none_or(|at| now.saturating_duration_since(at) >= gap * (1 << doublings));
            if !is_due {
                continue;
            }
            if sent.sent_at.replace(now).is_some() {
                (has_repeated, sent.is_repeated) = (true, true);
                sent.repeats += 1;
            }
            if !datagrams.last_mut().is_some_and(|last| last.try_add(&sent.piece)) {
                datagrams.push(Datagram { pieces: vec![sent.piece.clone()], ..Datagram::default() });
            }
        }
        if has_repeated && self.is_proven {
            self.lossy_until = self.lossy_until.max(Some(now + LOSSY_FOR));
        }
        datagrams
    }
}

#[cfg(test)]
#[path = "tests/outgoing.rs"]
mod tests;

//! Datagrams of one accepted connection: which have come, and the frames in their pieces.
//!
//! Frames are given on in the order in which they were sent: an append that overtakes the one before it would be
//! refused. Waiting costs little, because every datagram repeats earlier pieces.
//!
//! Invariants: N1 no datagram counts twice. N2 every frame is given on once, in order, whichever way its pieces came.
//! N3 no more than a window of pieces and one frame wait.
//! Not here: whether the sender is known (`node/peer/datagram_reader.rs`), the other side (`outgoing.rs`).

use super::forward_order::ForwardOrder;
use crate::lock::{Mutex, lock};
use crate::node::peer::limits::ConnectionEntry;
use crate::types::Identity;
use crate::wire::codec::WireError;
use crate::wire::datagram::{Ack, PIECES_OF_FRAME_MAX, Piece, WINDOW_PIECES, is_possible};
use crate::wire::datagram_codec::DatagramKey;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Sequence numbers below the newest that are distinguished. Older datagrams count as received before.
const REPLAY_WINDOW: u64 = 64;

/// One accepted peer connection, for the threads that read what it carries.
#[derive(Debug)]
pub struct Incoming {
    /// Who has made the connection.
    pub from: Identity,
    /// `None`: this node takes no datagrams.
    pub key: Option<DatagramKey>,
    pub place: Arc<ConnectionEntry>,
    /// Held while the requests are given to `core`, so that no other thread gives on later ones first; `core` itself
    /// never takes it.
    pub forwards: Mutex<ForwardOrder>,
    received: Mutex<ReceiveWindow>,
    has_brought: AtomicBool,
}

impl Incoming {
    pub fn new(from: Identity, key: Option<DatagramKey>, place: Arc<ConnectionEntry>) -> Incoming {
        Incoming {
            from,
            key,
            place,
            forwards: Mutex::default(),
            received: Mutex::default(),
            has_brought: AtomicBool::new(false),
        }
    }

    /// Something has arrived; returns whether it is the first.
    pub fn is_first(&self) -> bool {
        !self.has_brought.load(Ordering::Relaxed) && !self.has_brought.swap(true, Ordering::Relaxed)
    }

    /// Whether a datagram of this number is new.
    pub fn is_new(&self, sequence: u64) -> bool {
        lock(&self.received).replay.is_new(sequence)
    }

    /// Takes pieces; returns the bodies of the frames that are whole now.
    ///
    /// # Errors
    /// When no honest sender has sent them.
    pub fn take(&self, pieces: Vec<Piece>) -> Result<Vec<Vec<u8>>, WireError> {
        lock(&self.received).take(pieces)
    }

    /// What has been received.
    pub fn ack(&self) -> Option<Ack> {
        let key = self.key.as_ref()?;
        let received = lock(&self.received);
        let bits = received.held.keys().map(|number| number - received.below - 1);
        Some(Ack { connection: key.connection, below: received.below, beyond: bits.fold(0, |all, bit| all | 1 << bit) })
    }
}

#[derive(Debug, Default)]
struct ReceiveWindow {
    replay: Replay,
    /// All pieces before this number have been received.
    below: u64,
    /// Later ones; never the number `below` itself.
    held: BTreeMap<u64, Piece>,
    /// The frame that the next piece continues.
    begun: Vec<u8>,
    begun_pieces: usize,
}

impl ReceiveWindow {
    fn take(&mut self, pieces: Vec<Piece>) -> Result<Vec<Vec<u8>>, WireError> {
        for piece in pieces {
            if !is_possible(&piece) {
                return Err(WireError::Unexpected("content of a datagram"));
            }
            // The sender keeps to the window, as it knows it; beyond it nothing can be acknowledged.
            if (self.below..self.below + WINDOW_PIECES).contains(&piece.number) {
                self.held.entry(piece.number).or_insert(piece);
            }
        }
        let mut frames = Vec::new();
        while let Some(piece) = self.held.remove(&self.below) {
            self.below += 1;
            self.begun.extend(piece.bytes);
            self.begun_pieces += 1;
            if piece.is_last {
                frames.push(std::mem::take(&mut self.begun));
                self.begun_pieces = 0;
            } else if self.begun_pieces >= PIECES_OF_FRAME_MAX {
                return Err(WireError::Unexpected("frame of too many pieces"));
            }
        }
        Ok(frames)
    }
}

/// The newest sequence numbers that were seen.
#[derive(Debug, Default)]
struct Replay {
    newest: Option<u64>,
    /// Bit i: `newest - i`.
    seen: u64,
}

impl Replay {
    fn is_new(&mut self, sequence: u64) -> bool {
        let newest = self.newest.unwrap_or(sequence);
        if self.newest.is_none() || sequence > newest {
            self.seen = self.seen.checked_shl((sequence - newest).min(u64::from(u32::MAX)) as u32).unwrap_or(0) | 1;
            self.newest = Some(sequence);
            return true;
        }
        let age = newest - sequence;
        let bit = 1_u64.checked_shl(age.min(u64::from(u32::MAX)) as u32).unwrap_or(0);
        let is_new = age < REPLAY_WINDOW && self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::datagram::{PIECE_BYTES_MAX, cut};

    #[test]
    fn a_datagram_counts_once_in_any_order() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..50 {
            let (mut replay, mut counted) = (Replay::default(), std::collections::BTreeSet::new());
            let mut newest = 0;
            for _ in 0..500 {
                let sequence = (newest + rng.u64(0..4)).saturating_sub(rng.u64(0..REPLAY_WINDOW * 3 / 2));
                let is_expected = (sequence + REPLAY_WINDOW > newest) && !counted.contains(&sequence);
                assert_eq!(replay.is_new(sequence), is_expected, "{sequence} with {newest} as the newest");
                counted.insert(sequence);
                newest = newest.max(sequence);
            }
        }
        let mut replay = Replay::default();
        assert!(replay.is_new(u64::MAX) && !replay.is_new(u64::MAX) && !replay.is_new(0));
    }

    #[test]
    fn frames_are_whole_in_order_and_once() {
        let mut rng = fastrand::Rng::with_seed(6);
        for _ in 0..50 {
            let frames: Vec<Vec<u8>> = (0..9).map(|n| vec![n; rng.usize(1..3 * PIECE_BYTES_MAX)]).collect();
            let mut pieces = Vec::new();
            frames.iter().for_each(|frame| pieces.extend(cut(frame, pieces.len() as u64).unwrap()));
            let mut twice = [pieces.clone(), pieces.clone()].concat();
            rng.shuffle(&mut twice);
            let (mut received, mut taken) = (ReceiveWindow::default(), Vec::new());
            for piece in twice {
                taken.extend(received.take(vec![piece]).unwrap());
            }
            assert_eq!(taken, frames);
            assert_eq!((received.below, received.held.len()), (pieces.len() as u64, 0));
        }
    }

    #[test]
    fn malformed_datagrams_cannot_exceed_the_bounds() {
        let piece = |number, len, is_last| Piece { number, is_last, bytes: vec![0; len] };
        let mut received = ReceiveWindow::default();
        assert!(received.take((1..500).rev().map(|number| piece(number, 1, false)).collect()).unwrap().is_empty());
        assert_eq!(received.held.len() as u64, WINDOW_PIECES - 1);
        assert!(received.take(vec![piece(0, 1, false)]).is_err(), "a frame without an end");
        for bad in [piece(0, 0, true), piece(0, PIECE_BYTES_MAX + 1, true), piece(u64::MAX, 1, true)] {
            assert!(ReceiveWindow::default().take(vec![bad]).is_err());
        }
    }
}

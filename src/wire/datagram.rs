//! Datagrams beside a peer connection: small frames of a link that loses packets.
//!
//! TCP waits longer after each loss, up to seconds: on a link that loses a third of all packets it pauses for longer
//! than an election timeout. So a dialer whose connection has an id (from the acceptor's welcome) may send small frames
//! to the UDP port of the same number. A frame is cut into *pieces* with consecutive numbers; each datagram repeats
//! pieces that are not acknowledged, as far as they fit. Datagrams go one way, as the frames of the connection do; what
//! the receiver has is acknowledged in the datagrams of the connection in the other direction.
//!
//! Not here: the bytes of a datagram (`datagram_codec.rs`), when datagrams are sent, and in what order frames are given
//! on (`node/datagrams/`).

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

/// Bytes of a datagram: with the headers of IPv6 and UDP it fits into the 1,280 bytes that every network carries whole.
pub const DATAGRAM_BYTES_MAX: usize = 1200;
/// Bytes of a frame in one piece: leaves room for the header, the acknowledgement and the tag.
pub const PIECE_BYTES_MAX: usize = 1080;
/// Pieces of one frame. Longer frames go over the connection only.
pub const PIECES_OF_FRAME_MAX: usize = 16;
/// Pieces from the first that is not acknowledged to the last that was sent: as many as an acknowledgement can name.
pub const WINDOW_PIECES: u64 = 64;

/// Header and tag.
pub(super) const ENVELOPE_BYTES: usize = 16 + 8 + 4 + 16;
/// The most that the body has beside its pieces, and a piece beside its bytes.
const BODY_BYTES: usize = 48;
const PIECE_EXTRA_BYTES: usize = 13;

const _: () = assert!(ENVELOPE_BYTES + BODY_BYTES + PIECE_EXTRA_BYTES + PIECE_BYTES_MAX <= DATAGRAM_BYTES_MAX);

/// Names a connection in datagrams: drawn by the acceptor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub(super) [u8; 16]);

impl ConnectionId {
    /// A random id: 122 bits.
    pub fn random() -> ConnectionId {
        ConnectionId(*Uuid::new_v4().as_bytes())
    }

    /// Of the connection that a datagram belongs to, as it says.
    pub fn of(datagram: &[u8]) -> Option<ConnectionId> {
        datagram.first_chunk().map(|id| ConnectionId(*id))
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a secret any process that knows it may send in the dialer's name.
        f.write_str("ConnectionId(********)")
    }
}

/// Part of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Position among all pieces of the connection, from 0.
    pub number: u64,
    /// The frame ends with it.
    pub is_last: bool,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Bytes in a datagram, at most.
    fn size(&self) -> usize {
        self.bytes.len() + PIECE_EXTRA_BYTES
    }
}

/// Which pieces the sender of this has received, over which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    pub connection: ConnectionId,
    /// All before this number.
    pub below: u64,
    /// Bit i: number `below + 1 + i`.
    pub beyond: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// The sender has seen that packets are lost between the two: the other side should send datagrams, too.
    pub is_lossy: bool,
    /// To be acknowledged even without a piece.
    pub wants_ack: bool,
    pub ack: Option<Ack>,
    pub pieces: Vec<Piece>,
}

impl Datagram {
    /// Adds a piece if it fits.
    pub fn try_add(&mut self, piece: &Piece) -> bool {
        let bytes: usize = self.pieces.iter().map(Piece::size).sum();
        let fits = ENVELOPE_BYTES + BODY_BYTES + bytes + piece.size() <= DATAGRAM_BYTES_MAX;
        if fits {
            self.pieces.push(piece.clone());
        }
        fits
    }
}

/// Cuts a frame; `first` is the number of the first piece. `None`: it has too many.
pub fn cut(body: &[u8], first: u64) -> Option<Vec<Piece>> {
    let count = body.len().div_ceil(PIECE_BYTES_MAX);
    if count == 0 || count > PIECES_OF_FRAME_MAX {
        return None;
    }
    let piece = |(at, bytes): (usize, &[u8])| Piece {
        number: first + at as u64,
        is_last: at + 1 == count,
        bytes: bytes.to_vec(),
    };
    Some(body.chunks(PIECE_BYTES_MAX).enumerate().map(piece).collect())
}

/// Whether a piece may be in a frame; numbers stay far from the end of all numbers.
pub fn is_possible(piece: &Piece) -> bool {
    (1..=PIECE_BYTES_MAX).contains(&piece.bytes.len()) && piece.number < u64::MAX / 2
}

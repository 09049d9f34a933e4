//! The bytes of a datagram: 16 bytes id of the connection, 8 bytes sequence number (little-endian), 4 bytes CRC-32 of
//! the body, the body (postcard, [`Datagram`]), and with a `cluster_secret` a tag of 16 bytes over all before it, with
//! a key of this connection and direction. Without a secret the id, which is random, shows that the sender did the
//! handshake.
//!
//! All input is from outside: an error is counted and the datagram dropped.
//! Not here: what a datagram says (`datagram.rs`).

use super::authentication::{DatagramTags, TAG_BYTES};
use super::codec::WireError;
use super::datagram::{ConnectionId, DATAGRAM_BYTES_MAX, Datagram, ENVELOPE_BYTES, is_possible};

/// Id, sequence number, checksum.
const HEADER_BYTES: usize = ENVELOPE_BYTES - TAG_BYTES;

/// One direction of a connection, for those who write and read its datagrams.
#[derive(Clone, Debug)]
pub struct DatagramKey {
    pub connection: ConnectionId,
    tags: DatagramTags,
}

impl DatagramKey {
    pub fn new(connection: ConnectionId, tags: DatagramTags) -> DatagramKey {
        DatagramKey { connection, tags }
    }

    /// The bytes of a datagram. No two of a connection have the same sequence number.
    pub fn encode(&self, sequence: u64, datagram: &Datagram) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(DATAGRAM_BYTES_MAX);
        bytes.extend(self.connection.0);
        bytes.extend(sequence.to_le_bytes());
        bytes.extend([0; 4]);
        bytes = postcard::to_extend(datagram, bytes).expect("encoding into memory cannot fail");
        let sum = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        if let Some(tag) = self.tags.tag(&bytes) {
            bytes.extend(tag);
        }
        assert!(bytes.len() <= DATAGRAM_BYTES_MAX, "a datagram of {} bytes", bytes.len());
        bytes
    }

    /// The sequence number and the content of a datagram of this connection.
    ///
    /// # Errors
    /// When it is not one that the other side has written.
    pub fn decode(&self, bytes: &[u8]) -> Result<(u64, Datagram), WireError> {
        let len = bytes.len();
        if len > DATAGRAM_BYTES_MAX {
            return Err(WireError::TooLarge { len, max: DATAGRAM_BYTES_MAX });
        }
        let signed = len.checked_sub(self.tags.tag_bytes()).filter(|signed| *signed >= HEADER_BYTES);
        let (signed, tag) = bytes.split_at(signed.ok_or(WireError::Unexpected("end of a datagram"))?);
        if ConnectionId::of(signed) != Some(self.connection) || !self.tags.is_tag(signed, tag) {
            return Err(WireError::Tag);
        }
        let (header, body) = signed.split_at(HEADER_BYTES);
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&header[16..24]);
        if crc32fast::hash(body).to_le_bytes() != header[24..] {
            return Err(WireError::Checksum);
        }
        let (datagram, rest) =
            postcard::take_from_bytes::<Datagram>(body).map_err(|e| WireError::Decode(e.to_string()))?;
        if !rest.is_empty() || datagram.pieces.iter().any(|piece| !is_possible(piece)) {
            return Err(WireError::Unexpected("content of a datagram"));
        }
        Ok((u64::from_le_bytes(sequence), datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::authentication::tests::datagram_tags;
    use crate::wire::datagram::{Ack, PIECE_BYTES_MAX, PIECES_OF_FRAME_MAX, cut};

    fn keys() -> [DatagramKey; 2] {
        let connection = ConnectionId::random();
        [DatagramTags::default(), datagram_tags()].map(|tags| DatagramKey::new(connection, tags))
    }

    fn full(connection: ConnectionId) -> Datagram {
        let ack = Some(Ack { connection, below: u64::MAX, beyond: u64::MAX });
        let mut datagram = Datagram { is_lossy: true, wants_ack: true, ack, pieces: Vec::new() };
        let body: Vec<u8> = (0..PIECE_BYTES_MAX * PIECES_OF_FRAME_MAX).map(|at| at as u8).collect();
        let pieces = cut(&body, u64::MAX / 2 - 20).unwrap();
        assert!(cut(&[0; PIECE_BYTES_MAX * PIECES_OF_FRAME_MAX + 1], 0).is_none() && cut(&[], 0).is_none());
        assert_eq!(
            pieces.iter().map(|piece| piece.is_last).collect::<Vec<_>>(),
            [[false; 15].to_vec(), vec![true]].concat()
        );
        assert!(datagram.try_add(&pieces[0]) && !datagram.try_add(&pieces[1]));
        datagram
    }

    #[test]
    fn the_largest_datagram_fits_and_survives_the_trip() {
        for key in keys() {
            let datagram = full(key.connection);
            let bytes = key.encode(7, &datagram);
            assert_eq!(ConnectionId::of(&bytes), Some(key.connection));
            assert_eq!(key.decode(&bytes).unwrap(), (7, datagram));
        }
    }

    #[test]
    fn altered_truncated_and_forged_datagrams_are_refused() {
        for (key, has_secret) in keys().iter().zip([false, true]) {
            let bytes = key.encode(7, &full(key.connection));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                // Without a secret a sequence number proves nothing.
                let is_sequence = (128..192).contains(&bit);
                assert!(key.decode(&bad).is_err() || (is_sequence && !has_secret), "bit {bit} went unnoticed");
            }
            for end in 0..bytes.len() {
                assert!(key.decode(&bytes[..end]).is_err(), "cut at {end} went unnoticed");
            }
            assert!(key.decode(&[&bytes[..], &[0; 200]].concat()).is_err(), "too long");
            let other = DatagramKey::new(ConnectionId::random(), DatagramTags::default());
            assert!(other.decode(&other.encode(1, &Datagram::default())).is_ok() && other.decode(&bytes).is_err());
            if has_secret {
                let unsigned = DatagramKey::new(key.connection, DatagramTags::default());
                assert!(key.decode(&unsigned.encode(8, &Datagram::default())).is_err(), "the id alone proves nothing");
            }
        }
    }

    /// Bytes with a right checksum and any content: an error or a datagram, never a panic.
    #[test]
    fn random_bodies_are_decoded_or_refused() {
        let [key, _] = keys();
        let mut rng = fastrand::Rng::with_seed(17);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let valid = key.encode(rng.u64(..), &full(key.connection));
            let mut bytes = valid[..HEADER_BYTES + rng.usize(0..=valid.len() - HEADER_BYTES)].to_vec();
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(HEADER_BYTES..=bytes.len().min(HEADER_BYTES + 40));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.u8(..);
                }
            }
            let sum = crc32fast::hash(&bytes[HEADER_BYTES..]);
            bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
            match key.decode(&bytes) {
                Ok((_, datagram)) => {
                    taken += 1;
                    assert!(datagram.pieces.iter().all(is_possible));
                }
                Err(_) => refused += 1,
            }
        }
        assert!(taken > 10 && refused > 10_000, "{taken} taken, {refused} refused");
    }
}

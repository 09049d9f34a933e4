//! The framing, encoding and detection of one record of the log.
//!
//! ```text
//! u32 length of the payload | u32 CRC-32 | u64 sequence | u32 place in its batch | payload (postcard)
//! ```
//! All numbers are little-endian. The CRC covers the number of the segment, every other byte of the frame and the
//! payload, so damage to a length is detected, and a record in the file of another segment is invalid. The sequence
//! counts records over the life of the log. The place is the number of records that were written since the last sync:
//! *every record before `sequence - place` was synced before this one was written*. This distinguishes a torn tail from
//! damage: a record that can be read proves that all earlier batches had been on disk.
//! Not here: what a sequence of records means (`replay.rs`), which damage is tolerated (`writer.rs`).

use crate::raft::{Entry, HardState, Membership, Payload, SnapshotMeta};
use crate::types::{Index, Term};
use serde::{Deserialize, Serialize, Serializer};
use std::sync::Arc;

/// Length of the frame header before the payload, in bytes.
pub const FRAME_BYTES: usize = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// First record of each segment: the state after all older segments, so that these can be removed once a snapshot
    /// covers their entries.
    Header(Header),
    /// Term and vote.
    HardState(HardState),
    /// The log restarts after this received snapshot.
    Install(SnapshotMeta),
    /// One entry; it replaces the entry at its index and removes all entries after it.
    Entry(Entry),
    /// No content: only its place matters, which shows that everything before it is on disk. Written after a sync, and
    /// not synced itself.
    Seal,
    /// A planted bug's half of a hard state: the vote alone.
    #[cfg(any(test, feature = "planted-bugs"))]
    Vote(Option<crate::types::Identity>),
}

/// State of the log at the start of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Number of the segment; its file is named after it.
    pub segment: u64,
    /// Term and vote at the start of the segment.
    pub hard_state: HardState,
    /// Last index of the log at the start of the segment, and that entry's term.
    pub last: (Index, Term),
}

/// The encoded form of a record; borrows commands to avoid a copy.
#[derive(Serialize, Deserialize)]
enum Shape<'a> {
    Header(Header),
    HardState(HardState),
    Install(SnapshotMeta),
    Noop(Index, Term),
    Command(Index, Term, #[serde(borrow, serialize_with = "as_bytes")] &'a [u8]),
    Membership(Index, Term, Membership),
    Seal,
    #[cfg(any(test, feature = "planted-bugs"))]
    Vote(Option<crate::types::Identity>),
}

/// Serializes a slice as bytes: the same encoding as Serde's default for slices, but faster.
fn as_bytes<S: Serializer>(bytes: &&[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Position of a record in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub segment: u64,
    /// Its number since the log was created.
    pub sequence: u64,
    /// Number of records written between the last sync and this one.
    pub place: u32,
}

impl Position {
    /// Returns the sequence below which every record was on disk when this one was written.
    pub fn synced_below(&self) -> u64 {
        self.sequence.saturating_sub(u64::from(self.place))
    }
}

/// Appends a framed record to a buffer.
pub fn encode(record: &Record, at: Position, out: &mut Vec<u8>) {
    match record {
        Record::Header(header) => frame(&Shape::Header(*header), at, out),
        Record::HardState(state) => frame(&Shape::HardState(*state), at, out),
        Record::Install(meta) => frame(&Shape::Install(meta.clone()), at, out),
        Record::Entry(entry) => encode_entry(entry, at, out),
        Record::Seal => frame(&Shape::Seal, at, out),
        #[cfg(any(test, feature = "planted-bugs"))]
        Record::Vote(vote) => frame(&Shape::Vote(*vote), at, out),
    }
}

/// Appends a framed entry to a buffer, without a copy of its command in between.
pub fn encode_entry(entry: &Entry, at: Position, out: &mut Vec<u8>) {
    let (index, term) = (entry.index, entry.term);
    match &entry.payload {
        Payload::Noop => frame(&Shape::Noop(index, term), at, out),
        Payload::Command(bytes) => frame(&Shape::Command(index, term, bytes), at, out),
        Payload::Membership(membership) => {
            frame(&Shape::Membership(index, term, Membership::clone(membership)), at, out)
        }
    }
}

fn frame(shape: &Shape<'_>, at: Position, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    postcard::to_io(shape, &mut *out).expect("a vector takes every byte, and the shape has no unknown length");
    let length = u32::try_from(out.len() - start - FRAME_BYTES).expect("an entry is far smaller than 4 GiB");
    let head = &mut out[start..start + FRAME_BYTES];
    head[0..4].copy_from_slice(&length.to_le_bytes());
    head[8..16].copy_from_slice(&at.sequence.to_le_bytes());
    head[16..20].copy_from_slice(&at.place.to_le_bytes());
    let crc = checksum(at.segment, &out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Returns the CRC of a framed record: of all its bytes except the CRC, and of the number of its segment.
fn checksum(segment: u64, framed: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&segment.to_le_bytes());
    hasher.update(&framed[0..4]);
    hasher.update(&framed[8..]);
    hasher.finalize()
}

/// Result of reading at an offset of a segment.
#[derive(Debug)]
pub enum ReadResult<'a> {
    /// A complete record with its encoded payload, and its length in bytes with the frame header.
    Record { at: Position, payload: &'a [u8], bytes: usize },
    /// Zeros, or too few bytes for a record: preallocated space.
    Nothing,
    /// Not a record; the reason.
    Garbage(String),
}

/// Reads a record at the beginning of `bytes`, the remaining bytes of the segment.
pub fn read_at(segment: u64, bytes: &[u8]) -> ReadResult<'_> {
    let Some(head) = bytes.get(..FRAME_BYTES) else {
        return match bytes.iter().all(|b| *b == 0) {
            true => ReadResult::Nothing,
            false => ReadResult::Garbage("the file ends within a record's frame".to_string()),
        };
    };
    if head.iter().all(|b| *b == 0) {
        return ReadResult::Nothing;
    }
    let length = u32_at(head, 0) as usize;
    let (sequence, place) = (u64_at(head, 8), u32_at(head, 16));
    if length == 0 {
        return ReadResult::Garbage("a record of length 0".to_string());
    }
    let Some(framed) = bytes.get(..FRAME_BYTES + length) else {
        return ReadResult::Garbage(format!("a record of {length} bytes does not fit into the file"));
    };
    if checksum(segment, framed) != u32_at(head, 4) {
        return ReadResult::Garbage("the checksum does not match".to_string());
    }
    let at = Position { segment, sequence, place };
    ReadResult::Record { at, payload: &framed[FRAME_BYTES..], bytes: framed.len() }
}

/// Whether a record with a matching checksum and a sequence after `after` could begin here; cheap enough for every
/// byte.
pub fn may_begin(bytes: &[u8], after: u64) -> bool {
    let Some(head) = bytes.get(..FRAME_BYTES) else { return false };
    let (length, sequence, place) = (u32_at(head, 0) as usize, u64_at(head, 8), u32_at(head, 16));
    length > 0
        && length <= bytes.len() - FRAME_BYTES
        && sequence > after
        && sequence - after <= u64::from(u32::MAX)
        && u64::from(place) <= sequence
}

/// Decodes a payload whose checksum is correct.
///
/// # Errors
/// Returns the reason why it is invalid nevertheless.
pub fn decode(payload: &[u8]) -> Result<Record, String> {
    let (shape, rest) = postcard::take_from_bytes::<Shape<'_>>(payload).map_err(|e| format!("unreadable: {e}"))?;
    if !rest.is_empty() {
        return Err(format!("{} bytes too many in a record", rest.len()));
    }
    let entry = |index, term, payload| Record::Entry(Entry { index, term, payload });
    Ok(match shape {
        Shape::Header(header) => Record::Header(header),
        Shape::HardState(state) => Record::HardState(state),
        Shape::Install(meta) => Record::Install(meta),
        Shape::Noop(index, term) => entry(index, term, Payload::Noop),
        Shape::Command(index, term, bytes) => entry(index, term, Payload::Command(Arc::from(bytes))),
        Shape::Membership(index, term, m) => entry(index, term, Payload::Membership(Arc::new(m))),
        Shape::Seal => Record::Seal,
        #[cfg(any(test, feature = "planted-bugs"))]
        Shape::Vote(vote) => Record::Vote(vote),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use crate::store::wal::record::*;

    const AT: Position = Position { segment: 3, sequence: 41, place: 2 };

    fn records() -> Vec<Record> {
        let entry = |payload| Record::Entry(Entry { index: Index(300), term: Term(7), payload });
        vec![
            Record::Header(Header { segment: 3, hard_state: HardState::default(), last: (Index(299), Term(6)) }),
            Record::HardState(HardState { term: Term(9), vote: None }),
            Record::Install(SnapshotMeta { index: Index(5), term: Term(2), membership: Membership::default() }),
            entry(Payload::Noop),
            entry(Payload::Command(Arc::from(&b"set a 1"[..]))),
            entry(Payload::Command(Arc::from(&b""[..]))),
            entry(Payload::Membership(Arc::default())),
            Record::Seal,
        ]
    }

    #[test]
    fn every_kind_comes_back() {
        for record in records() {
            let mut bytes = Vec::new();
            encode(&record, AT, &mut bytes);
            let ReadResult::Record { at, payload, bytes: taken } = read_at(3, &bytes) else {
                panic!("{record:?} not found")
            };
            assert_eq!((at, taken), (AT, bytes.len()));
            assert_eq!(decode(payload), Ok(record));
        }
    }

    #[test]
    fn no_flipped_bit_and_no_other_segment_passes() {
        for record in records() {
            let mut bytes = Vec::new();
            encode(&record, AT, &mut bytes);
            assert!(matches!(read_at(4, &bytes), ReadResult::Garbage(_)), "another segment's record was taken");
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(read_at(3, &bytes), ReadResult::Garbage(_)), "bit {bit} of {record:?} flipped unseen");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn preallocated_zeros_are_not_records() {
        assert!(matches!(read_at(0, &[0; 100]), ReadResult::Nothing));
        assert!(matches!(read_at(0, &[0; 5]), ReadResult::Nothing));
        assert!(!may_begin(&[0; 100], 0));
    }
}

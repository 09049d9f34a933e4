//! One segment file: its name, its first bytes, and reading its records.
//!
//! A segment begins with eight bytes that name the format and the segment's number, then records follow, the first of
//! which is a header. After the last record there are zeros, reserved so that a sync writes no metadata. Reading stops
//! at the first bytes that are not a record; [`Scan::proof`] then determines whether a later record proves that these
//! bytes had been synced. Not here: which stop is tolerated (`writer.rs`).

use super::record::{self, Header, Position, ReadResult, Record};
use crate::store::error::StoreError;
use crate::types::NodeId;
use std::path::Path;

/// First bytes of every segment; the last one is the version of the format.
pub const MAGIC: &[u8; 8] = b"PHLXWAL1";
/// Bytes before the first record: the magic and the segment's number.
pub const PREAMBLE_BYTES: usize = 16;

/// File name of a segment.
pub fn file_name(number: u64) -> String {
    format!("{number:016}.wal")
}

/// Number of the segment with this file name; `None` for any other file.
pub fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let is_ours = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit());
    if is_ours { digits.parse().ok() } else { None }
}

/// First bytes of segment `number`.
pub fn preamble(number: u64) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The bytes of one segment, with path and number.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    pub path: &'a Path,
    /// Number, from its file name.
    pub number: u64,
    pub bytes: &'a [u8],
    /// Node that owns the data, for error messages.
    pub node: Option<NodeId>,
}

impl Source<'_> {
    /// Returns a damage error with this file's path.
    pub fn damaged(&self, offset: usize, why: impl Into<String>) -> StoreError {
        StoreError::Damaged { file: self.path.to_path_buf(), offset: offset as u64, why: why.into(), node: self.node }
    }
}

/// How far a segment is readable.
#[derive(Debug)]
pub struct Scan {
    /// Its first record.
    pub header: Header,
    /// Sequence of the header.
    pub first_sequence: u64,
    /// Sequence that the next record would have.
    pub next_sequence: u64,
    pub header_end: usize,
    /// Offset after the last record.
    pub end: usize,
    /// Offset of the first record that no later one proves to have been synced; `end` if there is none.
    pub unproven: usize,
    /// Offset after the last byte that is not zero; more than `end` if something follows the last record.
    pub filled: usize,
    /// Why reading stopped, if not at zeros.
    pub stopped: Option<String>,
}

/// Reads a segment's records in order and passes each to `each` with its offset. An `Err` of `each` is the reason why a
/// complete record is invalid: that is damage, never a torn tail.
pub fn scan(
    source: Source<'_>,
    mut each: impl FnMut(usize, Position, Record) -> Result<(), String>,
) -> Result<Scan, StoreError> {
    let bytes = source.bytes;
    check_preamble(source)?;
    let mut scan = Scan {
        header: Header { segment: source.number, hard_state: Default::default(), last: Default::default() },
        first_sequence: 0,
        next_sequence: 0,
        header_end: PREAMBLE_BYTES,
        end: PREAMBLE_BYTES,
        unproven: 0,
        filled: bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1),
        stopped: None,
    };
    let mut offsets = Vec::new();
    let mut synced_below = 0;
    loop {
        let offset = scan.end;
        let (at, payload, length) = match record::read_at(source.number, &bytes[offset..]) {
            ReadResult::Record { at, payload, bytes } => (at, payload, bytes),
            ReadResult::Nothing => break,
            ReadResult::Garbage(why) => {
                scan.stopped = Some(why);
                break;
            }
        };
        let record = record::decode(payload).map_err(|why| source.damaged(offset, why))?;
        if offsets.is_empty() {
            match &record {
                Record::Header(header) if header.segment == source.number => scan.header = *header,
                _ => return Err(source.damaged(offset, "the first record is not this segment's header")),
            }
            (scan.first_sequence, scan.next_sequence) = (at.sequence, at.sequence);
            scan.header_end = offset + length;
        }
        if at.sequence != scan.next_sequence {
            let why = format!("record {} stands where record {} belongs", at.sequence, scan.next_sequence);
            return Err(source.damaged(offset, why));
        }
        each(offset, at, record).map_err(|why| source.damaged(offset, why))?;
        offsets.push(offset);
        synced_below = synced_below.max(at.synced_below());
        scan.next_sequence += 1;
        scan.end = offset + length;
    }
    if offsets.is_empty() {
        let why = scan.stopped.unwrap_or_else(|| "the header is missing".to_string());
        return Err(source.damaged(PREAMBLE_BYTES, format!("no header: {why}")));
    }
    // The header was synced before the segment got its name, so record number 0 of the segment is never unproven.
    let proven = synced_below.saturating_sub(scan.first_sequence).max(1) as usize;
    scan.unproven = offsets.get(proven).copied().unwrap_or(scan.end);
    Ok(scan)
}

/// Returns the sequence of a segment's header.
pub fn first_sequence(source: Source<'_>) -> Result<u64, StoreError> {
    check_preamble(source)?;
    match record::read_at(source.number, &source.bytes[PREAMBLE_BYTES..]) {
        ReadResult::Record { at, .. } => Ok(at.sequence),
        ReadResult::Nothing => Err(source.damaged(PREAMBLE_BYTES, "no header: it is missing")),
        ReadResult::Garbage(why) => Err(source.damaged(PREAMBLE_BYTES, format!("no header: {why}"))),
    }
}

fn check_preamble(source: Source<'_>) -> Result<(), StoreError> {
    let bytes = source.bytes;
    if bytes.len() < PREAMBLE_BYTES {
        return Err(source.damaged(0, format!("only {} bytes long", bytes.len())));
    }
    if bytes[..7] == MAGIC[..7] && bytes[7] != MAGIC[7] && bytes[7].is_ascii_digit() {
        return Err(StoreError::Version {
            file: source.path.to_path_buf(),
            found: String::from_utf8_lossy(&bytes[..8]).into_owned(),
            expected: String::from_utf8_lossy(MAGIC).into_owned(),
        });
    }
    match bytes[..PREAMBLE_BYTES] == preamble(source.number) {
        true => Ok(()),
        false => Err(source.damaged(0, "it does not begin like a log segment of this number")),
    }
}

/// Searches after the offset where reading stopped for a record that proves that the bytes there had been synced;
/// returns its offset and sequence.
pub fn proof(source: Source<'_>, scan: &Scan) -> Option<(usize, u64)> {
    let missing = scan.next_sequence;
    (scan.end..scan.filled).find_map(|offset| {
        let rest = &source.bytes[offset..];
        if !record::may_begin(rest, missing) {
            return None;
        }
        match record::read_at(source.number, rest) {
            ReadResult::Record { at, .. } if at.synced_below() > missing => Some((offset, at.sequence)),
            _ => None,
        }
    })
}

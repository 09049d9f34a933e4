//! Fields of the header of a SQLite database file.

/// The first 16 bytes of a database file.
pub const MAGIC: &[u8] = b"SQLite format 3\0";
/// Size of the smallest database file in bytes: one page.
pub const BYTES_MIN: u64 = 512;
/// Offsets of the file format versions for writing and for reading: 1 is a rollback journal, 2 is a WAL.
const HAS_LOG: std::ops::Range<u64> = 18..20;

/// Sets the format versions to 1, because the file is transferred without its WAL. `at`: offset of `bytes` in the file.
pub fn without_log(at: u64, bytes: &mut [u8]) {
    let end = at + bytes.len() as u64;
    for place in HAS_LOG.filter(|place| (at..end).contains(place)) {
        bytes[(place - at) as usize] = 1;
    }
}

//! What is known of the first bytes of a SQLite file.

/// How a database file begins.
pub const MAGIC: &[u8] = b"SQLite format 3\0";
/// No database file is shorter.
pub const BYTES_MIN: u64 = 512;
/// Where a file says that it has a log beside it.
const HAS_LOG: std::ops::Range<u64> = 18..20;

/// Takes away the mark that a file has a log beside it: what arrived is the file alone. `at`: where these bytes lie in it.
pub fn without_log(at: u64, bytes: &mut [u8]) {
    let end = at + bytes.len() as u64;
    for place in HAS_LOG.filter(|place| (at..end).contains(place)) {
        bytes[(place - at) as usize] = 1;
    }
}

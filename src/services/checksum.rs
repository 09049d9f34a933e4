//! A checksum of a byte stream, computed with pauses in between so that other threads are not delayed.
//!
//! Not here: which bytes are digested (`digests.rs`).

use std::io::{self, Write};

/// Number of bytes that are hashed between two calls of `rest`.
const PIECE_BYTES: u64 = 256 << 10;

/// Returns the digest of the bytes that `write` writes: CRC-32 in the low half, length in the high half. `rest` is
/// called after each piece of work.
///
/// # Errors
/// Returns the error of `write`.
pub fn digest_of(rest: &mut dyn FnMut(), write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<u64> {
    let mut hashing = Hashing { crc: crc32fast::Hasher::new(), bytes: 0, rested_at: 0, rest };
    write(&mut hashing)?;
    Ok(u64::from(hashing.crc.finalize()) | hashing.bytes << 32)
}

/// A writer that computes checksum and length and discards the bytes.
struct Hashing<'a> {
    crc: crc32fast::Hasher,
    bytes: u64,
    /// Value of `bytes` at the last call of `rest`.
    rested_at: u64,
    rest: &'a mut dyn FnMut(),
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.bytes - self.rested_at >= PIECE_BYTES {
            self.rested_at = self.bytes;
            (self.rest)();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

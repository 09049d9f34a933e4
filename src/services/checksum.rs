//! A checksum of whatever is written, with pauses in between.
//!
//! Not here: what is written, and which node compares it (`digests.rs`).

use std::io::{self, Write};

/// Bytes hashed between two rests.
const PIECE_BYTES: u64 = 256 << 10;

/// The digest of what `write` writes; `rest` is called after each piece of work.
pub fn digest_of(rest: &mut dyn FnMut(), write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<u64> {
    let mut hashing = Hashing { crc: crc32fast::Hasher::new(), bytes: 0, rested_at: 0, rest };
    write(&mut hashing)?;
    Ok(u64::from(hashing.crc.finalize()) | hashing.bytes << 32)
}

/// A writer that keeps a checksum and a count and nothing else.
struct Hashing<'a> {
    crc: crc32fast::Hasher,
    bytes: u64,
    /// How many bytes there were at the last rest.
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

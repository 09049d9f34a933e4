//! The framing of a combined snapshot: one part for each service, as a stream of chunks.
//!
//! The writer does not need to know a part's length beforehand, so it keeps no part in memory. Format: for each part
//! its number (one byte), then chunks (`u32` length, bytes), then the length 0; after the last part the number 0. So a
//! snapshot that was truncated anywhere is an error. This file also has the encodings of the numbers and records of
//! which parts consist.
//! Not here: the content of a part (each service), the header before the parts (`registry.rs`), the file (`store/`).

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};

/// Marks the end of the snapshot, in place of a part's number.
const END: u8 = 0;
/// Maximum length of a chunk.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Writes one part, whose content `fill` writes.
///
/// # Errors
/// Returns the error of `out` or `fill`.
pub fn write(out: &mut dyn Write, number: u8, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    assert!(number != END, "a part cannot have the number of the end");
    out.write_all(&[number])?;
    fill(&mut Chunks(out))?;
    out.write_all(&0u32.to_le_bytes())
}

/// Writes the end of the snapshot.
pub fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[END])
}

/// Reads all parts; `take` is called for each with its number and must read all of it.
///
/// # Errors
/// Returns the error of `from` or `take`, or `InvalidData` if a part was not read completely or bytes follow the end.
pub fn read(from: &mut dyn Read, mut take: impl FnMut(u8, &mut dyn Read) -> io::Result<()>) -> io::Result<()> {
    loop {
        let mut number = [0];
        from.read_exact(&mut number)?;
        if number == [END] {
            break;
        }
        let mut part = Part { from: &mut *from, left: 0, is_over: false };
        take(number[0], &mut part)?;
        if part.read(&mut [0])? > 0 {
            return Err(bad("a part holds more than its service reads"));
        }
    }
    if from.read(&mut [0])? > 0 { Err(bad("bytes after the end of a snapshot")) } else { Ok(()) }
}

/// Writes numbers as little-endian `u64`.
pub fn put_numbers<const N: usize>(out: &mut impl Write, numbers: [u64; N]) -> io::Result<()> {
    numbers.iter().try_for_each(|number| out.write_all(&number.to_le_bytes()))
}

/// Reads numbers that [`put_numbers`] wrote.
pub fn take_numbers<const N: usize>(from: &mut impl Read) -> io::Result<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        from.read_exact(&mut bytes)?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(numbers)
}

/// Writes a record in postcard format with its length (`u64`) in front. `buffer` is reused between calls.
pub fn put_record(out: &mut impl Write, buffer: &mut Vec<u8>, record: &impl Serialize) -> io::Result<()> {
    buffer.clear();
    *buffer = postcard::to_extend(record, std::mem::take(buffer)).map_err(io::Error::other)?;
    put_numbers(out, [buffer.len() as u64])?;
    out.write_all(buffer)
}

/// Reads a record that [`put_record`] wrote. Allocates for the bytes that are present, not for the declared length.
pub fn take_record<T: DeserializeOwned>(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<T> {
    let [len] = take_numbers(from)?;
    buffer.clear();
    if from.take(len).read_to_end(buffer)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(buffer).map_err(io::Error::other)
}

/// Returns an error of kind `InvalidData`.
pub fn bad(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

struct Chunks<'a>(&'a mut dyn Write);

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK_BYTES_MAX)];
        if !chunk.is_empty() {
            self.0.write_all(&(chunk.len() as u32).to_le_bytes())?;
            self.0.write_all(chunk)?;
        }
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

struct Part<'a> {
    from: &'a mut dyn Read,
    left: usize,
    is_over: bool,
}

impl Read for Part<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.is_over {
            let mut len = [0; 4];
            self.from.read_exact(&mut len)?;
            self.left = u32::from_le_bytes(len) as usize;
            self.is_over = self.left == 0;
        }
        let wanted = into.len().min(self.left);
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.from.read(&mut into[..wanted])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got;
        Ok(got)
    }
}

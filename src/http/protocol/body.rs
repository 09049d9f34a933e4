//! Request bodies: one that is held as a whole, and one that is taken in pieces as it arrives. Both are in the memory
//! budget.
//!
//! Not here: reading from the socket (`conn.rs`), the chunked coding (`chunked.rs`).

use super::chunked::Chunked;
use super::head::{Framing, RequestError, too_large};
use crate::node::Reservation;
use crate::node::shared::memory;
use crate::outcome::MEMORY_FULL;
use crate::outcome::codes::BUSY;
use std::ops::Deref;

/// Why a body did not arrive.
#[derive(Debug)]
pub enum BodyError {
    /// The client has disconnected.
    Gone,
    /// Answer, then close.
    Fault(RequestError),
}

/// A body, and its reservation in the memory budget.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    held: Reservation,
}

/// Memory that one JSON value takes when it is parsed: its place in a list with twice the capacity, and an allocation.
const JSON_VALUE_BYTES: usize = 96;

impl Body {
    /// Reserves memory for parsing the body as JSON: `[[],[]` and the like have few bytes and many values.
    ///
    /// # Errors
    /// The memory budget has no room for it.
    pub fn hold_json(&mut self) -> Result<(), memory::Full> {
        self.held.resize(self.bytes.len() + json_values(&self.bytes) * JSON_VALUE_BYTES)
    }
}

/// An upper bound of the values in a JSON text: counts what separates or begins values outside of strings.
fn json_values(text: &[u8]) -> usize {
    let (mut count, mut is_text, mut is_escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b',' | b'[' | b'{' if !is_text => count += 1,
            _ => {}
        }
    }
    count
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is arriving.
#[derive(Debug)]
pub struct Arriving {
    framing: Framing,
    chunked: Chunked,
    /// Bytes that have arrived and were not taken.
    bytes: Vec<u8>,
    /// Bytes that were taken.
    taken: usize,
    bytes_max: usize,
    is_done: bool,
    held: Reservation,
}

const FULL: BodyError = BodyError::Fault(RequestError { status: BUSY.status, why: MEMORY_FULL });

impl Arriving {
    /// A body of which nothing has arrived.
    pub(super) fn new(framing: Framing, bytes_max: usize, held: Reservation) -> Result<Arriving, BodyError> {
        if let Framing::Length(length) = framing
            && length > bytes_max
        {
            return Err(BodyError::Fault(RequestError { status: 413, why: too_large(bytes_max) }));
        }
        let is_done = framing == Framing::Empty;
        Ok(Arriving { framing, chunked: Chunked::default(), bytes: Vec::new(), taken: 0, bytes_max, is_done, held })
    }

    pub(super) fn into_body(self) -> Body {
        Body { bytes: self.bytes, held: self.held }
    }

    /// Consumes input that has arrived; returns how many bytes.
    pub(super) fn take(&mut self, input: &[u8], until: usize) -> Result<usize, BodyError> {
        match self.framing {
            Framing::Empty => Ok(0),
            Framing::Length(length) => {
                let missing = length - self.taken - self.bytes.len();
                let used = input.len().min(missing).min(until - self.bytes.len());
                self.bytes.extend_from_slice(&input[..used]);
                self.is_done = used == missing;
                Ok(used)
            }
            Framing::Chunked => {
                self.held.resize(self.held.bytes().max(self.bytes.len() + input.len())).map_err(|_| FULL)?;
                let room = self.bytes_max.saturating_sub(self.taken);
                let used = self.chunked.feed(input, &mut self.bytes, room).map_err(BodyError::Fault)?;
                self.is_done = self.chunked.is_done();
                Ok(used)
            }
        }
    }

    /// Reserves memory for pieces of so many bytes.
    pub fn hold(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.held.resize(bytes).map_err(|_| FULL)
    }

    /// The bytes that are available.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the whole body has arrived.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Removes and returns the first available bytes, at most so many.
    pub fn take_piece(&mut self, bytes: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(self.bytes.len().min(bytes));
        let piece = std::mem::replace(&mut self.bytes, rest);
        self.taken += piece.len();
        piece
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::body::*;
    use crate::node::MemoryBudget;

    #[test]
    fn a_body_of_json_costs_what_its_values_do() {
        for (text, values) in [
            (r#"{"a":"b"}"#, 1),
            (r#"{"a":[1,2],"b":{}}"#, 5),
            (r#"["[,{\",[", "\\", 1]"#, 3),
            ("[[],[]]", 4),
            ("no JSON", 0),
        ] {
            assert_eq!(json_values(text.as_bytes()), values, "{text}");
        }
        let budget = MemoryBudget::new(16 << 20);
        let mut body = Body { bytes: b"[],".repeat(100_000), held: budget.reservation() };
        assert_eq!(body.hold_json(), Err(memory::Full));
        body.bytes.truncate(3000);
        body.hold_json().unwrap();
        assert_eq!(budget.used(), 3000 + 2000 * JSON_VALUE_BYTES);
    }
}

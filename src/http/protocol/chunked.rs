//! The decoder of chunked bodies: pure, and as strict as `parse.rs` is with heads.
//!
//! Invariant: nothing is allocated from a declared length.
//! Not here: reading (`conn.rs`), how large a body may be (`http/router.rs`).

use super::head::{RequestError, fault, too_large};

/// Longest chunk-size line with its extensions, which no legitimate client needs.
const CHUNK_LINE_BYTES_MAX: usize = 128;
/// Longest trailer section; it is read and dropped.
const TRAILER_BYTES_MAX: usize = 4 << 10;

/// Decoder of one chunked body, fed with whatever pieces arrive.
#[derive(Debug, Default)]
pub struct Chunked {
    state: ChunkState,
    /// Bytes of the line or trailer section read so far.
    line_bytes: usize,
    size: usize,
    has_digit: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

impl Chunked {
    /// The whole body has been read.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Consumes bytes from `input` and appends body bytes to `body` (at most `body_bytes_max` in all). Returns how many
    /// bytes of `input` belong to this body; the rest belongs to the next request.
    pub fn feed(&mut self, input: &[u8], body: &mut Vec<u8>, body_bytes_max: usize) -> Result<usize, RequestError> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if self.state == ChunkState::Data {
                let length = self.size.min(input.len() - at);
                body.extend_from_slice(&input[at..at + length]);
                at += length;
                self.size -= length;
                if self.size == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            self.on_byte(input[at])?;
            at += 1;
            if self.state == ChunkState::Data && self.size > body_bytes_max.saturating_sub(body.len()) {
                return fault(413, too_large(body_bytes_max));
            }
        }
        Ok(at)
    }

    fn on_byte(&mut self, byte: u8) -> Result<(), RequestError> {
        use ChunkState::*;
        self.line_bytes += 1;
        self.state = match (self.state, byte) {
            (Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).expect("a hexadecimal digit") as usize;
                let Some(size) = self.size.checked_mul(16).and_then(|size| size.checked_add(digit)) else {
                    return fault(400, "chunk size overflows");
                };
                self.size = size;
                self.has_digit = true;
                Size
            }
            (Size, b';') if self.has_digit => Extension,
            (Size | Extension, b'\r') if self.has_digit => SizeLf,
            (Extension, b'\t' | 0x20..=0x7e | 0x80..) => Extension,
            (SizeLf, b'\n') => {
                self.line_bytes = 0;
                self.has_digit = false;
                if self.size == 0 { TrailerStart } else { Data }
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => {
                self.line_bytes = 0;
                Size
            }
            (TrailerStart, b'\r') => EndLf,
            (TrailerStart | Trailer, b'\t' | 0x20..=0x7e | 0x80..) => Trailer,
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => TrailerStart,
            (EndLf, b'\n') => Done,
            _ => return fault(400, "malformed chunked body"),
        };
        match self.state {
            Size | Extension if self.line_bytes > CHUNK_LINE_BYTES_MAX => fault(400, "chunk size line too long"),
            Trailer if self.line_bytes > TRAILER_BYTES_MAX => fault(431, "trailers larger than 4 KiB"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::chunked::*;

    fn chunks(text: &str) -> Result<(Vec<u8>, usize), RequestError> {
        let (mut decoder, mut body) = (Chunked::default(), Vec::new());
        let used = decoder.feed(text.as_bytes(), &mut body, 1000)?;
        assert!(decoder.is_done(), "{text:?} did not end");
        Ok((body, used))
    }

    #[test]
    fn decodes_chunks_at_every_cut() {
        let text = "4\r\nWiki\r\n00005;a=b\r\npedia\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(chunks(text).unwrap(), (b"Wikipedia".to_vec(), text.len() - 3));
        for cut in 0..text.len() - 3 {
            let (mut decoder, mut body) = (Chunked::default(), Vec::new());
            assert_eq!(decoder.feed(&text.as_bytes()[..cut], &mut body, 9).unwrap(), cut);
            assert!(!decoder.is_done());
            decoder.feed(&text.as_bytes()[cut..], &mut body, 9).unwrap();
            assert!(decoder.is_done() && body == b"Wikipedia", "cut at {cut}");
        }
    }

    #[test]
    fn refuses_odd_chunks() {
        for text in [
            "4\nWiki\r\n0\r\n\r\n",
            "4\r\nWiki\n0\r\n\r\n",
            "4\r\nWikis\r\n0\r\n\r\n",
            "0x4\r\nWiki\r\n0\r\n\r\n",
            "+4\r\nWiki\r\n0\r\n\r\n",
            " 4\r\nWiki\r\n0\r\n\r\n",
            "4 \r\nWiki\r\n0\r\n\r\n",
            "\r\nWiki\r\n0\r\n\r\n",
            ";a\r\n\r\n",
            "4;a\nb\r\nWiki\r\n0\r\n\r\n",
            "10000000000000000\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\n",
        ] {
            assert_eq!(chunks(text).expect_err(text).status, 400, "{text:?}");
        }
        assert_eq!(chunks(&format!("1;{}\r\n", "a".repeat(200))).unwrap_err().status, 400);
        assert_eq!(chunks(&format!("{}1\r\n", "0".repeat(200))).unwrap_err().status, 400);
        assert_eq!(chunks(&format!("0\r\n{}", "A: b\r\n".repeat(2000))).unwrap_err().status, 431);
        assert_eq!(chunks("3e9\r\n").unwrap_err().status, 413);
        assert_eq!(chunks("ffffffffffffffff\r\n").unwrap_err().status, 413);
    }
}

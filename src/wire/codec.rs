//! Frames on a byte stream: length, checksum, postcard.
//!
//! Whatever arrives is from outside: a bad length, checksum or encoding is an error that costs the connection, never a
//! panic, and nothing is allocated from a declared length beyond the limit.
//! Not here: what a frame means (`node/`), the first words of a connection (`handshake.rs`).

use super::Frame;
use crate::limits::FRAME_BYTES_MAX;
use std::io::{self, Read, Write};

/// Why a conversation on the peer port ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed, closed or was too slow.
    #[error("{}", said(.0))]
    Io(#[from] io::Error),
    /// A frame declares more bytes than allowed here.
    #[error("frame of {len} bytes, at most {max} allowed")]
    TooLarge {
        /// Declared length.
        len: usize,
        /// Limit at this point of the conversation.
        max: usize,
    },
    /// The checksum does not match.
    #[error("frame with a wrong checksum")]
    Checksum,
    /// The bytes are not a frame of this protocol version.
    #[error("frame that cannot be decoded: {0}")]
    Decode(String),
    /// A frame that has no place here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// The other side declines, in its own words.
    #[error("rejected: {0}")]
    Rejected(String),
}

/// In words: a socket whose time is up says "would block", which the system calls a resource that is unavailable.
fn said(e: &io::Error) -> String {
    if e.kind() == io::ErrorKind::WouldBlock { "timed out".into() } else { e.to_string() }
}

/// Length and checksum before each frame.
const HEADER_BYTES: usize = 8;

/// The bytes of one frame, header included.
pub fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_onto(&mut bytes, frame);
    bytes
}

/// Adds the bytes of one frame, header included, to those of the frames before it.
pub fn encode_onto(bytes: &mut Vec<u8>, frame: &Frame) {
    let header = bytes.len();
    bytes.extend([0u8; HEADER_BYTES]);
    *bytes = postcard::to_extend(frame, std::mem::take(bytes)).expect("encoding into memory cannot fail");
    let body = header + HEADER_BYTES;
    let len = bytes.len() - body;
    assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes was built, limit {FRAME_BYTES_MAX}");
    let sum = crc32fast::hash(&bytes[body..]);
    bytes[header..header + 4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[header + 4..body].copy_from_slice(&sum.to_le_bytes());
}

/// Writes one frame in one call.
pub fn write_frame(to: &mut dyn Write, frame: &Frame) -> Result<(), WireError> {
    to.write_all(&encode(frame))?;
    Ok(())
}

/// What comes before each frame.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bytes of the frame behind it.
    pub len: usize,
    sum: u32,
}

/// Reads one frame of at most `max` bytes.
pub fn read_frame(from: &mut dyn Read, max: usize) -> Result<Frame, WireError> {
    let header = read_header(from, max)?;
    read_body(from, header)
}

/// Reads what comes before a frame of at most `max` bytes.
pub fn read_header(from: &mut dyn Read, max: usize) -> Result<Header, WireError> {
    let mut header = [0u8; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let len = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let sum = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if len > max {
        return Err(WireError::TooLarge { len, max });
    }
    Ok(Header { len, sum })
}

/// Reads the frame behind its header.
pub fn read_body(from: &mut dyn Read, Header { len, sum }: Header) -> Result<Frame, WireError> {
    // Grows with what really arrives, so a lying header costs nothing.
    let mut bytes = Vec::with_capacity(len.min(64 << 10));
    from.take(len as u64).read_to_end(&mut bytes)?;
    if bytes.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if crc32fast::hash(&bytes) != sum {
        return Err(WireError::Checksum);
    }
    let (frame, rest) = postcard::take_from_bytes(&bytes).map_err(|e| WireError::Decode(e.to_string()))?;
    if !rest.is_empty() {
        return Err(WireError::Decode(format!("{} bytes left over", rest.len())));
    }
    Ok(frame)
}

/// Drops the frame behind its header as it arrives: it costs no memory.
pub fn skip_body(from: &mut dyn Read, header: Header) -> Result<(), WireError> {
    let skipped = io::copy(&mut from.take(header.len as u64), &mut io::sink())?;
    if skipped < header.len as u64 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Identity, NodeId};
    use uuid::Uuid;

    fn sample() -> Frame {
        Frame::Welcome {
            who: Identity { id: NodeId(3), uuid: Uuid::from_u128(7) },
            cluster: Some(Uuid::from_u128(9)),
            remembered: Default::default(),
        }
    }

    #[test]
    fn a_frame_survives_the_trip() {
        let bytes = encode(&sample());
        assert_eq!(read_frame(&mut bytes.as_slice(), 1 << 10).unwrap(), sample());
    }

    #[test]
    fn a_frame_may_be_skipped() {
        let bytes = [encode(&sample()), encode(&sample())].concat();
        let mut from = bytes.as_slice();
        let header = read_header(&mut from, 1 << 10).unwrap();
        skip_body(&mut from, header).unwrap();
        assert_eq!(read_frame(&mut from, 1 << 10).unwrap(), sample());
        assert!(skip_body(&mut &bytes[..3], header).is_err());
    }

    #[test]
    fn a_socket_whose_time_is_up_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut silent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        silent.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        assert_eq!(read_frame(&mut silent, 1 << 10).unwrap_err().to_string(), "timed out");
        let refused = WireError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(refused.to_string(), "connection refused");
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = encode(&sample());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frame(&mut bad.as_slice(), 1 << 10).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(read_frame(&mut &bytes[..end], 1 << 10).is_err(), "cut at {end} went unnoticed");
        }
    }

    #[test]
    fn a_declared_length_beyond_the_limit_is_refused_before_reading() {
        let mut bytes = vec![0xff; 8];
        bytes.extend([0; 100]);
        assert!(matches!(read_frame(&mut bytes.as_slice(), 1 << 10), Err(WireError::TooLarge { .. })));
    }
}

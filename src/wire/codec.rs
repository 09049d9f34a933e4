//! Frames on a byte stream: length, checksum, postcard; and a tag where the nodes share a secret (`authentication.rs`).
//!
//! All input is from outside: a bad length, checksum, tag or encoding is an error that costs the connection,
//! never a panic, and nothing is allocated from a declared length beyond the limit. Frames to send may contain data
//! from outside: one that would be too large is an error, too.
//! Not here: what a frame means (`node/`), the handshake (`handshake.rs`).

use super::authentication::FrameTags;
use super::{Frame, Mismatch};
use crate::limits::FRAME_BYTES_MAX;
use crate::types::Identity;
use std::io::{self, Read, Write};
use uuid::Uuid;

/// Why a conversation on the peer port ended.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket failed, closed or was too slow.
    #[error("{}", describe_io_error(.0))]
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
    /// The tag does not match: it is not what the other side sent next.
    #[error("frame that was changed on the way")]
    Tag,
    /// The bytes are not a frame of this protocol version.
    #[error("frame that cannot be decoded: {0}")]
    Decode(String),
    /// A frame that has no place here.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// The other side declines; holds its reason.
    #[error("rejected: {0}")]
    Rejected(String),
    /// As [`Self::Rejected`], from a process that has not proved that it knows this node's secret: it may be any
    /// process.
    #[error("rejected, unproved: {0}")]
    Unproved(String),
    /// The two nodes cannot be in one cluster. Nothing of it is proved.
    #[error("{what}")]
    Differs {
        what: Mismatch,
        /// The cluster that the other node's data belongs to, as it says.
        cluster: Option<Uuid>,
    },
    /// Another node answers than the one that was called. If there is a secret, that node has proved that it knows it.
    #[error("rejected: {who:?} answers")]
    Other { who: Identity, cluster: Option<Uuid> },
}

/// Text of an error: for a timeout of a socket, the system's text is "resource temporarily unavailable".
fn describe_io_error(e: &io::Error) -> String {
    if e.kind() == io::ErrorKind::WouldBlock { "timed out".into() } else { e.to_string() }
}

/// Length and checksum before each frame.
const HEADER_BYTES: usize = 8;

/// The bytes of one frame without a tag, header included.
///
/// # Errors
/// As [`encode_onto`].
pub fn encode(frame: &Frame) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    encode_onto(&mut bytes, frame, &mut FrameTags::default())?;
    Ok(bytes)
}

/// Adds the bytes of one frame, header and tag included, to those of the frames before it.
///
/// # Errors
/// When the frame is larger than any receiver takes: nothing is added then.
pub fn encode_onto(bytes: &mut Vec<u8>, frame: &Frame, tags: &mut FrameTags) -> Result<(), WireError> {
    let header = bytes.len();
    bytes.extend([0u8; HEADER_BYTES]);
    *bytes = postcard::to_extend(frame, std::mem::take(bytes)).expect("encoding into memory cannot fail");
    let body = header + HEADER_BYTES;
    let len = bytes.len() - body;
    if len > FRAME_BYTES_MAX {
        bytes.truncate(header);
        return Err(WireError::TooLarge { len, max: FRAME_BYTES_MAX });
    }
    let sum = crc32fast::hash(&bytes[body..]);
    bytes[header..header + 4].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[header + 4..body].copy_from_slice(&sum.to_le_bytes());
    if let Some(tag) = tags.tag(&bytes[body..]) {
        bytes.extend(tag);
    }
    Ok(())
}

/// A frame within another one, which has the checksum and the tag.
///
/// # Errors
/// When the frame is larger than any receiver takes.
pub fn encode_body(frame: &Frame) -> Result<Vec<u8>, WireError> {
    let bytes = postcard::to_stdvec(frame).expect("encoding into memory cannot fail");
    match bytes.len() {
        len if len > FRAME_BYTES_MAX => Err(WireError::TooLarge { len, max: FRAME_BYTES_MAX }),
        _ => Ok(bytes),
    }
}

/// The frame within another one, or after its header.
///
/// # Errors
/// When the bytes are not exactly one frame.
pub fn decode_body(bytes: &[u8]) -> Result<Frame, WireError> {
    let (frame, rest) = postcard::take_from_bytes(bytes).map_err(|e| WireError::Decode(e.to_string()))?;
    if !rest.is_empty() {
        return Err(WireError::Decode(format!("{} bytes left over", rest.len())));
    }
    Ok(frame)
}

/// Writes one frame without a tag in one call: the handshake's, before there is a key.
pub fn write_frame(to: &mut dyn Write, frame: &Frame) -> Result<(), WireError> {
    write_tagged(to, frame, &mut FrameTags::default())
}

/// Writes one frame in one call.
pub fn write_tagged(to: &mut dyn Write, frame: &Frame, tags: &mut FrameTags) -> Result<(), WireError> {
    let mut bytes = Vec::new();
    encode_onto(&mut bytes, frame, tags)?;
    to.write_all(&bytes)?;
    Ok(())
}

/// What comes before each frame.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Bytes of the frame after it.
    pub len: usize,
    sum: u32,
}

/// Reads one frame of at most `max` bytes that has no tag: the handshake's, before there is a key.
pub fn read_frame(from: &mut dyn Read, max: usize) -> Result<Frame, WireError> {
    read_tagged(from, max, &mut FrameTags::default())
}

/// Reads one frame of at most `max` bytes.
pub fn read_tagged(from: &mut dyn Read, max: usize, tags: &mut FrameTags) -> Result<Frame, WireError> {
    let header = read_header(from, max)?;
    read_body(from, header, tags)
}

/// Reads the header of a frame of at most `max` bytes.
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

/// Reads the frame after its header.
pub fn read_body(from: &mut dyn Read, Header { len, sum }: Header, tags: &mut FrameTags) -> Result<Frame, WireError> {
    // Grows with what really arrives, so a lying header costs nothing.
    let whole = len + tags.tag_bytes();
    let mut bytes = Vec::with_capacity(whole.min(64 << 10));
    from.take(whole as u64).read_to_end(&mut bytes)?;
    if bytes.len() < whole {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let (body, tag) = bytes.split_at(len);
    if crc32fast::hash(body) != sum {
        return Err(WireError::Checksum);
    }
    if !tags.is_next(body, tag) {
        return Err(WireError::Tag);
    }
    decode_body(body)
}

/// Drops the frame after its header as it arrives, without using memory for it.
pub fn skip_body(from: &mut dyn Read, header: Header, tags: &mut FrameTags) -> Result<(), WireError> {
    let whole = (header.len + tags.tag_bytes()) as u64;
    if io::copy(&mut from.take(whole), &mut io::sink())? < whole {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    tags.skip();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn sample() -> Frame {
        Frame::Welcome {
            who: Identity { id: NodeId(3), uuid: Uuid::from_u128(7) },
            cluster: Some(Uuid::from_u128(9)),
            remembered: Default::default(),
            datagrams: None,
        }
    }

    #[test]
    fn a_frame_survives_the_trip() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(read_frame(&mut bytes.as_slice(), 1 << 10).unwrap(), sample());
    }

    #[test]
    fn a_frame_may_be_skipped() {
        let bytes = [encode(&sample()).unwrap(), encode(&sample()).unwrap()].concat();
        let mut from = bytes.as_slice();
        let header = read_header(&mut from, 1 << 10).unwrap();
        skip_body(&mut from, header, &mut FrameTags::default()).unwrap();
        assert_eq!(read_frame(&mut from, 1 << 10).unwrap(), sample());
        assert!(skip_body(&mut &bytes[..3], header, &mut FrameTags::default()).is_err());
    }

    #[test]
    fn a_socket_timeout_is_reported_as_such() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut silent = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        silent.set_read_timeout(Some(std::time::Duration::from_millis(1))).unwrap();
        assert_eq!(read_frame(&mut silent, 1 << 10).unwrap_err().to_string(), "timed out");
        let refused = WireError::from(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert_eq!(refused.to_string(), "connection refused");
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bytes = encode(&sample()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frame(&mut bad.as_slice(), 1 << 10).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn every_cut_is_refused() {
        let bytes = encode(&sample()).unwrap();
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

    #[test]
    fn a_frame_that_would_be_too_large_is_not_sent_and_costs_nothing_else() {
        let chunk = |len| Frame::SnapshotChunk { offset: 0, bytes: vec![0; len] };
        let mut bytes = b"before".to_vec();
        let sent = encode_onto(&mut bytes, &chunk(FRAME_BYTES_MAX), &mut FrameTags::default());
        assert!(matches!(sent, Err(WireError::TooLarge { .. })) && bytes == b"before");
        encode_onto(&mut bytes, &chunk(FRAME_BYTES_MAX - 8), &mut FrameTags::default()).unwrap();
    }
}

//! How long each phase of a connection may take, and writing by a deadline.
//!
//! Not here: reading (`conn.rs`).

use crate::limits;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The total time that each phase of a connection may take; shortened by tests.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head (or the start of the connection) to its end.
    pub head: Duration,
    /// A request body.
    pub body: Duration,
    /// A response, or one chunk of a stream.
    pub write: Duration,
    /// Between a response and the next head.
    pub idle: Duration,
    /// After the last response, for a client that still sends.
    pub linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            head: limits::HTTP_HEAD_DEADLINE,
            body: limits::HTTP_BODY_DEADLINE,
            write: limits::HTTP_WRITE_DEADLINE,
            idle: limits::HTTP_IDLE_DEADLINE,
            linger: Duration::from_millis(500),
        }
    }
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Writes everything by the deadline; the socket's send timeout bounds each call. Shortens that timeout when a call
/// returns early with less than requested, so a caller that continues to use the socket must set it again.
pub(super) fn write_until(stream: &TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    let mut is_first = true;
    while !bytes.is_empty() {
        if !is_first {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        }
        match (&*stream).write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        is_first = false;
    }
    Ok(())
}

//! How long each phase of a connection may take. A large body or answer has no deadline of its own: it must make
//! progress.
//!
//! Invariant: D1 a client that moves less than [`limits::HTTP_RATE_MIN`] on average over a window is dropped, however
//! it spreads its bytes (slowloris, slow read).
//! Not here: reading (`conn.rs`).

use crate::limits;
use crate::settings::Settings;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest time that a blocked write sleeps. The system wakes it when a third of its buffer is free, which a slow reader
/// may need minutes for; a new call takes whatever is free.
const WRITE_SLICE: Duration = Duration::from_millis(500);

/// The time that each phase of a connection may take; shortened by tests.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the first byte of a head (or the start of the connection) to its end.
    pub head: Duration,
    /// Window in which a request body must make progress.
    pub body: Duration,
    /// Window in which a response, or one chunk of a stream, must make progress.
    pub write: Duration,
    /// Between a response and the next head.
    pub idle: Duration,
    /// After the last response, for a client that still sends.
    pub linger: Duration,
    /// Of that, without a byte.
    pub linger_silence: Duration,
}

impl Deadlines {
    pub fn of(settings: &Settings) -> Deadlines {
        Deadlines {
            head: limits::HTTP_HEAD_DEADLINE,
            body: limits::HTTP_BODY_WINDOW,
            write: limits::HTTP_WRITE_WINDOW,
            idle: Duration::from_millis(settings.http_keep_alive_ms),
            linger: limits::HTTP_LINGER_MAX,
            linger_silence: limits::HTTP_LINGER_SILENCE_MAX,
        }
    }

    /// None is longer than this.
    pub(super) fn at_most(self, longest: Duration) -> Deadlines {
        Deadlines {
            head: self.head.min(longest),
            body: self.body.min(longest),
            write: self.write.min(longest),
            idle: self.idle.min(longest),
            linger: self.linger.min(longest),
            linger_silence: self.linger_silence.min(longest),
        }
    }

    /// The send timeout of the socket, for [`write_all`].
    pub(super) fn write_slice(&self) -> Duration {
        self.write.min(WRITE_SLICE)
    }
}

/// A transfer in one direction, which must move enough bytes in each window (D1).
#[derive(Debug)]
pub(super) struct TransferRate {
    window: Duration,
    /// End of the present window.
    until: Instant,
    /// Bytes that are missing in it.
    missing: usize,
}

impl TransferRate {
    pub(super) fn new(window: Duration) -> TransferRate {
        TransferRate { window, until: Instant::now() + window, missing: bytes_in(window) }
    }

    /// The present window's end: a transfer that has not moved enough by then is over.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    pub(super) fn moved(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes);
        if self.missing == 0 {
            *self = TransferRate::new(self.window);
        }
    }
}

/// The fewest bytes that a transfer moves in such a window.
fn bytes_in(window: Duration) -> usize {
    (limits::HTTP_RATE_MIN * window.as_millis() as usize / 1000).max(1)
}

pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Writes everything; the socket has the send timeout [`Deadlines::write_slice`].
///
/// # Errors
/// `TimedOut` without enough progress, else those of the socket.
pub(super) fn write_all(mut stream: &TcpStream, mut bytes: &[u8], progress: &mut TransferRate) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                progress.moved(written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) && Instant::now() < progress.until() => {}
            Err(error) => return Err(error),
        }
        if !bytes.is_empty() && Instant::now() >= progress.until() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::http::protocol::deadlines::*;

    #[test]
    fn enough_progress_moves_the_end_of_the_window() {
        let window = Duration::from_secs(10);
        let mut progress = TransferRate::new(window);
        let first = progress.until();
        progress.moved(bytes_in(window) - 1);
        assert_eq!((progress.until(), progress.missing), (first, 1));
        progress.moved(1);
        assert!(progress.until() >= first);
        assert_eq!(progress.missing, 80 << 10, "a new window begins");
    }
}

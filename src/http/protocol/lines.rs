//! Reading a stream of lines from a node, as another node and the command line do.
//!
//! The request is HTTP/1.0, so the body is not chunked and ends with the connection. A read timeout is not an error:
//! the caller may have something else to do meanwhile.
//! Not here: what the lines contain.

use super::deadlines::is_timeout;
use crate::address;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest line: a piece of output may be as long as the whole output, in base64.
const LINE_BYTES_MAX: usize = 16 << 20;

/// The result of one read.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// A line, without its line feed.
    Line(Vec<u8>),
    /// Nothing within the read timeout.
    Nothing,
    /// The other side has ended.
    End,
}

#[derive(Debug)]
pub struct Lines {
    from: BufReader<TcpStream>,
    /// The beginning of a line that is incomplete.
    begun: Vec<u8>,
}

impl Lines {
    /// Sends a GET and reads the head of the answer: the status, and the lines of the body. `authorization`: the
    /// value of that header.
    ///
    /// # Errors
    /// Nothing listens there, or no head comes within `within`.
    pub fn get(
        address: &str,
        path: &str,
        authorization: Option<&str>,
        within: Duration,
        read_timeout: Duration,
    ) -> io::Result<(u16, Lines)> {
        let until = Instant::now() + within;
        let mut stream = address::connect(address, within)?;
        stream.set_write_timeout(Some(within))?;
        stream.set_read_timeout(Some(read_timeout.min(within)))?;
        let authorization = authorization.map(|it| format!("Authorization: {it}\r\n")).unwrap_or_default();
        // In one piece: the kernel would hold back a second one until the first is acknowledged.
        let head = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{authorization}\r\n");
        stream.write_all(head.as_bytes())?;
        let mut lines = Lines { from: BufReader::new(stream), begun: Vec::new() };
        let mut status = None;
        loop {
            match lines.next()? {
                Next::Line(line) if line == b"\r" => {
                    lines.from.get_ref().set_read_timeout(Some(read_timeout))?;
                    return Ok((status.ok_or(io::ErrorKind::InvalidData)?, lines));
                }
                Next::Line(line) if status.is_none() => {
                    let text = String::from_utf8_lossy(&line);
                    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok());
                    status = Some(code.ok_or(io::ErrorKind::InvalidData)?);
                }
                Next::Line(_) => {}
                Next::Nothing if Instant::now() < until => {}
                Next::Nothing => return Err(io::ErrorKind::TimedOut.into()),
                Next::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// The next line, if it arrives within the read timeout.
    ///
    /// # Errors
    /// The connection broke, or a line is longer than any that a node sends.
    pub fn next(&mut self) -> io::Result<Next> {
        loop {
            let buffer = match self.from.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if is_timeout(&e) => return Ok(Next::Nothing),
                buffer => buffer?,
            };
            if buffer.is_empty() {
                return Ok(Next::End);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffer.len(), |at| at + 1);
            self.begun.extend_from_slice(&buffer[..end.unwrap_or(used)]);
            self.from.consume(used);
            if self.begun.len() > LINE_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if end.is_some() {
                return Ok(Next::Line(std::mem::take(&mut self.begun)));
            }
        }
    }
}

//! Output of the programs on this node, while they run.
//!
//! An attempt's output is kept here from its first byte until its end is in the log, which then has all of it. Readers
//! wait for more output. A reader that holds an output can read it to the end, also if the attempt is forgotten
//! meanwhile.
//! Not here: the programs (`work/`), sending output to clients (`http/api/job_output.rs`).

use crate::lock::{Mutex, lock, wait_while};
use crate::services::jobs::JobId;
pub use crate::work::monitor::OutputStream;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar};
use std::time::Instant;

/// Bytes of one piece: each reader has one in memory while its client takes it.
pub const PIECE_BYTES_MAX: usize = 32 << 10;

/// The first piece of some output. It does not end within a character of UTF-8.
pub fn first_piece(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= PIECE_BYTES_MAX {
        return bytes;
    }
    let is_inside = |at: usize| bytes[at] & 0xC0 == 0x80;
    let end = (PIECE_BYTES_MAX - 3..=PIECE_BYTES_MAX).rev().find(|at| !is_inside(*at));
    &bytes[..end.unwrap_or(PIECE_BYTES_MAX)]
}

/// A piece of output and its stream.
pub type Piece = (OutputStream, Vec<u8>);

#[derive(Debug, Default)]
struct Printed {
    bytes: Vec<u8>,
    /// Where each run of bytes of one stream ends.
    runs: Vec<(OutputStream, usize)>,
    is_over: bool,
}

/// The output of one attempt so far. It is as long as the attempt's limits let it be.
#[derive(Debug, Default)]
pub struct Output {
    said: Mutex<Printed>,
    changed: Condvar,
}

impl Output {
    /// Adds bytes that the program has printed.
    pub fn append(&self, from: OutputStream, bytes: &[u8]) {
        let mut said = lock(&self.said);
        said.bytes.extend_from_slice(bytes);
        let end = said.bytes.len();
        match said.runs.last_mut() {
            Some((stream, until)) if *stream == from => *until = end,
            _ => said.runs.push((from, end)),
        }
        self.changed.notify_all();
    }

    /// The program prints nothing more.
    pub fn end(&self) {
        lock(&self.said).is_over = true;
        self.changed.notify_all();
    }

    /// Bytes printed so far.
    pub fn bytes(&self) -> usize {
        lock(&self.said).bytes.len()
    }

    /// What was printed after the first `seen` bytes, at most [`PIECE_BYTES_MAX`] of one stream, and whether the output
    /// ends with it. Waits for more until the deadline.
    pub fn read(&self, seen: usize, deadline: Instant) -> (Option<Piece>, bool) {
        let has_no_more = |said: &mut Printed| said.bytes.len() <= seen && !said.is_over;
        let said = wait_while(&self.changed, lock(&self.said), deadline, has_no_more);
        let run = said.runs[said.runs.partition_point(|(_, end)| *end <= seen)..].first();
        let piece = run.map(|(stream, end)| (*stream, first_piece(&said.bytes[seen..*end]).to_vec()));
        let until = seen + piece.as_ref().map_or(0, |(_, bytes)| bytes.len());
        (piece, said.is_over && until == said.bytes.len())
    }
}

/// The output of every attempt on this node that is not in the log yet.
#[derive(Debug, Default)]
pub struct Live {
    outputs: Mutex<BTreeMap<(JobId, u32), Arc<Output>>>,
}

impl Live {
    pub fn begin(&self, job: JobId, attempt: u32) -> Arc<Output> {
        let output = Arc::<Output>::default();
        lock(&self.outputs).insert((job, attempt), Arc::clone(&output));
        output
    }

    /// Drops the output of an attempt: the log has it, or it is not needed any more.
    pub fn forget(&self, job: JobId, attempt: u32) {
        if let Some(output) = lock(&self.outputs).remove(&(job, attempt)) {
            output.end();
        }
    }

    pub fn find(&self, job: JobId, attempt: u32) -> Option<Arc<Output>> {
        lock(&self.outputs).get(&(job, attempt)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use crate::node::views::live_output::*;
    use std::time::Duration;

    #[test]
    fn readers_get_everything_once_and_in_order() {
        let (live, soon) = (Live::default(), || Instant::now() + Duration::from_millis(1));
        let output = live.begin(7, 1);
        output.append(OutputStream::Out, b"ab");
        output.append(OutputStream::Out, b"c");
        output.append(OutputStream::Err, b"d");
        let pieces = |seen| output.read(seen, soon());
        assert_eq!(pieces(0), (Some((OutputStream::Out, b"abc".to_vec())), false));
        assert_eq!(pieces(1), (Some((OutputStream::Out, b"bc".to_vec())), false));
        assert_eq!(pieces(3), (Some((OutputStream::Err, b"d".to_vec())), false));
        assert_eq!(pieces(4), (None, false), "the deadline");
        let reader = std::thread::spawn({
            let output = live.find(7, 1).unwrap();
            move || output.read(4, Instant::now() + Duration::from_secs(60))
        });
        live.forget(7, 1);
        assert_eq!(reader.join().unwrap(), (None, true));
        assert!(live.find(7, 1).is_none());
    }

    #[test]
    fn long_output_comes_in_pieces_of_whole_characters() {
        let said = "a€".repeat(50_000);
        let output = Output::default();
        output.append(OutputStream::Out, said.as_bytes());
        output.end();
        let mut read = String::new();
        loop {
            let (piece, is_over) = output.read(read.len(), Instant::now());
            let (_, bytes) = piece.unwrap();
            assert!(bytes.len() <= PIECE_BYTES_MAX, "{} bytes", bytes.len());
            read += &String::from_utf8(bytes).unwrap();
            assert_eq!(is_over, read.len() == said.len());
            if is_over {
                break;
            }
        }
        assert!(read == said);
        assert_eq!(first_piece(&[0x80; 1 << 20]).len(), PIECE_BYTES_MAX, "no text");
    }
}

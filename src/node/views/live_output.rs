//! What the programs on this node are saying, while they run.
//!
//! An attempt's output is kept here from its first word until its end is in the log, which then has all of it. Readers wait
//! for what comes next; a reader that came in time reads to the end, also when the attempt is forgotten meanwhile.
//! Not here: the programs (`work/`), whose output is shown to whom (`http/api/jobs.rs`).

use crate::node::shared::lock;
use crate::services::jobs::JobId;
pub use crate::work::run::Stream;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// A piece of output and where it was said.
pub type Piece = (Stream, Vec<u8>);

#[derive(Debug, Default)]
struct Said {
    bytes: Vec<u8>,
    /// Where each run of bytes of one stream ends.
    runs: Vec<(Stream, usize)>,
    is_over: bool,
}

/// The output of one attempt so far. It is as long as the attempt's limits let it be.
#[derive(Debug, Default)]
pub struct Output {
    said: Mutex<Said>,
    changed: Condvar,
}

impl Output {
    /// Adds what was said.
    pub fn say(&self, from: Stream, bytes: &[u8]) {
        let mut said = lock(&self.said);
        said.bytes.extend_from_slice(bytes);
        let end = said.bytes.len();
        match said.runs.last_mut() {
            Some((stream, until)) if *stream == from => *until = end,
            _ => said.runs.push((from, end)),
        }
        self.changed.notify_all();
    }

    /// Nothing more will be said.
    pub fn end(&self) {
        lock(&self.said).is_over = true;
        self.changed.notify_all();
    }

    /// What was said after the first `seen` bytes, and whether that is all there will be. Waits for more until the deadline.
    pub fn read(&self, seen: usize, deadline: Instant) -> (Vec<Piece>, bool) {
        let mut said = lock(&self.said);
        while said.bytes.len() <= seen && !said.is_over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            said = self.changed.wait_timeout(said, left).unwrap_or_else(|e| e.into_inner()).0;
        }
        let mut pieces = Vec::new();
        let mut from = seen;
        for (stream, end) in said.runs.iter().filter(|(_, end)| *end > seen) {
            pieces.push((*stream, said.bytes[from..*end].to_vec()));
            from = *end;
        }
        (pieces, said.is_over)
    }
}

/// The output of every attempt on this node that is not in the log yet.
#[derive(Debug, Default)]
pub struct Live {
    outputs: Mutex<BTreeMap<(JobId, u32), Arc<Output>>>,
}

impl Live {
    /// An attempt begins.
    pub fn begin(&self, job: JobId, attempt: u32) -> Arc<Output> {
        let output = Arc::<Output>::default();
        lock(&self.outputs).insert((job, attempt), Arc::clone(&output));
        output
    }

    /// The log has it, or nobody wants it any more.
    pub fn forget(&self, job: JobId, attempt: u32) {
        if let Some(output) = lock(&self.outputs).remove(&(job, attempt)) {
            output.end();
        }
    }

    /// The output of an attempt.
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
        output.say(Stream::Out, b"ab");
        output.say(Stream::Out, b"c");
        output.say(Stream::Err, b"d");
        let pieces = |seen| output.read(seen, soon());
        assert_eq!(pieces(0), (vec![(Stream::Out, b"abc".to_vec()), (Stream::Err, b"d".to_vec())], false));
        assert_eq!(pieces(1).0[0], (Stream::Out, b"bc".to_vec()));
        assert_eq!(pieces(4), (Vec::new(), false), "the deadline");
        let reader = std::thread::spawn({
            let output = live.find(7, 1).unwrap();
            move || output.read(4, Instant::now() + Duration::from_secs(60))
        });
        live.forget(7, 1);
        assert_eq!(reader.join().unwrap(), (Vec::new(), true));
        assert!(live.find(7, 1).is_none());
    }
}

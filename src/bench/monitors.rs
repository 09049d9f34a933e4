//! Many open monitor pages on one node: whether each receives its frames, and the memory that they need.
//!
//! One thread polls all sockets, which are non-blocking, so that the node under test gets the processor time.
//! Not here: what the pages show (`http/`, `static/`).

use crate::lab::web::Connection;
use crate::lab::{Cluster, LabError, Result, poll};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// Pause between two rounds over all connections.
const SWEEP_EVERY: Duration = Duration::from_millis(50);
/// Time for one page to open.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// The figures of one run, as the command line prints them.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Findings {
    /// Connections asked for.
    pub connections: usize,
    /// Connections that were still open at the end.
    pub held: usize,
    /// Resident memory of the node at the end, in MiB.
    pub resident_mib: f64,
    /// Longest time that any page received nothing, in milliseconds.
    pub longest_silence_ms: u64,
}

/// Opens `count` monitor pages on node `id` and reads them all for `span`.
///
/// # Errors
/// A page does not open, or the system refuses that many sockets.
pub fn hold(cluster: &mut Cluster, id: u64, count: usize, span: Duration) -> Result<Findings> {
    raise_file_limit();
    let address = cluster.http(id);
    let mut pages = Vec::with_capacity(count);
    for n in 0..count {
        let opened = (|| {
            let mut page = Connection::open(&address, OPEN_WITHIN)?;
            page.send("GET", "/", None)?;
            page.stream().set_nonblocking(true)?;
            Ok(page)
        })();
        pages.push(opened.map_err(LabError::io(format!("open monitor page {} of {count}", n + 1)))?);
        if n % 100 == 99 {
            // The node must accept in time: its backlog is finite.
            poll::pause(Duration::from_millis(5));
        }
    }
    let begun = Instant::now();
    let mut heard = vec![begun; count];
    let mut is_open = vec![true; count];
    let mut longest = Duration::ZERO;
    let mut piece = [0; 64 << 10];
    while begun.elapsed() < span {
        for (n, page) in pages.iter().enumerate().filter(|(n, _)| is_open[*n]).collect::<Vec<_>>() {
            let mut stream = page.stream();
            match stream.read(&mut piece) {
                Ok(0) => is_open[n] = false,
                Ok(_) => {
                    longest = longest.max(heard[n].elapsed());
                    heard[n] = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock || e.kind() == ErrorKind::Interrupted => {}
                Err(_) => is_open[n] = false,
            }
        }
        poll::pause(SWEEP_EVERY);
    }
    let held = is_open.iter().filter(|open| **open).count();
    let still = (0..count).filter(|n| is_open[*n]).map(|n| heard[n].elapsed()).max().unwrap_or(span);
    let resident = cluster.process(id)?.resident_kib().unwrap_or(0);
    Ok(Findings {
        connections: count,
        held,
        resident_mib: (resident as f64 / 102.4).round() / 10.0,
        longest_silence_ms: u64::try_from(longest.max(still).as_millis()).unwrap_or(u64::MAX),
    })
}

/// Raises the limit of open files to the hard limit: thousands of sockets need more than many systems allow by default.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, opening the sockets fails with a clear error.
    let _ = setrlimit(Resource::Nofile, limit);
}

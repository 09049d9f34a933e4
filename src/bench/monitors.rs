//! Many monitor pages on one node: all held open, each one heard from, and what that costs in memory.
//!
//! One thread holds every socket, non-blocking, and sweeps over them; the node under test is what should be busy.
//! Not here: what the pages show (`http/`, `static/`).

use crate::lab::web::Connection;
use crate::lab::{Cluster, LabError, Result, poll};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// Between two sweeps over all connections.
const SWEEP_EVERY: Duration = Duration::from_millis(50);
/// Time for one page to open.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// What holding many pages showed.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Findings {
    /// Connections asked for.
    pub connections: usize,
    /// Connections that were still open at the end.
    pub held: usize,
    /// Resident memory of the node at the end, in MiB.
    pub resident_mib: f64,
    /// Longest time that any page heard nothing, in milliseconds.
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
            poll::pause(Duration::from_millis(5)); // lets the node accept: its backlog is finite
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

/// Thousands of sockets need more files than many systems allow at first; the hard limit is the most one may take.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit); // when refused, opening the sockets says what is missing
}

//! The jobs' part of a snapshot: counts, then one record for each worker and job, so that writing and reading are
//! streams.
//!
//! Numbers are little-endian `u64`. Head: newest number, newest turn, number of workers, number of jobs. Then for each
//! worker and then for each job, in order, the length of its record and the record (postcard); a job's has its number
//! in front. Everything that is derived from the jobs is not saved. Not here: the framing and its version
//! (`services/snapshot_format.rs`).

use super::commands::{Job, JobId, State, Worker};
use super::state::JobTable;
use crate::services::snapshot_format::{bad, put_numbers, put_record, take_numbers, take_record};
use imbl::OrdMap;
use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};

/// Size of the buffer for reading and writing.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes the whole table.
pub fn write(table: &JobTable, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let (jobs, workers, newest, turn) = table.parts();
    put_numbers(&mut out, [newest, turn, workers.len() as u64, jobs.len() as u64])?;
    let mut buffer = Vec::new();
    for worker in workers.values() {
        put_record(&mut out, &mut buffer, worker)?;
    }
    for row in jobs {
        put_record(&mut out, &mut buffer, &row)?;
    }
    out.flush()
}

/// Reads a table that [`write`] wrote.
///
/// # Errors
/// Returns the error of `from`, or an error of kind `InvalidData`.
pub fn read(from: &mut dyn Read) -> io::Result<JobTable> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    let [newest, turn, workers_len, jobs_len] = take_numbers(&mut from)?;
    let mut buffer = Vec::new();
    let (mut workers, mut jobs) = (BTreeMap::new(), OrdMap::new());
    for _ in 0..workers_len {
        let worker: Worker = take_record(&mut from, &mut buffer)?;
        workers.insert(worker.who.id, worker);
    }
    let mut held = 0;
    for _ in 0..jobs_len {
        let (id, job): (JobId, Job) = take_record(&mut from, &mut buffer)?;
        if let State::Assigned { worker, .. } = &job.state {
            let is_held = workers.get(&worker.id).is_some_and(|holder| holder.running.contains(&id));
            if !is_held {
                return Err(bad("a job of a worker that does not have it"));
            }
            held += 1;
        }
        if id > newest || jobs.insert(id, job).is_some() {
            return Err(bad("a job's number is not its own"));
        }
    }
    if workers.values().map(|worker| worker.running.len()).sum::<usize>() != held {
        return Err(bad("a worker has a job that is not its own"));
    }
    Ok(JobTable::of(jobs, workers, newest, turn))
}

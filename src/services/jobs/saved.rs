//! The jobs in a snapshot: counts, then one record for each worker and job, so that writer and reader stream.
//!
//! Numbers are little-endian `u64`. Head: newest number, newest turn, number of workers, number of jobs. Then for each worker
//! and then for each job, in order, the length of its record and the record (postcard); a job's has its number in front.
//! Memory grows with the bytes that are there, not with what a length says. What follows from the jobs is not saved.
//! Not here: the frame around it and its version (`services/parts.rs`).

use super::board::Board;
use super::words::{Job, JobId, State, Worker};
use crate::services::parts::bad;
use imbl::OrdMap;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};

/// Bytes gathered before the writer or reader below is troubled.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes the whole board.
pub fn write(board: &Board, out: &mut dyn Write) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let (jobs, workers, newest, turn) = board.parts();
    for number in [newest, turn, workers.len() as u64, jobs.len() as u64] {
        out.write_all(&number.to_le_bytes())?;
    }
    for worker in workers.values() {
        put(&mut out, worker)?;
    }
    for row in jobs {
        put(&mut out, &row)?;
    }
    out.flush()
}

/// Reads what [`write`] wrote.
pub fn read(from: &mut dyn Read) -> io::Result<Board> {
    let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
    let (newest, turn) = (take_number(&mut from)?, take_number(&mut from)?);
    let (workers_len, jobs_len) = (take_number(&mut from)?, take_number(&mut from)?);
    let (mut workers, mut jobs) = (BTreeMap::new(), OrdMap::new());
    for _ in 0..workers_len {
        let worker: Worker = take(&mut from)?;
        workers.insert(worker.who.id, worker);
    }
    let mut held = 0;
    for _ in 0..jobs_len {
        let (id, job): (JobId, Job) = take(&mut from)?;
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
    Ok(Board::of(jobs, workers, newest, turn))
}

fn put(out: &mut impl Write, row: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_stdvec(row).map_err(io::Error::other)?;
    out.write_all(&(bytes.len() as u64).to_le_bytes())?;
    out.write_all(&bytes)
}

fn take_number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn take<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let len = take_number(from)?;
    let mut bytes = Vec::new();
    if from.take(len).read_to_end(&mut bytes)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&bytes).map_err(io::Error::other)
}

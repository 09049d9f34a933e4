//! The digest of a node's services' state at a checkpoint, taken from a copy at a bounded rate.
//!
//! Not here: when one is taken and what follows from it (`checkpoints.rs`), what is in it (`services/digests.rs`).

use crate::lock::{Mutex, lock};
use crate::node::shared::Shared;
use crate::services::Replicated;
use crate::services::registry::Registry;
use crate::services::sql::Database;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// After each piece a digest pauses so many times as long as the piece took, and no longer than [`REST_MAX`].
const REST_TIMES: u32 = 4;
const REST_MAX: Duration = Duration::from_millis(50);
/// The digest of a database that took longer than this is reported again while no entry changes the database.
const SLOW_SQL: Duration = Duration::from_secs(2);
/// After this time it is computed again: a disk may change the database, too.
const SLOW_SQL_KEPT: Duration = Duration::from_secs(600);

/// The digest of a large database.
#[derive(Clone, Copy, Debug)]
pub struct SlowDigest {
    epoch: u64,
    newest: u64,
    at: Instant,
    digest: u64,
}

/// Body of the thread that takes a digest.
pub fn take(shared: &Shared, registry: &Registry, epoch: u64, slow_sql: &Mutex<Option<SlowDigest>>) {
    let begun = Instant::now();
    let newest = registry.sql().newest();
    let known =
        lock(slow_sql).filter(|slow| (slow.epoch, slow.newest) == (epoch, newest) && slow.at.elapsed() < SLOW_SQL_KEPT);
    let known: Vec<(u8, u64)> = known.map(|slow| (Database::ID, slow.digest)).into_iter().collect();
    let mut resumed = Instant::now();
    let mut rest = || {
        std::thread::sleep((resumed.elapsed() * REST_TIMES).min(REST_MAX));
        resumed = Instant::now();
    };
    let digest = registry.state_digest(&known, &mut rest);
    let took = begun.elapsed();
    if known.is_empty() && took >= SLOW_SQL {
        let sql = digest.parts.iter().find(|(number, _)| *number == Database::ID);
        *lock(slow_sql) = sql.map(|(_, digest)| SlowDigest { epoch, newest, at: begun, digest: *digest });
    }
    shared.integrity.digests.fetch_add(1, Ordering::Relaxed);
    shared.integrity.digest_us.store(took.as_micros() as u64, Ordering::Relaxed);
    log::debug!("digest index={} ms={}", digest.index, took.as_millis());
    shared.integrity.add_digest(epoch, digest);
    shared.inboxes.wake_checkpoints();
}
